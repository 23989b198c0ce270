"""Layer 3: given the same tokens, do both models expect the same next ones?

The source answers greedily; the target is made to read that answer (teacher forcing) and tells at each position what it
would have expected (`distances`). Texts of a small model may agree by luck; these numbers do not.

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

from collections.abc import Sequence
from dataclasses import dataclass, field

from migrate.engines.base import Candidate, Engine, TokenLogprob
from migrate.errors import ServerError
from migrate.parity import reference
from migrate.parity.case import TOO_LONG, Case, Run, has_gaps, is_refusal, is_too_long
from migrate.parity.distances import Position, compare_position, first_mismatch, summarize
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport
from migrate.parity.vocabulary import Vocabulary

MAX_PAIRS = 600


@dataclass(slots=True)
class _Outcome:
    """What came of one answer. `asked`: it is among those compared."""

    asked: bool = False
    source: tuple[TokenLogprob, ...] = ()
    target: tuple[TokenLogprob, ...] = ()
    difference: Difference | None = None
    refused: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def positions(self) -> list[Position]:
        return [compare_position(a, b) for a, b in zip(self.source, self.target, strict=True) if a.top]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        return [(a.logprob, b.logprob) for a, b in zip(self.source, self.target, strict=True) if a.top]


def check(run: Run) -> LayerReport:
    """Compares all positions of all answers. Needs a target that can score.

    The mean divergence is held to the limit plus what a server differs from itself (`Run.noise_kl`). Its upper bound,
    with the error clustered by conversation, has to be below the limit as well: otherwise there were too few. Where the
    weights are meant to differ (a quantized source, the original as target), a reference decides which is nearer.
    """
    cases = run.open_cases
    run.each(run.source_answer, cases)
    outcomes = run.each(lambda case: _compare(run, case), cases)
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.refused:
            case.excluded = outcome.refused
    report = _judge(run, [outcome for outcome in outcomes if outcome.asked])
    report.notes = [note for outcome in outcomes for note in outcome.notes] + report.notes
    refused = any(outcome.refused and outcome.difference for outcome in outcomes)  # other weights explain no refusal
    if report.status == "fail" and run.expects_difference and not refused:
        return _against_reference(run, report, cases, outcomes)
    return report


def _judge(run: Run, asked: list[_Outcome]) -> LayerReport:
    """The verdict on source and target alone."""
    settings = run.settings
    answers = [positions for outcome in asked if (positions := outcome.positions)]
    differences = [outcome.difference for outcome in asked if outcome.difference is not None]
    run.evidence.logprob_pairs = _thinned([pair for outcome in asked for pair in outcome.pairs])
    limit = settings.max_mean_kl + run.noise_kl
    metrics = summarize(answers, settings.confidence)
    report = LayerReport(
        name=LayerName.LOGPROBS,
        status="pass",
        summary="no answer could be compared token by token",
        compared=len(asked),
        agreed=len(asked) - len(differences),
        metrics=metrics,
        thresholds={"min_top1_agreement": settings.min_top1_agreement, "max_mean_kl": limit},
        differences=differences[:MAX_DIFFERENCES],
    )
    if not answers:
        report.status = "inconclusive" if not differences else "fail"
        return report
    measured = (
        f"top-1 agreement {metrics['top1_agreement']:.1%}, mean KL {metrics['mean_kl']:.2g} nats over "
        f"{metrics['positions']:.0f} positions"
    )
    reasons = _violations(metrics, settings.min_top1_agreement, limit)
    if differences:
        reasons.append(f"in {len(differences)} answers the two do not even consider each other's first choice")
    report.summary = f"{measured}: {'; '.join(reasons)}" if reasons else measured
    if reasons:
        report.status = "fail"
    elif len(answers) < settings.min_compared:
        report.status = "inconclusive"
        report.summary += f"; only {len(answers)} answers, and {settings.min_compared} are needed"
    elif metrics["mean_kl_upper"] > limit:
        report.status = "inconclusive"
        report.summary = (
            f"{measured}, but with {len(answers)} answers it could be as much as {metrics['mean_kl_upper']:.2g}: "
            "ask more of them"
        )
    return report


def _against_reference(run: Run, report: LayerReport, cases: Sequence[Case], outcomes: list[_Outcome]) -> LayerReport:
    """Different, as it has to be: is it worse, too?"""
    quantization = run.bundle.facts.source.quantization
    if run.reference is None:
        report.status = "inconclusive"
        report.notes.append(
            f"the source's weights are {quantization}, the bundle's are the original's: they have to differ. Which is "
            "nearer to the model as it was trained tells --reference URL, a server on the weights in full precision"
        )
        return report
    answers = []
    for case, outcome in zip(cases, outcomes, strict=True):
        if outcome.source:
            scored = score(run.reference, case, outcome.source, run.settings.top)
            answers.append(reference.nearer(scored, outcome.source, outcome.target))
    return reference.judge(run, report, answers)


def _compare(run: Run, case: Case) -> _Outcome:
    outcome = _Outcome()
    source = source_positions(run, case, outcome.notes)
    if not source:
        return outcome
    outcome.asked = True
    try:
        outcome.target = score(run.target, case, source, run.settings.top)
    except ServerError as error:
        if not is_refusal(error):
            raise
        if is_too_long(error):
            return _Outcome(refused=TOO_LONG)
        outcome.refused = f"the target refuses it: {error}"
        if "logprobs" in str(error):  # --max-logprobs: nothing is known of the model
            return _Outcome(refused=outcome.refused)
        outcome.difference = Difference(conversation=case.name, reason=outcome.refused)
        return outcome
    outcome.source = source
    outcome.difference = first_mismatch(case.name, source, outcome.target, run.settings.top, run.vocabulary)
    return outcome


def _thinned(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(pairs) // MAX_PAIRS))
    return [(round(a, 4), round(b, 4)) for a, b in pairs[::step]]


def _violations(metrics: dict[str, float], min_top1: float, max_kl: float) -> list[str]:
    reasons = []
    if metrics["top1_agreement"] < min_top1:
        reasons.append(f"agreement is below {min_top1:.0%}")
    if not metrics["mean_kl"] <= max_kl:
        reasons.append(f"KL is above {max_kl:g}")
    return reasons


def source_positions(run: Run, case: Case, notes: list[str]) -> tuple[TokenLogprob, ...]:
    """The positions of the source's answer, ids filled in, as far as ids are known."""
    answer = run.source_answer(case)
    if answer is None or not (case.source_ids or case.target_ids):
        return ()
    if has_gaps(answer):
        notes.append(
            f"«{case.name}»: Ollama does not tell all tokens of an answer with reasoning, so nothing can be lined "
            "up; compare with llama.cpp's server on the same GGUF, or with requests that say think false"
        )
        return ()
    source = tuple(with_ids(token, run.vocabulary) for token in answer.tokens)
    known = run.known(source)
    if known < len(source):
        notes.append(f"«{case.name}»: compared up to token {known}: the source does not tell which it is")
    return source[:known]


def score(engine: Engine, case: Case, source: Sequence[TokenLogprob], top: int) -> tuple[TokenLogprob, ...]:
    """What another engine expects at the same positions. Raises EngineError."""
    prompt = case.source_ids or case.target_ids or ()
    return engine.score(prompt, [t.id for t in source if t.id is not None], top=top)


def with_ids(token: TokenLogprob, vocabulary: Vocabulary) -> TokenLogprob:
    """A position with the ids that its bytes name, where the engine (Ollama) tells none."""
    if token.id is not None:
        return token
    top = tuple(Candidate(vocabulary.id_of(c.text), c.text, c.logprob) for c in token.top)
    return TokenLogprob(vocabulary.id_of(token.text), token.text, token.logprob, top)
