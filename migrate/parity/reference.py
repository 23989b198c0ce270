"""Different is not worse: where source and target are meant to differ, a reference tells which is nearer to it.

A quantized Ollama model whose bundle serves the original checkpoint has to give other numbers. The reference is a
server on the weights in full precision (vLLM on the original, llama.cpp on the F16 GGUF); each side's distance from
it is measured on the same positions, so the comparison is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from migrate.engines.base import TokenLogprob
from migrate.errors import ServerError
from migrate.parity.case import Case, Run
from migrate.parity.distances import clustered_mean, divergence
from migrate.parity.report import LayerReport


@dataclass(frozen=True, slots=True)
class Nearer:
    """One position: the divergence (nats) of the source and of the target from the reference."""

    source: float
    target: float


def nearer(
    reference: Sequence[TokenLogprob], source: Sequence[TokenLogprob], target: Sequence[TokenLogprob]
) -> list[Nearer]:
    """Per position of one answer."""
    return [
        Nearer(divergence(r.top, s.top), divergence(r.top, t.top))
        for r, s, t in zip(reference, source, target, strict=True)
        if s.top
    ]


def judge(run: Run, report: LayerReport, answers: Sequence[Sequence[Nearer]]) -> LayerReport:
    """Replaces the verdict of a failed `logprobs` layer: the target may differ from the source, not be farther off.

    Pass: with one-sided confidence it is not farther from the reference than the source by more than the limit.
    Fail: with the same confidence it is. Otherwise there were too few answers.
    """
    limit = report.thresholds["max_mean_kl"]
    ours, _ = clustered_mean([[p.source for p in answer] for answer in answers])
    theirs, _ = clustered_mean([[p.target for p in answer] for answer in answers])
    farther, error = clustered_mean([[p.target - p.source for p in answer] for answer in answers])
    reach = NormalDist().inv_cdf(run.settings.confidence) * error
    report.metrics |= {
        "reference_to_source_kl": ours,
        "reference_to_target_kl": theirs,
        "farther_than_source_kl": farther,
        "farther_than_source_kl_upper": farther + reach,
    }
    said = f"from the reference the source is {ours:.2g} nats away, the target {theirs:.2g}"
    report.notes += [f"«{d.conversation}»: {d.reason}" for d in report.differences]
    report.differences = []
    report.agreed = report.compared
    if farther - reach > limit:
        report.status, report.summary = "fail", f"{said}: different, and worse"
    elif farther + reach <= limit:
        word = "nearer" if theirs <= ours else "as near, within the limit"
        report.status, report.summary = "pass", f"different, and not worse: {said} ({word})"
    else:
        report.status, report.summary = "inconclusive", f"{said}: too few answers to tell which is nearer"
    return report


def sides_with_target(
    run: Run, case: Case, before: Sequence[int], source: int | None, target: int | None
) -> bool | None:
    """Where two greedy answers part behind the ids `before`: whether the reference finds the target's token likelier.

    None when there is no reference, or it cannot tell. Raises EngineError but for a refusal.
    """
    if run.reference is None or source is None or target is None or not run.reference.capabilities.score:
        return None
    prompt = [*(case.source_ids or case.target_ids or ()), *before]
    try:
        (position,) = run.reference.score(prompt, [source], top=run.settings.top)
    except ServerError as error:
        if 400 <= error.status < 500:
            return None
        raise
    listed = {c.id: c.logprob for c in position.top if c.id is not None}
    floor = min(listed.values(), default=float("-inf"))
    return listed.get(target, floor) >= listed.get(source, floor)
