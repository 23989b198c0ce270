"""`migrate parity BUNDLE --source URL --target URL`: does it answer the same? With the verbs that belong to it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from migrate.cli import options, record, show, throughput
from migrate.cli.output import check_file, console, hint, print_json, say
from migrate.cli.parity_variants import EVERY, compare_all, name_the_others
from migrate.errors import MigrateError, OutputExists, UsageError

if TYPE_CHECKING:
    from migrate.engines.base import Engine
    from migrate.engines.vllm import VllmEngine
    from migrate.parity.facts import Bundle
    from migrate.parity.report import LayerName, LayerReport, ParityReport, ThroughputReport
    from migrate.parity.run import Asked, Watch
    from migrate.parity.throughput import Plan

COMPARE = "compare"
FORMATS = (".json", ".html", ".md", ".xml")
JOURNAL = "journal.jsonl"


class _Verbs(TyperGroup):
    """`migrate parity BUNDLE` compares; only the names of the other verbs mean something else (a directory of such a
    name is `./record`)."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [COMPARE, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == COMPARE else name), command, rest


class _Context(TyperCommand.context_class):  # type: ignore[valid-type,misc]
    """The comparison has no name of its own in usage lines."""

    @property
    def command_path(self) -> str:
        return str(super().command_path).rstrip()


class _Compare(TyperCommand):
    context_class = _Context


app = typer.Typer(cls=_Verbs, rich_markup_mode=None, help="Does it answer the same? Compares two servers.")


