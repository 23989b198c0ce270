"""Layer 4: is the greedy answer the same text, and does it end at the same place?"""

from __future__ import annotations

from migrate.engines.base import Generation, TokenLogprob
from migrate.errors import ServerError
from migrate.parity.case import Case, Run, is_refusal
from migrate.parity.logprobs import choices
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport


def check(run: Run) -> LayerReport:
    """The target is asked as a client asks it: a chat request, greedy, penalties off."""
    differences: list[Difference] = []
    notes: list[str] = []
    compared = ties = 0
    for case in run.open_cases:
        if case.target_ids is None:
            continue
        expected = run.source_answer(case)
        if expected is None:
            continue
        compared += 1
        answer = _ask(run, case)
        if isinstance(answer, Difference):
            differences.append(answer)
            continue
        tie, difference = compare(run, case, expected, answer, notes)
        ties += tie
        if difference is not None:
            differences.append(difference)
    report = LayerReport(
        name=LayerName.TEXT,
        status="fail" if differences else "pass" if compared else "inconclusive",
        summary=f"all {compared - ties} answers are word for word the same",
        compared=compared,
        agreed=compared - ties - len(differences),
        metrics={"near_ties": float(ties)},
        thresholds={"tie_margin": run.settings.tie_margin},
        differences=differences[:MAX_DIFFERENCES],
        notes=notes,
    )
    if not compared:
        report.summary = "no answer could be compared"
    elif differences:
        report.summary = f"{len(differences)} of {compared} answers differ; the first: {differences[0].reason}"
    elif ties:
        report.summary = f"{compared - ties} of {compared} answers are the same, {ties} part at a near tie"
    return report


def _ask(run: Run, case: Case) -> Generation | Difference:
    try:
        return run.target.generate(
            case.target_conversation, max_tokens=run.settings.max_tokens, top_logprobs=run.settings.top
        )
    except ServerError as error:
        if not is_refusal(error):
            raise
        return Difference(conversation=case.name, reason=f"the target refuses the conversation: {error}")


def compare(
    run: Run, case: Case, source: Generation, target: Generation, notes: list[str]
) -> tuple[bool, Difference | None]:
    """(near tie, difference) of two answers: token by token, then where they end, then as text."""
    ours, theirs = run.answer_ids(source), run.answer_ids(target)
    if ours is None or theirs is None:
        return False, _compare_text(case, source, target, notes)
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    if at < min(len(ours), len(theirs)) or len(ours) != len(theirs):
        return _diverged(run, case, source, target, at, notes)
    if source.finish_reason != target.finish_reason:
        reason = f"same words, but the source ends with {source.finish_reason!r}, the target {target.finish_reason!r}"
        return False, Difference(conversation=case.name, reason=reason, position=at)
    return False, _compare_text(case, source, target, notes)


def _diverged(
    run: Run, case: Case, source: Generation, target: Generation, at: int, notes: list[str]
) -> tuple[bool, Difference | None]:
    """Two answers part at token `at`: an end that only one sees, a near tie, or a real difference."""
    ours = source.tokens[at] if at < len(source.tokens) else None
    theirs = target.tokens[at] if at < len(target.tokens) else None
    shown = _continuation(run, source, at), _continuation(run, target, at)

    def difference(reason: str) -> Difference:
        return Difference(conversation=case.name, reason=reason, position=at, source=shown[0], target=shown[1])

    source_ended = source.finish_reason == "stop" and at >= len(run.answer_ids(source) or ())
    if source_ended and theirs is not None and theirs.id in run.vocabulary.special and at + 1 < len(target.tokens):
        reason = (
            f"the source stops here; the target generates {run.vocabulary.show(theirs.id)} ({theirs.id}) and goes on: "
            "it is missing from eos_token_id"
        )
        return False, difference(reason)
    gap = near_tie_gap(ours, theirs, run.bundle.eos_ids if source_ended else ())
    if gap is not None and gap <= run.settings.tie_margin:
        notes.append(
            f"«{case.name}» parts at token {at}, a near tie ({gap:.3f} nats): source {shown[0]}; target {shown[1]}"
        )
        return True, None
    if source_ended and theirs is not None and ours is None:
        reason = "the source stops here, the target goes on"
    elif gap is None:
        reason = "the answers part, and one side does not consider the other's choice"
    else:
        reason = f"the answers part where the choices are {gap:.3f} nats apart"
    return False, difference(reason)


def near_tie_gap(source: TokenLogprob | None, target: TokenLogprob | None, ends: tuple[int, ...] = ()) -> float | None:
    """How far apart, in nats, the two choices are on the side that separates them more.

    A side that stopped without telling its last token (Ollama) is taken to have chosen one of `ends`. None when a
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
        other = [
            c.logprob for c in source.top if (c.id, c.text)[c.id is None] == (target.id, target.text)[c.id is None]
        ]
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
    return f"{text!r} [{choices(answer.tokens[at].top, run.vocabulary)}]"


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
