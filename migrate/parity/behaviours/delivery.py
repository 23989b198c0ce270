"""How answers come: streamed, seeded, many at a time, and with penalties on."""

from __future__ import annotations

from migrate.engines.base import Ask, Generation
from migrate.errors import EngineError, ServerError
from migrate.mapping.parameters import PLUGIN
from migrate.parity.behaviours.probe import Found, Refusal, ask_source, ask_target, plain_cases, shown, wordy
from migrate.parity.case import Case, Run, is_refusal

AT_ONCE = 8
PENALTY = 1.3
PENALTY_WINDOW = 64


def streaming(run: Run) -> Found:
    """A stream says what the whole answer says, in more than one piece, and how it ended."""
    case = wordy(run, 4)
    if case is None:
        return Found("unknown", "no answer is long enough to come in pieces")
    ask = Ask(max_tokens=run.settings.max_tokens)
    whole = ask_target(run, case.target_conversation, ask)
    pieces = ask_target(run, case.target_conversation, Ask(max_tokens=run.settings.max_tokens, stream=True))
    source = ask_source(run, case, Ask(max_tokens=run.settings.max_tokens, stream=True))
    if isinstance(whole, Refusal) or isinstance(pieces, Refusal):
        return Found("different", "the target does not stream", shown(source), shown(pieces))
    both = shown(whole), shown(pieces)
    if _said(whole) != _said(pieces):
        again = ask_target(run, case.target_conversation, ask)
        if _said(again) != _said(whole):
            return Found("unknown", "the target does not answer twice the same, so a stream may differ", *both)
        what = "says different things" if whole.text != pieces.text else "ends differently"
        return Found("different", f"streamed and whole, the target {what}", *both)
    if (pieces.completion_tokens or 0) > 2 and pieces.chunks < 2 and pieces.text:
        return Found("different", f"{pieces.completion_tokens} tokens came in {pieces.chunks} piece", *both)
    if isinstance(source, Generation) and source.text and not source.chunks:
        return Found("told", "the source does not stream", shown(source), shown(pieces))
    return Found("same", f"streams arrive in pieces ({pieces.chunks} on the target) and say the same as whole answers")


def seeds(run: Run) -> Found:
    """With a seed and a temperature the target gives the same answer again, as the source does."""
    case = wordy(run, 4)
    if case is None:
        return Found("unknown", "no answer is long enough")
    ask = Ask(max_tokens=16, greedy=False, seed=7, sampling={"temperature": 1.0})
    ours = [ask_source(run, case, ask) for _ in range(2)]
    theirs = [ask_target(run, case.target_conversation, ask) for _ in range(2)]
    repeats = [_texts(side)[0] == _texts(side)[1] for side in (ours, theirs)]
    if repeats[0] and not repeats[1]:
        return Found("different", "a seed gives the same answer again only on the source", *map(shown, theirs))
    if not repeats[1]:
        return Found("told", "a seed does not give the same answer again, on neither side", *map(shown, theirs))
    return Found("same", "a seed gives the same answer again (not the same one on both sides: samplers differ)")


def at_once(run: Run) -> Found:
    """Many requests at a time are all answered, each with its own answer."""
    cases = plain_cases(run)[:AT_ONCE]
    if len(cases) < 2:
        return Found("unknown", "there are not two conversations to ask at once")
    ask = Ask(max_tokens=min(24, run.settings.max_tokens))
    alone = [ask_target(run, case.target_conversation, ask) for case in cases]
    try:
        together = run.at_once(lambda case: _tried(run, case, ask), cases, AT_ONCE)
    except EngineError as error:
        return Found("different", f"{len(cases)} requests at once are not all answered: {error}")
    said = [answer.text for answer in alone if isinstance(answer, Generation)]
    same = 0
    for case, own, answer in zip(cases, alone, together, strict=True):
        if isinstance(own, Refusal) or isinstance(answer, Refusal):
            if isinstance(own, Refusal) != isinstance(answer, Refusal):
                detail = f"«{case.name}» is refused only with others beside it"
                return Found("different", detail, shown(own), shown(answer))
            continue
        same += own.text == answer.text
        if own.text != answer.text and len(answer.text) > 8 and answer.text in said:
            detail = f"«{case.name}» gets another conversation's answer when asked with others"
            return Found("different", detail, shown(own), shown(answer))
    detail = f"{len(cases)} at once are all answered, {same} word for word as alone"
    if 2 * same < len(said):
        return Found("told", f"{detail}: run parity with --concurrency {AT_ONCE}, which measures the noise of that")
    return Found("same", detail)


def penalties(run: Run) -> Found:
    """The penalty alone, where it means the same: prompt and answer inside the window of 64 tokens.

    Never a failure: llama.cpp looks at the last 64 tokens, vLLM at the whole conversation (vllm.md section 3.3).
    """
    plugin = PLUGIN in run.bundle.facts.files
    room = [
        case
        for case in plain_cases(run)
        if case.target_ids and (plugin or len(case.target_ids) <= PENALTY_WINDOW - 16) and case.source_answer
    ][:4]
    if not room:
        return Found("unknown", f"no prompt is short enough to stay within {PENALTY_WINDOW} tokens")
    same, compared = 0, 0
    example: tuple[str, str] = ("", "")
    for case in room:
        limit = PENALTY_WINDOW if plugin else PENALTY_WINDOW - len(case.target_ids or ())
        ask = Ask(max_tokens=limit, repeat_penalty=PENALTY, plugin=plugin)
        answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
        if any(isinstance(answer, Refusal) for answer in answers):
            continue
        compared += 1
        texts = [answer.text.strip() for answer in answers if isinstance(answer, Generation)]
        if texts[0] == texts[1]:
            same += 1
        else:
            example = shown(answers[0]), shown(answers[1])
    if plugin:
        return Found(
            "same" if same == compared else "told",
            f"with a penalty of {PENALTY}, by the bundle's plugin, {same} of {compared} answers are the same",
            *example,
        )
    detail = (
        f"with a penalty of {PENALTY} and inside {PENALTY_WINDOW} tokens {same} of {compared} answers are the same; "
        "beyond them the two mean different things"
    )
    return Found("same" if same == compared else "told", detail, *example)


def _said(answer: Generation | Refusal) -> tuple[str, ...]:
    if isinstance(answer, Refusal):
        return (answer.reason,)
    return answer.text, answer.thinking, answer.finish_reason


def _tried(run: Run, case: Case, ask: Ask) -> Generation | Refusal:
    try:
        return run.target.chat(case.target_conversation, ask)
    except ServerError as error:
        if is_refusal(error):
            return Refusal(error.status, str(error))
        raise


def _texts(answers: list[Generation | Refusal]) -> list[str]:
    return [answer.text if isinstance(answer, Generation) else f"refused: {answer.status}" for answer in answers]
