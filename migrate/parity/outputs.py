"""The greedy answers: is the text the same, and does it end at the same place?"""

from __future__ import annotations

from dataclasses import dataclass, field

from migrate.engines.base import Generation, TokenLogprob
from migrate.errors import MissingExtra, ServerError
from migrate.parity import reference
from migrate.parity.case import TOO_LONG, Case, Run, is_refusal, is_too_long
from migrate.parity.distances import choices
from migrate.parity.logprobs import with_ids
from migrate.parity.report import MAX_DIFFERENCES, Difference, Example, LayerName, LayerReport

MAX_EXAMPLES = 12
EXAMPLE_CHARACTERS = 1500


@dataclass(slots=True)
class Outcome:
    """Two answers compared. `at`: token at which they part, None when they do not; `tokens` of the source's answer;
    `contained`: where they part, each side's choice is among the other's most likely; `choice`: they part because the
    models choose otherwise, and not because one does not end or refuses; `nearer`: the reference takes the target's
    side; `undecided`: they are not the same, and whether that matters cannot be told."""

    tokens: int = 0
    at: int | None = None
    tie: bool = False
    contained: bool = True
    choice: bool = False
    nearer: bool | None = None
    undecided: bool = False
    difference: Difference | None = None
    notes: list[str] = field(default_factory=list)


def check(run: Run) -> LayerReport:
    """The target is asked as a client asks it: a chat request, greedy, penalties off.

    Where a server does not give the same answer twice (`noise`), that the two part is shown, and no failure.
    """
    cases = [case for case in run.open_cases if case.target_ids is not None]
    run.each(run.source_answer, cases)
    cases = [case for case in cases if case.source_answer is not None]
    answers = run.each(lambda case: _ask(run, case), cases)
    outcomes: list[tuple[Case, Outcome]] = []
    for case, answer in zip(cases, answers, strict=True):
        if answer is None:
            case.excluded = TOO_LONG
            continue
        if isinstance(answer, Difference):
            outcomes.append((case, Outcome(difference=answer, at=0, contained=False)))
            continue
        assert case.source_answer is not None
        outcome = compare(run, case, case.source_answer, answer)
        if outcome.difference is not None and case.unstable and outcome.contained:
            outcome.notes.append(f"«{case.name}» parts, but {case.unstable} does not answer it twice the same")
            outcome.tie, outcome.difference = True, None
        if outcome.choice and outcome.difference is not None and run.expects_difference:
            outcome.nearer = _asked_of_reference(run, case, answer, outcome.at or 0)
        if outcome.at is not None or outcome.difference is not None:
            _keep_example(run, case, outcome, case.source_answer, answer)
        outcomes.append((case, outcome))
    return _report(run, outcomes)


def _report(run: Run, outcomes: list[tuple[Case, Outcome]]) -> LayerReport:
    rows = [outcome for _, outcome in outcomes if not outcome.undecided]
    compared, ties = len(rows), sum(row.tie for row in rows)
    meant = [row for row in rows if row.choice and row.difference is not None] if run.expects_difference else []
    differences = [row.difference for row in rows if row.difference is not None and row not in meant]
    notes = [note for _, row in outcomes for note in row.notes] + _survival(run, rows)
    parted = [row for row in rows if row.at is not None]
    report = LayerReport(
        name=LayerName.TEXT,
        status="fail" if differences else "pass" if compared else "inconclusive",
        summary=f"all {compared - ties} answers are word for word the same",
        compared=compared,
        agreed=compared - ties - len(differences) - len(meant),
        metrics={
            "near_ties": float(ties),
            "parted": float(len(parted)),
            "contained_where_parted": float(sum(row.contained for row in parted)),
        },
        thresholds={"tie_margin": run.settings.tie_margin},
        differences=differences[:MAX_DIFFERENCES],
        notes=notes,
    )
    if not compared:
        report.summary = "no answer could be compared"
    elif differences:
        report.summary = f"{len(differences)} of {compared} answers differ; the first: {differences[0].reason}"
    else:
        if ties:
            report.summary = f"{compared - ties} of {compared} answers are the same, {ties} part at a near tie"
        if meant:
            _judge_meant(run, report, meant)
        elif compared < run.settings.min_compared:
            report.status = "inconclusive"
            report.summary += f"; only {compared} were compared, and {run.settings.min_compared} are needed"
        report.notes += _upper_rate(run, report)
    return report


def _asked_of_reference(run: Run, case: Case, answer: Generation, at: int) -> bool | None:
    assert case.source_answer is not None
    (ours, _), (theirs, _) = run.answer_ids(case.source_answer), run.answer_ids(answer)
    if at >= min(len(ours), len(theirs)):
        return None
    return reference.sides_with_target(run, case, ours[:at], ours[at], theirs[at])


