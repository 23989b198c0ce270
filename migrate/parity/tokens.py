"""Layer 2: does the prompt become the same token ids? Here a lost or doubled BOS shows."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.errors import ServerError
from migrate.parity.case import TOO_LONG, Case, Run, is_refusal, is_too_long
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport
from migrate.parity.vocabulary import Vocabulary

CONTEXT_TOKENS = 6


def check(run: Run) -> LayerReport:
    """Fills the ids of every case. A source that tells no ids (Ollama) can only be held to its count."""
    differences: list[Difference] = []
    counted = not run.source.capabilities.tokenize
    compared = 0
    for case in run.open_cases:
        if case.source_text is None and not counted:
            continue
        try:
            case.target_ids = run.target.tokenize(case.target_conversation)
        except ServerError as error:
            if not is_refusal(error):
                raise
            if is_too_long(error):
                case.excluded = TOO_LONG
                continue
            compared += 1
            case.excluded = f"the target refuses it: {error}"
            differences.append(Difference(conversation=case.name, reason=f"the target refuses the prompt: {error}"))
            continue
        difference = _compare_count(run, case) if counted else _compare_ids(run, case)
        if case.excluded:
            continue
        compared += 1
        if difference is not None:
            differences.append(difference)
    report = LayerReport(name=LayerName.TOKENS, status="pass", summary="", compared=compared)
    report.agreed = compared - len(differences)
    if counted:
        report.notes.append("Ollama tells how many tokens a prompt has, not which: only the number is compared")
    what = "numbers of tokens" if counted else "token ids"
    if compared == 0:
        report.status, report.summary = "inconclusive", "no prompt could be tokenized on both sides"
    elif differences:
        report.status, report.differences = "fail", differences[:MAX_DIFFERENCES]
        report.summary = f"{len(differences)} of {compared} prompts differ; the first: {differences[0].reason}"
    else:
        report.summary = f"the same {what} for all {compared} prompts"
    return report


def _compare_count(run: Run, case: Case) -> Difference | None:
    answer = run.source_answer(case)
    ids = case.target_ids or ()
    if answer is None or answer.prompt_tokens == len(ids):
        return None
    count = answer.prompt_tokens
    reason = f"{count} tokens became {len(ids)}"
    beginning = f"the target's prompt begins with {run.vocabulary.show(ids[0])}" if ids else "the target's is empty"
    if count == len(ids) + 1:
        reason += ", as when BOS is lost"
    elif count == len(ids) - 1:
        reason += ", as when BOS is added where the source has none"
    return Difference(conversation=case.name, reason=f"{reason} ({beginning})", source=str(count), target=str(len(ids)))


def _compare_ids(run: Run, case: Case) -> Difference | None:
    assert case.source_text is not None
    # vLLM's text has its BOS written out, and /tokenize of a text would add another.
    asked = case.conversation if run.source.kind == "vllm" else case.source_text
    case.source_ids = run.source.tokenize(asked)
    return first_difference(case.name, case.source_ids, case.target_ids or (), run.vocabulary)


def first_difference(
    name: str, source: Sequence[int], target: Sequence[int], vocabulary: Vocabulary
) -> Difference | None:
    """Where two lists of ids part; None when they are the same."""
    source, target = tuple(source), tuple(target)
    if source == target:
        return None
    at = next(
        (i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b), min(len(source), len(target))
    )
    if source[1:] == target:
        reason = f"the target's prompt lacks the first token {vocabulary.show(source[0])} (BOS)"
    elif target[1:] == source:
        reason = f"the target's prompt begins with {vocabulary.show(target[0])}, the source's does not"
    elif at < min(len(source), len(target)):
        reason = f"token {at} is {vocabulary.show(source[at])} and became {vocabulary.show(target[at])}"
    else:
        reason = f"{len(source)} tokens became {len(target)}"
    return Difference(
        conversation=name,
        reason=reason,
        position=at,
        source=_window(source, at, vocabulary),
        target=_window(target, at, vocabulary),
    )


def _window(ids: tuple[int, ...], at: int, vocabulary: Vocabulary) -> str:
    start = max(0, at - CONTEXT_TOKENS)
    shown = ids[start : at + CONTEXT_TOKENS]
    return ("…" if start else "") + " ".join(f"{vocabulary.show(i)}:{i}" for i in shown)
