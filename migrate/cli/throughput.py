"""`migrate parity throughput BUNDLE --source URL --target URL`: is it faster, and does it carry the load?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate.cli.output import check_file, console, print_json, say
from migrate.errors import UsageError

if TYPE_CHECKING:
    from migrate.parity.throughput.measure import Progress
    from migrate.parity.throughput.plan import Plan


CONCURRENCY = "1,2,4,8"


class Tool(StrEnum):
    AIPERF = "aiperf"
    VLLM = "vllm"


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A directory written by `migrate convert`.")],
    source: Annotated[
        str, typer.Option("--source", metavar="URL", help="The Ollama server, or llama.cpp's on the same GGUF.")
    ],
    target: Annotated[str, typer.Option("--target", metavar="URL", help="The vLLM server on the bundle.")],
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name in Ollama (default: as converted).")
    ] = None,
    concurrency: Annotated[
        str, typer.Option("--concurrency", metavar="LIST", help="Requests at a time; 1 is always measured.")
    ] = CONCURRENCY,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="RATE", help="Also requests at random moments: 500/min or 8/s.")
    ] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="LIMITS", help="The service level: ttft=500ms,itl=50ms,e2e=10s.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=2, metavar="N", help="Measured in each run.")] = 32,
    repeats: Annotated[int, typer.Option("--repeats", min=1, metavar="N", help="Runs for each side and load.")] = 3,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", min=1, metavar="N", help="Synthetic prompts of this length.")
    ] = None,
    output_tokens: Annotated[int, typer.Option("--output-tokens", min=2, metavar="N", help="Of each answer.")] = 128,
    tool: Annotated[
        Tool, typer.Option("--tool", help="The load generator: aiperf (installed on first use), vllm bench serve.")
    ] = Tool.AIPERF,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the prompts, the order and the arrivals.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="For one request.")] = 120,
    run_seconds: Annotated[
        float, typer.Option("--run-seconds", min=1, metavar="SECONDS", help="A run sends nothing after this.")
    ] = 120,
    total_seconds: Annotated[
        float, typer.Option("--total-seconds", min=1, metavar="SECONDS", help="No run begins after this.")
    ] = 3600,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the report (JSON) there too.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure both servers with the same work, one at a time: times, tokens and requests, and their ratio.

    Ends with 0 (measured, and --rate reached), 1 (--rate not reached) or 4 (a server or the load generator failed).
    """
    from migrate.bundle import format as bundle_format
    from migrate.engines import connect
    from migrate.engines.vllm import VllmEngine
    from migrate.parity.throughput import measure
    from migrate.parity.throughput.terminal import render_terminal

    plan = plan_of(
        concurrency=concurrency,
        rate=rate,
        slo=slo,
        seed=seed,
        timeout=timeout,
        requests=requests,
        repeats=repeats,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        tool=tool.value,
        run_seconds=run_seconds,
        total_seconds=total_seconds,
    )
    manifest = bundle_format.read(bundle)
    check_file(output, force=force)
    with (
        closing(connect.source(source, model=model or manifest.source.name, timeout=timeout)) as ours,
        closing(VllmEngine(target, model=manifest.target.served_model_name[0], timeout=timeout)) as theirs,
        live() as progress,
    ):
        report = measure(bundle, ours, theirs, plan=plan, progress=progress)
    if output is not None:
        part = output.with_name(output.name + ".part")
        part.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(output)
        say(f"report: {output}")
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        console().print(render_terminal(report))
    raise typer.Exit(4 if report.errors else 1 if report.goal and not report.goal.reached else 0)


def plan_of(
    *,
    concurrency: str = CONCURRENCY,
    rate: str | None = None,
    slo: str | None = None,
    seed: int = 1,
    timeout: float = 120.0,
    **more: Any,
) -> Plan:
    """The plan that options mean; `more` are its other fields. Raises UsageError."""
    from pydantic import ValidationError

    from migrate.parity.throughput.plan import Plan, Slo, parse_concurrency, parse_rate

    try:
        return Plan(
            concurrency=parse_concurrency(concurrency),
            request_rate=None if rate is None else parse_rate(rate),
            slo=Slo() if slo is None else Slo.parse(slo),
            seed=seed,
            request_timeout=timeout,
            **more,
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "plan"
        raise UsageError(f"--{name}: {first['msg']}") from None


@contextmanager
def live() -> Iterator[Callable[[Progress], None]]:
    """A bar that says which run is under way; a line for each run where nobody looks on."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("the load generator starts", total=None)

        def told(at: Progress) -> None:
            done = at.run - 1 + (min(at.done, at.wanted) / at.wanted if at.wanted else 0)
            bar.update(task, description=str(at), completed=done, total=at.runs)

        yield told


class _Lines:
    def __init__(self) -> None:
        self._run = 0

    def __call__(self, at: Progress) -> None:
        if at.run != self._run:
            self._run = at.run
            say(f"run {at.run} of {at.runs}: {at.slot.side}, {at.slot.point}")