def _judge_meant(run: Run, report: LayerReport, rows: list[Outcome]) -> None:
    """Answers that part because the weights are meant to differ: does the reference take the source's side?

    If the target is as good as the source, it sides with either as often; the test is the one-sided sign test.
    """
    sides = [row.nearer for row in rows if row.nearer is not None]
    ours, theirs = sides.count(False), sides.count(True)
    report.metrics |= {"reference_with_source": float(ours), "reference_with_target": float(theirs)}
    report.summary = f"{report.agreed} of {report.compared} answers are the same, {len(rows)} part as they may"
    report.notes += [f"«{row.difference.conversation}»: {row.difference.reason}" for row in rows if row.difference]
    if run.reference is None:
        report.status = "inconclusive"
        report.summary += ": the weights are meant to differ, and without --reference nothing tells which is better"
        return
    from migrate.parity.statistics import stats

    report.summary += f"; the reference sides {theirs} times with the target, {ours} times with the source"
    differ = ours + theirs
    p = float(stats().binomtest(ours, differ, 0.5, alternative="greater").pvalue) if differ else 1.0
    report.metrics["p_worse"] = p
    if p < run.settings.alpha:
        report.status, report.summary = "fail", f"{report.summary}: different, and worse (p {p:.2g})"


def _upper_rate(run: Run, report: LayerReport) -> list[str]:
    """What "none differs" is worth with so many conversations."""
    from migrate.parity.statistics import upper_rate

    try:
        most = upper_rate(0, report.compared, run.settings.confidence)
    except MissingExtra:
        return []
    report.metrics["rate_upper"] = most
    return [
        f"with {report.compared} conversations and no difference in kind, up to {most:.1%} of such requests could "
        f"still be answered differently ({run.settings.confidence:.0%} confidence)"
    ]


def _survival(run: Run, rows: list[Outcome]) -> list[str]:
    """Adds the curve of answers that still agree to the evidence; what there is to say about it."""
    if not rows:
        return []
    from migrate.parity.statistics import survival

    try:
        run.evidence.survival.append(survival("target against source", [(row.at, row.tokens) for row in rows]))
    except MissingExtra as error:
        return [f"no survival curve: {error}"]
    return []


def _keep_example(run: Run, case: Case, outcome: Outcome, source: Generation, target: Generation) -> None:
    if len(run.evidence.examples) >= MAX_EXAMPLES:
        return
    ours, theirs = (text[:EXAMPLE_CHARACTERS] for text in (source.text, target.text))
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    if outcome.difference is not None:
        reason = outcome.difference.reason
    else:
        reason = "a near tie" if not case.unstable else f"{case.unstable} does not answer it twice the same"
    run.evidence.examples.append(
        Example(conversation=case.name, layer=LayerName.TEXT, reason=reason, at=at, source=ours, target=theirs)
    )


def _ask(run: Run, case: Case) -> Generation | Difference | None:
    """None where prompt and answer together are longer than the target's context."""
    if case.target_answer is not None:
        return case.target_answer
    try:
        return run.target.generate(
            case.target_conversation, max_tokens=run.settings.max_tokens, top_logprobs=run.settings.top
        )
    except ServerError as error:
        if not is_refusal(error):
            raise
        if is_too_long(error):
            return None
        return Difference(conversation=case.name, reason=f"the target refuses the conversation: {error}")


def compare(run: Run, case: Case, source: Generation, target: Generation) -> Outcome:
    """Two answers: token by token, then where they end, then as text."""
    (ours, all_ours), (theirs, all_theirs) = run.answer_ids(source), run.answer_ids(target)
    outcome = Outcome(tokens=len(ours))
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    if at == min(len(ours), len(theirs)) and not (all_ours and all_theirs):
        return _without_ids(case, source, target)
    if at < min(len(ours), len(theirs)) or len(ours) != len(theirs):
        outcome.at = at
        _diverged(run, case, source, target, outcome)
    elif source.finish_reason != target.finish_reason:
        reason = f"same words, but the source ends with {source.finish_reason!r}, the target {target.finish_reason!r}"
        outcome.difference = Difference(conversation=case.name, reason=reason, position=at)
    else:
        outcome.difference = _compare_text(case, source, target, outcome.notes)
    return outcome


