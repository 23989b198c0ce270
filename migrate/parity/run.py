"""One parity run: layer after layer, stopping at the first that explains the rest."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate import __version__
from migrate.engines.base import Conversation, Engine
from migrate.errors import EngineError
from migrate.parity import (
    artefact,
    behaviours,
    clients,
    deviations,
    embeddings,
    logprobs,
    noise,
    outputs,
    prompts,
    sampled,
    tasks,
    tokens,
)
from migrate.parity import battery as built_in
from migrate.parity.case import Case, Run, Settings
from migrate.parity.facts import Bundle, read_bundle
from migrate.parity.report import LayerName, LayerReport, ParityReport, Traffic, Verdict
from migrate.parity.statistics import stats
from migrate.parity.vocabulary import read_vocabulary
from migrate.parity.witness import Journal, Witness, describe

LAYERS: dict[LayerName, Callable[[Run], LayerReport]] = {
    LayerName.ARTEFACT: artefact.check,
    LayerName.PROMPT: prompts.check,
    LayerName.TOKENS: tokens.check,
    LayerName.NOISE: noise.check,
    LayerName.EMBEDDINGS: embeddings.check,
    LayerName.LOGPROBS: logprobs.check,
    LayerName.TEXT: outputs.check,
    LayerName.SAMPLED: sampled.check,
    LayerName.BEHAVIOURS: behaviours.check,
    LayerName.TASKS: tasks.check,
}

NEXT_STEPS = {
    LayerName.ARTEFACT: "convert again, and start vLLM with the serve.sh or serve.yaml of that bundle",
    LayerName.PROMPT: "compare model/chat_template.jinja with the TEMPLATE of the source where the prompts part",
    LayerName.TOKENS: "look at BOS in model/chat_template.jinja and at model/tokenizer.json",
    LayerName.NOISE: "run again with --concurrency 1, or make vLLM deterministic (VLLM_BATCH_INVARIANT=1 on a GPU)",
    LayerName.EMBEDDINGS: "the weights, the pooling or the normalisation are not the source's: convert again",
    LayerName.LOGPROBS: "the weights, config.json or the dtype are not the source's: convert again",
    LayerName.TEXT: "look at eos_token_id in model/generation_config.json and at the stop strings in serve.yaml",
    LayerName.SAMPLED: "compare the sampling parameters in model/generation_config.json with `migrate inspect`",
    LayerName.BEHAVIOURS: "look at the behaviour's name in docs/parity.md: it says which file or flag it depends on",
    LayerName.TASKS: "read the lost tasks in the report; with other weights than the source's, try another --weights",
}

EMBEDDING_LAYERS = frozenset({LayerName.ARTEFACT, LayerName.EMBEDDINGS})


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what happens: before a layer, after each of its steps (done, total), and after it."""

    begin: Callable[[LayerName], None] = lambda name: None
    step: Callable[[int, int], None] = lambda done, total: None
    end: Callable[[LayerReport], None] = lambda report: None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the servers are asked beside, or instead of, the built-in battery.

    `texts` is for embedding models; `requests` are the user's own as clients send them, for `clients`.
    """

    conversations: tuple[Conversation, ...] | None = None
    tasks: tuple[tasks.Task, ...] = ()
    texts: tuple[str, ...] = ()
    requests: tuple[clients.ClientRequest, ...] | None = None
    traffic: Traffic | None = None


def run(
    bundle: Path,
    source: Engine,
    target: Engine,
    *,
    layers: Sequence[LayerName] = tuple(LayerName),
    battery: Sequence[Conversation] | None = None,
    asked: Asked | None = None,
    settings: Settings | None = None,
    reference: Engine | None = None,
    journal: Path | None = None,
    resume: bool = False,
    keep_going: bool = False,
    progress: Callable[[LayerReport], None] | None = None,
    watch: Watch | None = None,
    variant: str | None = None,
) -> ParityReport:
    """Compares `target`, which serves `bundle`, with `source`. `variant`: which model of a set; by default the first.

    `layers` are run in their own order, with the earlier ones they build on; those that do not apply are left out.
    After a failed layer the others are skipped unless `keep_going`. `battery` is short for `asked.conversations`;
    `progress` for `watch.end`. Answers are kept in `journal` while the run lasts, and not asked again with `resume`. A
    server that cannot be asked, dies on the way or fails now and then makes the report inconclusive; no exception
    leaves for that.

    Raises NotFound or BadInput when `bundle` is none, BadInput when the journal is of another run, MissingExtra when
    tasks, samples or a reference are wanted and the statistics are not installed.
    """
    asked, settings = asked or Asked(), settings or Settings()
    watch = watch or Watch(end=progress or (lambda report: None))
    opened = read_bundle(bundle, variant)
    wanted = _applicable(layers, opened, asked, settings, source, target)
    if reference is not None:
        stats()
    conversations = tuple(battery) if battery is not None else asked.conversations
    if conversations is None:
        conversations = built_in.battery(opened.facts)
    digest = built_in.digest(conversations)
    notebook = _journal(journal, resume, opened, source, target, settings, digest)
    pauses = settings.retry_pauses_s
    ours, theirs = (Witness(e, side, notebook, pauses=pauses) for e, side in ((source, "source"), (target, "target")))
    third = Witness(reference, "reference", notebook, pauses=pauses) if reference is not None else None
    state = Run(
        opened,
        ours,
        theirs,
        read_vocabulary(opened.model / "tokenizer.json"),
        settings,
        [Case(conversation, conversation) for conversation in conversations],
        reference=third,
        tasks=asked.tasks,
        texts=asked.texts,
        step=watch.step,
    )
    state.render_source = lambda conversation: prompts.source_renderer(state)(conversation)
    version = _version(source)
    try:
        reports, complete = _run_layers(state, wanted, watch, version, keep_going=keep_going)
    finally:
        notebook.close()
    verdict, reason, next_step = _conclude(reports)
    if verdict is Verdict.PASS and not _whole(layers, opened):
        next_step = "this was a part of the comparison: run it without --layers before you cut over"
    hiccups = [*ours.hiccups, *theirs.hiccups, *(third.hiccups if third else ())]
    if hiccups and verdict is Verdict.PASS:
        verdict = Verdict.INCONCLUSIVE
        reason = f"everything agrees, but a server failed {len(hiccups)} times on the way, first: {hiccups[0]}"
        next_step = "find out why (the server's log), and run parity again"
    return ParityReport(
        generator=f"ollama-to-vllm {__version__}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=opened.facts.source.name,
        digests=opened.facts.source.digests,
        source=_name(source),
        target=_name(target),
        reference=_name(reference) if reference is not None else "",
        battery=digest,
        conversations=len(asked.texts or embeddings.TEXTS) if opened.is_embedding else len(conversations),
        traffic=asked.traffic or Traffic(used=len(conversations)),
        settings=settings.model_dump(mode="json", exclude={"retry_pauses_s"}),
        hiccups=hiccups,
        complete=complete,
        verdict=verdict,
        reason=reason,
        next_step=next_step,
        layers=reports,
        plan=state.plan,
        clients=clients.verdicts(opened.facts, asked.requests, result=verdict),
        evidence=state.evidence,
    )


def _applicable(
    layers: Sequence[LayerName], bundle: Bundle, asked: Asked, settings: Settings, source: Engine, target: Engine
) -> set[LayerName]:
    """Of `layers` those that this model and this run can have, with those they start from."""
    wanted = set(layers)
    if bundle.is_embedding:
        return wanted & EMBEDDING_LAYERS
    wanted.discard(LayerName.EMBEDDINGS)
    if not settings.samples:
        wanted.discard(LayerName.SAMPLED)
    if not asked.tasks:
        wanted.discard(LayerName.TASKS)
    if wanted & {LayerName.SAMPLED, LayerName.TASKS}:
        stats()
    if not target.capabilities.generate:
        wanted -= {LayerName.NOISE, LayerName.TEXT, LayerName.SAMPLED, LayerName.BEHAVIOURS, LayerName.TASKS}
    if not target.capabilities.score:
        wanted.discard(LayerName.LOGPROBS)
    if wanted & {LayerName.NOISE, LayerName.LOGPROBS, LayerName.TEXT, LayerName.SAMPLED, LayerName.BEHAVIOURS}:
        wanted.add(LayerName.TOKENS)
    if LayerName.TOKENS in wanted and source.capabilities.tokenize:
        wanted.add(LayerName.PROMPT)
    return wanted


def _whole(layers: Sequence[LayerName], bundle: Bundle) -> bool:
    """Whether `layers` leave nothing out that every cut-over should have."""
    optional = {LayerName.EMBEDDINGS, LayerName.SAMPLED, LayerName.TASKS}
    return (EMBEDDING_LAYERS if bundle.is_embedding else set(LayerName) - optional) <= set(layers)


def _journal(
    path: Path | None,
    resume: bool,
    bundle: Bundle,
    source: Engine,
    target: Engine,
    settings: Settings,
    digest: str,
) -> Journal:
    """Where answers are written down. A server that cannot even say who it is has none to write."""
    if path is None:
        return Journal(None, {})
    identity = {
        "model": bundle.facts.source.name,
        "digests": bundle.facts.source.digests,
        "battery": digest,
        "settings": settings.model_dump(mode="json", exclude={"retry_pauses_s"}),
    }
    try:
        identity |= {"source": describe(source), "target": describe(target)}
    except EngineError:
        return Journal(None, {})
    return Journal.resume(path, identity) if resume and path.exists() else Journal(path, identity)


def _run_layers(
    state: Run, wanted: set[LayerName], watch: Watch, version: str | None, *, keep_going: bool
) -> tuple[list[LayerReport], bool]:
    """(reports, whether every server could be asked to the end)."""
    reports: list[LayerReport] = []
    stopped, complete = "", True
    for name in LayerName:
        if name not in wanted:
            continue
        watch.begin(name)
        if stopped:
            report, broken = LayerReport(name=name, status="skipped", summary=stopped), False
        else:
            report, broken = _run_layer(name, state)
            known = deviations.for_layer(name, version, state.bundle.facts) if state.source.kind != "vllm" else []
            report.deviations += [sentence for sentence in known if sentence not in report.deviations]
        reports.append(report)
        watch.end(report)
        complete = complete and not broken
        if broken or (report.status == "fail" and not keep_going):
            stopped = stopped or f"not run: the {name.value} layer settles it"
    return reports, complete


def _run_layer(name: LayerName, state: Run) -> tuple[LayerReport, bool]:
    """(report, whether a server could not be asked, so that nothing after it can be)."""
    started = time.monotonic()
    before = {case.name for case in state.open_cases}
    broken = False
    try:
        report = LAYERS[name](state)
    except EngineError as error:
        hint = f" ({error.hint})" if error.hint else ""
        report, broken = LayerReport(name=name, status="inconclusive", summary=f"{error}{hint}"), True
    told = {difference.conversation for difference in report.differences}
    for case in state.cases:
        if case.excluded and case.name in before and case.name not in told:
            report.notes.append(f"«{case.name}» left out: {case.excluded}")
    report.seconds = round(time.monotonic() - started, 3)
    return report, broken


def _conclude(reports: Sequence[LayerReport]) -> tuple[Verdict, str, str]:
    """(verdict, reason, next step): the first failure, else what could not be decided, else success."""
    for report in reports:
        if report.status == "fail":
            return Verdict.FAIL, f"{report.name.value}: {report.summary}", NEXT_STEPS[report.name]
    for report in reports:
        if report.status == "inconclusive":
            return Verdict.INCONCLUSIVE, f"{report.name.value}: {report.summary}", "repair that and run parity again"
    passed = [report for report in reports if report.status == "pass"]
    if not passed:
        return Verdict.INCONCLUSIVE, "nothing was compared", "name at least one layer"
    telling = (LayerName.EMBEDDINGS, LayerName.TEXT, LayerName.TASKS)
    said = [report.summary for report in passed if report.name in telling] or [passed[-1].summary]
    return Verdict.PASS, "; ".join(said), "cut over as MIGRATION.md says"


def _version(engine: Engine) -> str | None:
    """Ollama's, for its known deviations; None for anything else."""
    if engine.kind != "ollama":
        return None
    try:
        version = getattr(engine, "version", None)
    except EngineError:
        return None
    return version if isinstance(version, str) else None


def _name(engine: Engine) -> str:
    """The name of an engine, also of one that is gone."""
    try:
        return engine.name
    except EngineError:
        return engine.kind