@app.command(
    COMPARE,
    cls=_Compare,
    epilog="Other verbs: migrate parity record (keep what clients ask), migrate parity throughput (speed alone), "
    "migrate parity show (a report again).",
)
def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A directory written by `migrate convert`.")],
    source: Annotated[
        str,
        typer.Option("--source", metavar="URL", help="Ollama, llama.cpp's server on the same GGUF, or a vLLM."),
    ],
    target: Annotated[str, typer.Option("--target", metavar="URL", help="The vLLM server on the bundle.")],
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="URL", help="A server on the weights in full precision: which is nearer?"),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The model's name in Ollama (default: as converted).")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", metavar="NAME|all", help="Of a bundle of several: which one (default: the first), or all."
        ),
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option("--requests", metavar="PATH", help="Your own requests: JSONL, or Ollama's request logs."),
    ] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, metavar="N", help="Only N of them.")] = None,
    redact: Annotated[bool, typer.Option("--redact", help="Replace personal data in them first.")] = False,
    tasks: Annotated[
        Path | None, typer.Option("--tasks", metavar="FILE", help="Questions with expected answers (JSONL).")
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", min=0.0001, max=0.5, help="Loss of accuracy on them that is no loss.")
    ] = 0.02,
    samples: Annotated[
        int, typer.Option("--samples", min=0, max=200, metavar="N", help="Compare N sampled answers, too.")
    ] = 0,
    layers: Annotated[
        str | None, typer.Option("--layers", metavar="A,B", help="Only these layers, and what they build on.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, max=256, metavar="N", help="Requests at a time to each server.")
    ] = 1,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=4096, metavar="N", help="Length of the compared answers.")
    ] = 48,
    speed: Annotated[bool, typer.Option("--throughput", help="Measure speed side by side, too.")] = False,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="N/min", help="With --throughput: the requests it has to bear.")
    ] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="ttft=..,itl=..", help="With --throughput: how fast is fast enough.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of samples, of the order, of sampled answers.")] = 1,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Run the later layers too when one has failed.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, metavar="SECONDS", help="For one request.")] = 120,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Directory for the reports, or one file (default: BUNDLE/proof/...)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing reports.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compare two running servers, cheapest layer first: files, prompt, token ids, the servers' own noise,
    log-probabilities, greedy text, behaviours; sampled text, your tasks and throughput where they are asked for.

    Ends with 0 (pass), 1 (fail) or 4 (inconclusive: a server failed, or there was too little to decide).
    """
    from migrate.parity.case import Settings
    from migrate.parity.facts import read_bundle
    from migrate.parity.run import run

    if variant == EVERY:
        chosen = Settings(max_tokens=max_tokens, concurrency=concurrency, seed=seed)
        proof = _Output.of(bundle, output, force=force)
        if proof.file is not None:
            raise UsageError(f"--variant {EVERY} writes a report for each: -o is a directory")

        def connect(name: str, served: str) -> Any:
            return _engines(name, served, source, target, None, timeout)

        wanted = _layers(layers) if layers else None
        code = compare_all(bundle, connect, proof.directory, layers=wanted, settings=chosen, as_json=as_json)
        raise typer.Exit(code)
    opened = read_bundle(bundle, variant)
    facts = opened.facts
    name_the_others(opened, variant)
    wanted = _layers(layers)
    out = _Output.of(bundle, output, force=force)
    if (rate or slo) and not speed:
        raise UsageError("--rate and --slo are about --throughput, which is not given")
    load = _plan(rate, slo, seed=seed, timeout=timeout) if speed else None
    settings = Settings(max_tokens=max_tokens, concurrency=concurrency, samples=samples, seed=seed, margin=margin)
    asked = _asked(opened, requests, tasks, model=model, sample=sample, seed=seed, redact=redact)
    served = next(iter(facts.target.served_model_name), None)
    with _engines(model or facts.source.name, served, source, target, reference, timeout) as (ours, theirs, third):
        try:
            with _watch() as watch:
                report = run(
                    bundle,
                    ours,
                    theirs,
                    layers=wanted,
                    asked=asked,
                    settings=settings,
                    reference=third,
                    journal=out.journal,
                    resume=resume,
                    keep_going=keep_going,
                    watch=watch,
                    variant=variant,
                )
        except MigrateError:
            _tell_journal(out.journal)
            raise
        if load is not None and report.verdict.value != "fail":
            report.throughput = _throughput(bundle, ours, theirs, asked, load)
    _deliver(report, out, as_json=as_json)
    raise typer.Exit(report.exit_code)


app.command("record", short_help="Keep what clients ask a live Ollama.")(record.command)
app.command("throughput", short_help="Only the speed of two servers.")(throughput.command)
app.command("show", short_help="A report.json as text, HTML, Markdown or JUnit.")(show.command)


@dataclass(frozen=True, slots=True)
class _Output:
    """`directory` for all formats, or `file` for one; None for both when nothing can be written."""

    directory: Path | None
    file: Path | None
    journal: Path | None

    @classmethod
    def of(cls, bundle: Path, output: Path | None, *, force: bool) -> _Output:
        """Before any work: may it be written? Raises OutputExists and UsageError."""
        if output is None:
            return cls._default(bundle)
        if output.suffix in FORMATS:
            check_file(output, force=force)
            return cls(None, output, output.with_name(output.name + "." + JOURNAL))
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file", hint="name a directory, or a file *.json, *.html, *.md or *.xml")
        if (output / "report.json").exists() and not force:
            raise OutputExists(f"{output} holds a report", hint="pass --force to replace it")
        _make(output)
        return cls(output, None, output / JOURNAL)

    @classmethod
    def _default(cls, bundle: Path) -> _Output:
        """A new directory in the bundle's proof/ for every run; the journal beside them, where --resume finds it."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        try:
            _make(bundle / "proof")
        except UsageError as error:
            say(f"note: no report will be kept: {error}")
            return cls(None, None, None)
        return cls(bundle / "proof" / now, None, bundle / "proof" / JOURNAL)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made: {error.strerror}") from None


def _layers(names: str | None) -> tuple[LayerName, ...]:
    from migrate.parity.report import LayerName

    if names is None:
        return tuple(LayerName)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in list(LayerName)]
    if unknown or not wanted:
        raise UsageError(
            f"no layer is called {', '.join(map(repr, unknown)) or repr(names)}",
            hint=f"layers: {', '.join(LayerName)}",
        )
    return tuple(LayerName(name) for name in wanted)