def _without_ids(case: Case, source: Generation, target: Generation) -> Outcome:
    """Nothing but what clients see, where not all tokens are known. A difference may be a near tie and decides nothing,
    but for a target that goes on where the source has ended."""
    outcome = Outcome(tokens=len(source.tokens))
    sides = [(answer.thinking.strip(), answer.text.strip()) for answer in (source, target)]
    apart = bool(source.thinking) != bool(target.thinking) or source.tool_calls or target.tool_calls
    if not apart and sides[0] == sides[1]:
        outcome.difference = _compare_text(case, source, target, outcome.notes)
    elif apart or not (source.finish_reason == "stop" and target.text.startswith(source.text)):
        outcome.undecided = True
        why = "calls or reasoning are told apart differently" if apart else "the source does not tell all of its tokens"
        outcome.notes.append(f"«{case.name}»: the answers differ, and that cannot be judged: {why}")
    else:
        outcome.difference = Difference(
            conversation=case.name,
            reason="the source stops here, the target goes on",
            source=repr((source.thinking + source.text)[-200:]),
            target=repr((target.thinking + target.text)[:200]),
        )
    return outcome


def _diverged(run: Run, case: Case, source: Generation, target: Generation, outcome: Outcome) -> None:
    """Two answers part at token `outcome.at`: an end that only one sees, a near tie, or a real difference."""
    at = outcome.at or 0
    ours = with_ids(source.tokens[at], run.vocabulary) if at < len(source.tokens) else None
    theirs = target.tokens[at] if at < len(target.tokens) else None
    shown = _continuation(run, source, at), _continuation(run, target, at)

    def difference(reason: str) -> Difference:
        return Difference(conversation=case.name, reason=reason, position=at, source=shown[0], target=shown[1])

    source_ended = source.finish_reason == "stop" and at >= len(run.answer_ids(source)[0])
    if source_ended and theirs is not None and theirs.id in run.vocabulary.special and at + 1 < len(target.tokens):
        outcome.contained = False
        outcome.difference = difference(
            f"the source stops here; the target generates {run.vocabulary.show(theirs.id)} ({theirs.id}) and goes on: "
            "it is missing from eos_token_id"
        )
        return
    gap = near_tie_gap(ours, theirs, run.bundle.eos_ids if source_ended else (), run.vocabulary.special)
    outcome.contained = gap is not None
    outcome.choice = ours is not None and theirs is not None
    if gap is not None and gap <= run.settings.tie_margin:
        outcome.tie = True
        outcome.notes.append(
            f"«{case.name}» parts at token {at}, a near tie ({gap:.3f} nats): source {shown[0]}; target {shown[1]}"
        )
    elif source_ended and theirs is not None and ours is None:
        outcome.difference = difference("the source stops here, the target goes on")
    elif gap is None:
        outcome.difference = difference("the answers part, and one side does not consider the other's choice")
    else:
        outcome.difference = difference(f"the answers part where the choices are {gap:.3f} nats apart")


def near_tie_gap(
    source: TokenLogprob | None,
    target: TokenLogprob | None,
    ends: tuple[int, ...] = (),
    special: frozenset[int] = frozenset(),
) -> float | None:
    """How far apart, in nats, the two choices are on the side that separates them more.

    A side that stopped without telling its last token (Ollama) is taken to have chosen one of `ends`; a candidate
    without id and bytes (Ollama's for a special token) stands for any of `special`. None when a
    choice is not listed on the other side, or nothing is known.
    """
    if target is None or (source is None and not ends):
        return None
    wanted = {source.id} if source is not None else set(ends)
    found = [c.logprob for c in target.top if c.id in wanted]
    if not found:
        return None
    gaps = [target.logprob - max(found)]
    if source is not None and source.top:
        nameless = b"" if target.id in special else target.text
        other = [c.logprob for c in source.top if (c.text == nameless if c.id is None else c.id == target.id)]
        if not other:
            return None
        gaps.append(source.logprob - max(other))
    return max(gaps)


def _continuation(run: Run, answer: Generation, at: int) -> str:
    """What an answer says from token `at` on, and its candidates there."""
    if at >= len(answer.tokens):
        return f"(end, {answer.finish_reason})"
    rest = [t.id if t.id is not None else run.vocabulary.id_of(t.text) for t in answer.tokens[at : at + 8]]
    text = run.vocabulary.show_all([i for i in rest if i is not None])
    return f"{text!r} [{choices(with_ids(answer.tokens[at], run.vocabulary).top, run.vocabulary)}]"


def _compare_text(case: Case, source: Generation, target: Generation, notes: list[str]) -> Difference | None:
    """The texts that clients see. Parsed tool calls and reasoning are taken out of it differently on both sides."""
    if source.tool_calls or target.tool_calls or source.thinking or target.thinking or source.text == target.text:
        return None
    if source.text.strip() == target.text.strip():
        notes.append(f"«{case.name}»: the texts differ in white space at their ends")
        return None
    return Difference(
        conversation=case.name,
        reason="the texts differ",
        source=repr(source.text[:200]),
        target=repr(target.text[:200]),
    )
