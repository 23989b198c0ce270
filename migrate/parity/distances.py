"""How far two lists of likeliest tokens are apart: pure arithmetic, no server.

One position's distance is the Kullback-Leibler divergence of the target from the source, bounded from below by what
top-k lists tell. Means over positions come with errors clustered by answer, since positions of one answer are wrong
together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from migrate.engines.base import Candidate, TokenLogprob
from migrate.parity.report import Difference
from migrate.parity.vocabulary import Vocabulary

TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Position:
    """One compared position. `top1`: both find the same token most likely; `delta`: |log-probability difference| of the
    source's token; `kl`: in nats."""

    top1: bool
    kl: float
    delta: float
    probabilities: tuple[float, float] = (0.0, 0.0)
    """Of the source's token, on the source and on the target."""


def compare_position(source: TokenLogprob, target: TokenLogprob) -> Position:
    best = max(target.top, key=lambda c: c.logprob, default=None)
    own = max(source.top, key=lambda c: c.logprob, default=None)
    return Position(
        top1=best is not None and own is not None and best.id == own.id,
        kl=divergence(source.top, target.top),
        delta=abs(source.logprob - target.logprob),
        probabilities=(math.exp(source.logprob), math.exp(target.logprob)),
    )


def divergence(source: Sequence[Candidate], target: Sequence[Candidate]) -> float:
    """A lower bound of KL(source || target) in nats, from two top-k lists.

    The source's listed tokens are bins of their own, everything else is one bin (the tail). A token that the target
    does not list has at most the probability of the last one it lists, so that is used; all bins can only come out
    closer than they are, and so can the sum. 0 for the same lists; 0 for an empty source list.
    """
    listed = {c.id: math.exp(c.logprob) for c in target if c.id is not None}
    floor = min(listed.values(), default=0.0)
    total = p_sum = q_sum = 0.0
    for candidate in source:
        if candidate.id is None:
            continue
        p = math.exp(candidate.logprob)
        known = listed.get(candidate.id)
        p_sum += p
        q_sum += known or 0.0
        total += p * math.log(max(p, TINY) / max(known if known is not None else floor, TINY))
    p_tail, q_tail = max(0.0, 1.0 - p_sum), max(0.0, 1.0 - q_sum)
    if p_sum and p_tail > TINY:
        total += p_tail * math.log(p_tail / max(q_tail, TINY))
    return total if math.isnan(total) else max(0.0, total)


def summarize(answers: Iterable[Sequence[Position]], confidence: float = 0.95) -> dict[str, float]:
    """Numbers over all positions of all answers; {} for none.

    `mean_kl_se` is the standard error of the mean with whole answers as clusters, since positions of one answer are
    wrong together; `mean_kl_upper` the one-sided bound by the normal approximation. With one answer there is none.
    `rms_probability_difference` is what llama.cpp calls RMS Δp.
    """
    clusters = [list(answer) for answer in answers if answer]
    rows = [row for answer in clusters for row in answer]
    if not rows:
        return {}
    kl = sorted(row.kl for row in rows)
    mean, error = clustered_mean([[row.kl for row in answer] for answer in clusters])
    squares = math.fsum((a - b) ** 2 for a, b in (row.probabilities for row in rows))
    return {
        "positions": float(len(rows)),
        "top1_agreement": sum(row.top1 for row in rows) / len(rows),
        "mean_kl": mean,
        "mean_kl_se": error,
        "mean_kl_upper": mean + NormalDist().inv_cdf(confidence) * error,
        "p95_kl": kl[min(len(kl) - 1, int(0.95 * len(kl)))],
        "max_kl": kl[-1],
        "rms_probability_difference": math.sqrt(squares / len(rows)),
        "mean_delta": math.fsum(row.delta for row in rows) / len(rows),
        "max_delta": max(row.delta for row in rows),
    }


def clustered_mean(clusters: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(mean, its standard error) over clusters of different sizes: the ratio estimator's linearization. The error is 0
    for one cluster, the mean for none."""
    filled = [cluster for cluster in clusters if cluster]
    count, total = len(filled), sum(len(cluster) for cluster in filled)
    if not total:
        return 0.0, 0.0
    mean = math.fsum(value for cluster in filled for value in cluster) / total
    if count < 2:
        return mean, 0.0
    residuals = (math.fsum(value - mean for value in cluster) for cluster in filled)
    return mean, math.sqrt(count / (count - 1) * math.fsum(r * r for r in residuals)) / total


def first_mismatch(
    name: str, source: Sequence[TokenLogprob], target: Sequence[TokenLogprob], top: int, vocabulary: Vocabulary
) -> Difference | None:
    """The rule vLLM's own tests hold models to: where the first choices differ for the first time, each side has to
    have the other's choice among its `top` most likely tokens. None when that holds."""
    for index, (ours, theirs) in enumerate(zip(source, target, strict=True)):
        ranked = sorted(theirs.top, key=lambda c: -c.logprob)[:top]
        if not ranked or not ours.top or ranked[0].id == ours.id:
            continue
        in_target = any(c.id == ours.id for c in ranked)
        in_source = any(c.id == ranked[0].id for c in ours.top)
        if in_target and in_source:
            return None
        side = "target" if not in_target else "source"
        return Difference(
            conversation=name,
            position=index,
            reason=f"the {side} does not have the other's choice among its {top} most likely tokens",
            source=choices(ours.top or [Candidate(ours.id, ours.text, ours.logprob)], vocabulary),
            target=choices(ranked, vocabulary),
        )
    return None


def choices(candidates: Iterable[Candidate], vocabulary: Vocabulary, shown: int = 3) -> str:
    """The most likely tokens with their log-probabilities, for people."""
    best = sorted(candidates, key=lambda c: -c.logprob)[:shown]
    return ", ".join(f"{vocabulary.show(c.id) if c.id is not None else repr(c.text)} {c.logprob:.3f}" for c in best)
