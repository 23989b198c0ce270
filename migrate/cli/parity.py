"""`migrate parity BUNDLE --source URL --target URL`: does it answer the same?"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from migrate.cli.output import check_file, console, print_json, say

if TYPE_CHECKING:
    from migrate.parity.report import LayerReport


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A directory written by `migrate convert`.")],
    source: Annotated[
        str, typer.Option("--source", metavar="URL", help="The Ollama server, or llama.cpp's on the same GGUF.")
    ],
    target: Annotated[str, typer.Option("--target", metavar="URL", help="The vLLM server on the bundle.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name in Ollama (default: as converted).")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Run the later layers too when one has failed.")
    ] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="For one request.")] = 120,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the report (JSON) there too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Compare two running servers: prompt, token ids, log-probabilities, greedy text.

    Ends with 0 (pass), 1 (fail) or 4 (inconclusive: a server did not answer).
    """
    from migrate.bundle import format as bundle_format
    from migrate.engines import connect
    from migrate.engines.vllm import VllmEngine
    from migrate.parity.report import render_terminal, write_json
    from migrate.parity.run import run

    manifest = bundle_format.read(bundle)
    check_file(output, force=force)
    with (
        closing(connect.source(source, model=model or manifest.source.name, timeout=timeout)) as ours,
        closing(VllmEngine(target, model=manifest.target.served_model_name[0], timeout=timeout)) as theirs,
    ):
        report = run(bundle, ours, theirs, keep_going=keep_going, progress=_layer_done)
    if output is not None:
        write_json(report, output)
        say(f"report: {output}")
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        console().print(render_terminal(report))
    raise typer.Exit(report.exit_code)


def _layer_done(layer: LayerReport) -> None:
    say(f"{layer.name.value}: {layer.status} ({layer.seconds:.1f} s)")
