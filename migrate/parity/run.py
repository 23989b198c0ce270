"""One parity run: layer after layer, stopping at the first that explains the rest."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from migrate import __version__
from migrate.engines.base import Conversation, Engine
from migrate.errors import EngineError
from migrate.parity import battery as built_in
from migrate.parity import logprobs, outputs, prompts, tokens
from migrate.parity.case import Case, Run, Settings
from migrate.parity.facts import read_bundle
from migrate.parity.report import LayerName, LayerReport, ParityReport, Verdict
from migrate.parity.vocabulary import read_vocabulary

LAYERS: dict[LayerName, Callable[[Run], LayerReport]] = {
    LayerName.PROMPT: prompts.check,
    LayerName.TOKENS: tokens.check,
    LayerName.LOGPROBS: logprobs.check,
    LayerName.TEXT: outputs.check,
}

NEXT_STEPS = {
    LayerName.PROMPT: "compare model/chat_template.jinja with the TEMPLATE of the source where the prompts part",
    LayerName.TOKENS: "look at BOS in model/chat_template.jinja and at model/tokenizer.json",
    LayerName.LOGPROBS: "the weights, config.json or the dtype are not the source's: convert again",
    LayerName.TEXT: "look at eos_token_id in model/generation_config.json and at the stop strings in serve.yaml",
}


def run(
    bundle: Path,
    source: Engine,
    target: Engine,
    *,
    layers: Sequence[LayerName] = tuple(LayerName),
    battery: Sequence[Conversation] | None = None,
    settings: Settings | None = None,
    keep_going: bool = False,
    progress: Callable[[LayerReport], None] | None = None,
) -> ParityReport:
    """Compares `target`, which serves `bundle`, with `source`.

    `layers` are run in their own order, with the earlier ones they build on. After a failed layer the others are
    skipped unless `keep_going`. `progress` is called after each layer. A server that cannot be asked, or dies on the
    way, makes the report inconclusive; no exception leaves for that. Raises NotFound or BadInput when `bundle` is none.
    """
    opened = read_bundle(bundle)
    conversations = tuple(battery) if battery is not None else built_in.battery(opened.facts)
    state = Run(
        opened,
        source,
        target,
        read_vocabulary(opened.model / "tokenizer.json"),
        settings or Settings(),
        [Case(conversation, conversation) for conversation in conversations],
    )
    wanted = _with_needed(layers, source)
    reports: list[LayerReport] = []
    stopped = ""
    for name in LayerName:
        if name not in wanted:
            continue
        report = _skipped(name, stopped) if stopped else _run_layer(name, state)
        reports.append(report)
        if progress is not None:
            progress(report)
        if report.status == "inconclusive" or (report.status == "fail" and not keep_going):
            stopped = stopped or f"not run: the {name.value} layer settles it"
    verdict, reason, next_step = _conclude(reports)
    return ParityReport(
        generator=f"ollama-to-vllm {__version__}",
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        model=opened.facts.source.name,
        digests=opened.facts.source.digests,
        source=_name(source),
        target=_name(target),
        battery=built_in.digest(conversations),
        conversations=len(conversations),
        verdict=verdict,
        reason=reason,
        next_step=next_step,
        layers=reports,
    )


def _with_needed(layers: Sequence[LayerName], source: Engine) -> set[LayerName]:
    """`layers` and those they start from: the last two need ids, and ids of a source that has them need its prompts."""
    wanted = set(layers)
    if wanted & {LayerName.LOGPROBS, LayerName.TEXT}:
        wanted.add(LayerName.TOKENS)
    if LayerName.TOKENS in wanted and source.capabilities.tokenize:
        wanted.add(LayerName.PROMPT)
    return wanted


def _run_layer(name: LayerName, state: Run) -> LayerReport:
    started = time.monotonic()
    before = {case.name for case in state.open_cases}
    try:
        report = LAYERS[name](state)
    except EngineError as error:
        hint = f" ({error.hint})" if error.hint else ""
        report = LayerReport(name=name, status="inconclusive", summary=f"{error}{hint}")
    told = {difference.conversation for difference in report.differences}
    for case in state.cases:
        if case.excluded and case.name in before and case.name not in told:
            report.notes.append(f"«{case.name}» left out: {case.excluded}")
    report.seconds = round(time.monotonic() - started, 3)
    return report


def _skipped(name: LayerName, why: str) -> LayerReport:
    return LayerReport(name=name, status="skipped", summary=why)


def _conclude(reports: Sequence[LayerReport]) -> tuple[Verdict, str, str]:
    """(verdict, reason, next step): the first failure, else what could not be asked, else success."""
    for report in reports:
        if report.status == "fail":
            return Verdict.FAIL, f"{report.name.value}: {report.summary}", NEXT_STEPS[report.name]
    for report in reports:
        if report.status == "inconclusive":
            return Verdict.INCONCLUSIVE, f"{report.name.value}: {report.summary}", "repair that and run parity again"
    if not reports:
        return Verdict.INCONCLUSIVE, "nothing was compared", "name at least one layer"
    return Verdict.PASS, f"{reports[-1].summary}", "cut over as MIGRATION.md says"


def _name(engine: Engine) -> str:
    """The name of an engine, also of one that is gone."""
    try:
        return engine.name
    except EngineError:
        return engine.kind