def _asked(
    bundle: Bundle,
    requests: Path | None,
    tasks: Path | None,
    *,
    model: str | None,
    sample: int | None,
    seed: int,
    redact: bool,
) -> Asked:
    from migrate.parity.run import Asked
    from migrate.parity.tasks import read_tasks

    questions = read_tasks(tasks) if tasks is not None else ()
    if requests is None:
        if sample is not None or redact:
            raise UsageError("--sample and --redact are about --requests, which is not given")
        return Asked(tasks=questions)
    from migrate.parity.clients import ClientRequest
    from migrate.parity.traffic.read import read_requests
    from migrate.parity.traffic.redact import Redactor

    batch = read_requests(
        requests,
        facts=bundle.facts,
        model=model,
        embedding=bundle.is_embedding,
        sample_size=sample,
        seed=seed,
        redactor=Redactor() if redact else None,
    )
    say(f"{batch.traffic.used} of {batch.traffic.read} requests in {batch.traffic.origin} are compared")
    seen = tuple(ClientRequest(r.endpoint, dict(r.body)) for r in batch.seen for _ in range(r.count))
    return Asked(batch.conversations, questions, batch.texts, seen, batch.traffic)


@contextmanager
def _engines(
    model: str, served: str | None, source: str, target: str, reference: str | None, timeout: float
) -> Iterator[tuple[Engine, VllmEngine, Engine | None]]:
    from migrate.engines import connect
    from migrate.engines.vllm import VllmEngine

    with ExitStack() as stack:
        ours = stack.enter_context(closing(connect.any_server(source, model=model, timeout=timeout)))
        theirs = stack.enter_context(closing(VllmEngine(target, model=served, timeout=timeout)))
        third = None
        if reference is not None:
            third = stack.enter_context(closing(connect.any_server(reference, model=model, timeout=timeout)))
            if not third.capabilities.score:
                raise UsageError(
                    f"--reference {reference}: {third.kind} tells no log-probabilities of given tokens",
                    hint="serve the full-precision weights with vLLM or llama.cpp",
                )
        yield ours, theirs, third


@contextmanager
def _watch() -> Iterator[Watch]:
    """A line per layer on stderr, and a bar while it runs where a person looks on."""
    from migrate.parity.run import Watch

    def end(layer: LayerReport) -> None:
        say(f"{layer.name.value}: {layer.status} ({layer.seconds:.1f} s)")

    screen = console(stderr=True)
    if not screen.is_terminal:
        yield Watch(end=end)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task("", total=None)

        def begin(name: LayerName) -> None:
            progress.reset(bar, description=name.value, total=None)

        yield Watch(begin, lambda done, total: progress.update(bar, completed=done, total=total), end)


def _plan(rate: str | None, slo: str | None, *, seed: int, timeout: float) -> Plan:
    from migrate.parity.throughput import Plan, Slo
    from migrate.parity.throughput.plan import parse_rate

    return Plan(
        request_rate=parse_rate(rate) if rate is not None else None,
        slo=Slo.parse(slo) if slo is not None else Slo(),
        seed=seed,
        request_timeout=timeout,
    )


def _throughput(bundle: Path, ours: Engine, theirs: VllmEngine, asked: Asked, plan: Plan) -> ThroughputReport:
    from migrate.parity.throughput import measure

    with throughput.live() as progress:
        return measure(bundle, ours, theirs, plan=plan, conversations=asked.conversations or (), progress=progress)


def _tell_journal(journal: Path | None) -> None:
    if journal is not None and journal.exists():
        say(f"what was answered so far is in {journal}: go on with the same command and --resume")


def _deliver(report: ParityReport, out: _Output, *, as_json: bool) -> None:
    from migrate.parity.render.terminal import render_terminal

    written = _write(report, out)
    if not report.complete:
        _tell_journal(out.journal)
    elif out.journal is not None:
        out.journal.unlink(missing_ok=True)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        console().print(render_terminal(report))
    for path in written:
        say(f"report: {path}")
    if report.exit_code == 0 and not report.throughput:
        hint("migrate parity throughput BUNDLE --source URL --target URL (is it faster, too?)")


def _write(report: ParityReport, out: _Output) -> list[Path]:
    from migrate.parity.render import write_all, write_one

    if out.file is not None:
        write_one(report, out.file)
        return [out.file]
    if out.directory is None:
        return []
    paths = write_all(report, out.directory)
    return [path for path in paths if path.suffix == ".html"] or paths
