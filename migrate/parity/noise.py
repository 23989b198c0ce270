"""How much each server differs from itself: what a difference between the two has to be judged against.

Greedy answers are not repeatable everywhere: kernels sum in an order that depends on the batch. So each server is asked
the same twice, with as many requests at a time as the comparison uses, before anything is compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from migrate.engines.base import Candidate, Generation, TokenLogprob
from migrate.errors import ServerError
from migrate.parity.case import Case, Run, is_refusal
from migrate.parity.distances import divergence
from migrate.parity.logprobs import source_positions
from migrate.parity.report import LayerName, LayerReport


def check(run: Run) -> LayerReport:
    """Fills `Run.noise_kl`, and `Case.unstable` of conversations that one side answers in two ways."""
    cases = [case for case in run.open_cases if case.target_ids is not None]
    cases = cases[: run.settings.noise_cases]
    report = LayerReport(name=LayerName.NOISE, status="pass", summary="", compared=len(cases))
    run.each(run.source_answer, cases)
    again = run.each(lambda case: _source_again(run, case), cases)
    scores = run.each(lambda case: _target_twice(run, case), cases)
    texts = run.each(lambda case: _answers_twice(run, case), cases)
    own: list[float] = []
    theirs: list[float] = []
    identical = {"source": 0, "target": 0}
    asked = {"source": 0, "target": 0}
    for case, second, pair, answers in zip(cases, again, scores, texts, strict=True):
        if case.source_answer is not None and second is not None:
            own += _divergences(case.source_answer.tokens, second.tokens)
            _count(case, "source", case.source_answer, second, identical, asked)
        if pair is not None:
            theirs += _divergences(*pair)
        if answers is not None:
            _count(case, "target", *answers, identical, asked)
    source_kl, target_kl = _mean(own), _mean(theirs)
    run.noise_kl = max(source_kl, target_kl)
    report.agreed = sum(not case.unstable for case in cases)
    report.metrics = {
        "source_mean_kl": source_kl,
        "target_mean_kl": target_kl,
        "source_identical": float(identical["source"]),
        "source_asked_twice": float(asked["source"]),
        "target_identical": float(identical["target"]),
        "target_asked_twice": float(asked["target"]),
        "concurrency": float(run.settings.concurrency),
    }
    report.thresholds = {"max_mean_kl": run.settings.max_mean_kl}
    report.notes = [f"«{case.name}» is answered in two ways by {case.unstable}" for case in cases if case.unstable]
    if not (asked["source"] or asked["target"] or theirs):
        report.status, report.summary = "inconclusive", "no conversation could be asked twice"
        return report
    report.summary = (
        f"asked twice, the source gives {identical['source']} of {asked['source']} answers word for word again, the "
        f"target {identical['target']} of {asked['target']}; mean KL {source_kl:.2g} and {target_kl:.2g} nats"
    )
    if not run.noise_kl <= run.settings.max_mean_kl:
        report.status = "inconclusive"
        report.summary += ": more than the limit for two different servers, so nothing smaller can be told"
    return report


def _source_again(run: Run, case: Case) -> Generation | None:
    if case.source_answer is None:
        return None
    try:
        return run.ask_source_greedily(case)
    except ServerError as error:
        if not is_refusal(error):
            raise
        return None


def _target_twice(run: Run, case: Case) -> tuple[tuple[TokenLogprob, ...], tuple[TokenLogprob, ...]] | None:
    """The source's answer scored twice."""
    source = source_positions(run, case, [])
    if not source or not run.target.capabilities.score:
        return None
    prompt = case.source_ids or case.target_ids or ()
    ids = [position.id for position in source if position.id is not None]
    try:
        first, second = (run.target.score(prompt, ids, top=run.settings.top) for _ in range(2))
    except ServerError as error:
        if not is_refusal(error):
            raise
        return None
    return first, second


def _answers_twice(run: Run, case: Case) -> tuple[Generation, Generation] | None:
    """The target's own answer; asked once more in the text layer, which finds the first one known."""
    if not run.target.capabilities.generate:
        return None
    try:
        first, second = (
            run.target.generate(
                case.target_conversation, max_tokens=run.settings.max_tokens, top_logprobs=run.settings.top
            )
            for _ in range(2)
        )
    except ServerError as error:
        if not is_refusal(error):
            raise
        return None
    case.target_answer = first
    return first, second


def _count(
    case: Case, side: str, first: Generation, second: Generation, identical: dict[str, int], asked: dict[str, int]
) -> None:
    asked[side] += 1
    if (first.text, first.thinking) == (second.text, second.thinking):
        identical[side] += 1
    else:
        case.unstable = "both sides" if case.unstable else f"the {side}"


def _divergences(first: Sequence[TokenLogprob], second: Sequence[TokenLogprob]) -> list[float]:
    """Per position, up to where the two part for the first time (after that they answer different questions)."""
    found = []
    for a, b in zip(first, second, strict=False):
        found.append(_divergence(a, b))
        if (a.id, a.text) != (b.id, b.text):
            break
    return found


def _divergence(a: TokenLogprob, b: TokenLogprob) -> float:
    """`distances.divergence`; where the engine tells no ids, the bytes stand for them.

    Special tokens all have no bytes: the likeliest of one list is taken for the likeliest of the other.
    """
    if all(candidate.id is not None for candidate in a.top):
        return divergence(a.top, b.top)
    ids: dict[tuple[bytes, int], int] = {}
    return divergence(_numbered(a.top, ids), _numbered(b.top, ids))


def _numbered(top: Sequence[Candidate], ids: dict[tuple[bytes, int], int]) -> list[Candidate]:
    seen: Counter[bytes] = Counter()
    numbered = []
    for candidate in top:
        key = candidate.text, seen[candidate.text]
        seen[candidate.text] += 1
        numbered.append(Candidate(ids.setdefault(key, len(ids)), candidate.text, candidate.logprob))
    return numbered


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
