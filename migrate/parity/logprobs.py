"""Layer 3: given the same tokens, do both models expect the same next ones?

The source answers greedily; the target is made to read that answer (teacher forcing) and tells at each position what it
would have expected. One position's distance is the Kullback-Leibler divergence of the target from the source, bounded
from below by what top-k lists tell (`divergence`). Texts of a small model may agree by luck; these numbers do not.

The default limits come from tinychat: llama.cpp on each of its 11 GGUFs against the same weights dequantized, and
against damaged ones, 97 to 119 positions each. Worst case per group:

    weights of the target                                           mean KL    top-1
    dequantized, computed in float32                                7.4e-5     98.0%
    dequantized, computed in bfloat16 or float16                    1.2e-3     99.0%
    the original instead of its Q8_0 / Q6_K, Q5 / Q4 quantization   3.4e-5 / 9.9e-4 / 3.1e-3
    the original instead of its Q3_K_M / Q2_K quantization          1.1e-2 / 2.6e-2
    one layer's down projection doubled (the least damage caught)   1.1e-2     94.1%
    gate and up swapped in one layer                                3.4e-2     94.1%
    q/k permuted in one layer / in all                              7.0e-2 / 1.4
    rope_theta off by two / by fifty                                1.2e-1 / 4.2e-1
    one norm off by one / all                                       2.0e-1 / 1.4
    rms_norm_eps 1e-3 / a vocabulary row zero / head tied wrongly   3.2e-1 / 7.0e-1 / 6.1
    one layer's down projection scaled by 1.1 (not caught)          2.1e-4     99.0%

So 5e-3 passes every faithful conversion, and fails all damage here but the last, which moves less than bfloat16 does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from migrate.engines.base import Candidate, TokenLogprob
from migrate.errors import ServerError
from migrate.parity.case import Case, Run, is_refusal
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport
from migrate.parity.vocabulary import Vocabulary

TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Position:
    """One compared position. `top1`: both find the same token most likely; `delta`: |log-probability difference| of the
    source's token; `kl`: in nats."""

    top1: bool
    kl: float
    delta: float


def check(run: Run) -> LayerReport:
    """Compares all positions of all answers. Needs a target that can score."""
    settings = run.settings
    positions: list[Position] = []
    differences: list[Difference] = []
    notes: list[str] = []
    compared = 0
    for case in run.open_cases:
        source = _source_positions(run, case, notes)
        if not source:
            continue
        try:
            target = _target_positions(run, case, source)
        except ServerError as error:
            if not is_refusal(error):
                raise
            compared += 1
            case.excluded = f"the target refuses it: {error}"
            differences.append(Difference(conversation=case.name, reason=case.excluded))
            continue
        compared += 1
        positions += [compare_position(a, b) for a, b in zip(source, target, strict=True)]
        if difference := first_mismatch(case.name, source, target, settings.top, run.vocabulary):
            differences.append(difference)
    metrics = summarize(positions)
    report = LayerReport(
        name=LayerName.LOGPROBS,
        status="pass",
        summary="",
        compared=compared,
        agreed=compared - len(differences),
        metrics=metrics,
        thresholds={"min_top1_agreement": settings.min_top1_agreement, "max_mean_kl": settings.max_mean_kl},
        differences=differences[:MAX_DIFFERENCES],
        notes=notes,
    )
    if not positions:
        report.status, report.summary = "inconclusive", "no answer could be compared token by token"
        return report
    measured = (
        f"top-1 agreement {metrics['top1_agreement']:.1%}, mean KL {metrics['mean_kl']:.2g} nats over "
        f"{len(positions)} positions"
    )
    reasons = _violations(metrics, settings.min_top1_agreement, settings.max_mean_kl)
    if differences:
        reasons.append(f"in {len(differences)} answers the two do not even consider each other's first choice")
    report.status = "fail" if reasons else "pass"
    report.summary = f"{measured}: {'; '.join(reasons)}" if reasons else measured
    return report


def _violations(metrics: dict[str, float], min_top1: float, max_kl: float) -> list[str]:
    reasons = []
    if metrics["top1_agreement"] < min_top1:
        reasons.append(f"agreement is below {min_top1:.0%}")
    if not metrics["mean_kl"] <= max_kl:
        reasons.append(f"KL is above {max_kl:g}")
    return reasons


def _source_positions(run: Run, case: Case, notes: list[str]) -> tuple[TokenLogprob, ...]:
    """The positions of the source's answer, ids filled in, as far as ids are known."""
    answer = run.source_answer(case)
    if answer is None or not (case.source_ids or case.target_ids):
        return ()
    source = tuple(_with_ids(token, run.vocabulary) for token in answer.tokens)
    known = next((n for n, token in enumerate(source) if token.id is None), len(source))
    if known < len(source):
        notes.append(f"«{case.name}»: compared up to token {known}, whose bytes do not name one token")
    return source[:known]


def _target_positions(run: Run, case: Case, source: Sequence[TokenLogprob]) -> tuple[TokenLogprob, ...]:
    """What the target expects at the same positions."""
    prompt = case.source_ids or case.target_ids or ()
    return run.target.score(prompt, [t.id for t in source if t.id is not None], top=run.settings.top)


def _with_ids(token: TokenLogprob, vocabulary: Vocabulary) -> TokenLogprob:
    if token.id is not None:
        return token
    top = tuple(Candidate(vocabulary.id_of(c.text), c.text, c.logprob) for c in token.top)
    return TokenLogprob(vocabulary.id_of(token.text), token.text, token.logprob, top)


def compare_position(source: TokenLogprob, target: TokenLogprob) -> Position:
    best = max(target.top, key=lambda c: c.logprob, default=None)
    own = max(source.top, key=lambda c: c.logprob, default=None)
    return Position(
        top1=best is not None and own is not None and best.id == own.id,
        kl=divergence(source.top, target.top),
        delta=abs(source.logprob - target.logprob),
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
    return max(0.0, total)


def summarize(positions: Iterable[Position]) -> dict[str, float]:
    """Numbers over all positions; {} for none."""
    rows = list(positions)
    if not rows:
        return {}
    kl = sorted(row.kl for row in rows)
    return {
        "positions": float(len(rows)),
        "top1_agreement": sum(row.top1 for row in rows) / len(rows),
        "mean_kl": math.fsum(kl) / len(kl),
        "p95_kl": kl[min(len(kl) - 1, int(0.95 * len(kl)))],
        "max_kl": kl[-1],
        "mean_delta": math.fsum(row.delta for row in rows) / len(rows),
        "max_delta": max(row.delta for row in rows),
    }


def first_mismatch(
    name: str, source: Sequence[TokenLogprob], target: Sequence[TokenLogprob], top: int, vocabulary: Vocabulary
) -> Difference | None:
    """The rule vLLM's own tests hold models to: where the first choices differ for the first time, each side has to
    have the other's choice among its `top` most likely tokens. None when that holds."""
    for index, (ours, theirs) in enumerate(zip(source, target, strict=True)):
        ranked = sorted(theirs.top, key=lambda c: -c.logprob)[:top]
        if not ranked or ranked[0].id == ours.id:
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
