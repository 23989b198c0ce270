"""Where answers end: max tokens, stop strings of the request and of the model, the context's length, empty input."""

from __future__ import annotations

import re

from migrate.engines.base import Ask, Conversation, Generation
from migrate.errors import EngineError, ServerError
from migrate.parity.behaviours.probe import Found, Refusal, ask_source, ask_target, plain_cases, shown, wordy
from migrate.parity.case import Run

SHORT = 3
MAX_OVERFLOW_TOKENS = 40_000
"""A longer context is not filled: the prompt would take megabytes and minutes."""
MAX_STOPS = 4
MAX_FORCED_TOKENS = 1024


def max_tokens(run: Run) -> Found:
    """Both stop after three tokens and say "length"."""
    case = wordy(run, SHORT + 2)
    if case is None:
        return Found("unknown", "no answer is long enough to be cut")
    ask = Ask(max_tokens=SHORT)
    answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
    wrong = []
    for side, answer in zip(("source", "target"), answers, strict=True):
        if isinstance(answer, Refusal):
            wrong.append(f"the {side} refuses it")
        elif answer.finish_reason != "length":
            wrong.append(f"the {side} ends with {answer.finish_reason!r}")
        elif answer.completion_tokens not in (None, SHORT):
            wrong.append(f"the {side} gives {answer.completion_tokens} tokens")
    return _judge(wrong, f"asked for {SHORT} tokens", *answers)


def max_tokens_of_the_model(run: Run) -> Found:
    """PARAMETER num_predict limits answers whose request names no limit: a schema forces one that is longer.

    It shows a server that does not read the bundle's generation_config.json at all.
    """
    limit = run.bundle.facts.source.limit
    cases = plain_cases(run)
    if limit is None or not cases:
        return Found("unknown", "the model sets no num_predict" if limit is None else "no plain conversation is left")
    if limit > MAX_FORCED_TOKENS:
        return Found("unknown", f"num_predict {limit} is too long to be written out")
    long = " ".join(str(number) for number in range(limit + 8))
    ask = Ask(format={"type": "string", "enum": [long]})
    answer = ask_target(run, cases[0].target_conversation, ask)
    if isinstance(answer, Refusal):
        return Found("unknown", "a schema with one long string is refused", target=shown(answer))
    if answer.finish_reason == "length" and answer.completion_tokens in (None, limit):
        return Found("same", f"an answer without a limit ends after num_predict, {limit} tokens")
    if answer.finish_reason == "length" and (answer.completion_tokens or 0) < limit:
        return Found("unknown", f"the context ends before {limit} tokens", target=shown(answer))
    detail = f"num_predict {limit} does not limit the target: does it run with the bundle's generation config?"
    return Found("different", detail, target=shown(answer))


def stop_of_the_request(run: Run) -> Found:
    """A word of a side's own greedy answer, sent as `stop`, ends that answer before it."""
    word = re.compile(r"\w{2,}")
    for case in plain_cases(run):
        full = ask_target(run, case.target_conversation, Ask(max_tokens=run.settings.max_tokens))
        ours = case.source_answer
        if isinstance(full, Refusal) or ours is None:
            continue
        common = [w for w in word.findall(full.text)[1:] if w in ours.text and full.text.find(w) > 0]
        if not common:
            continue
        stop = common[len(common) // 2]
        ask = Ask(max_tokens=run.settings.max_tokens, stop=(stop,))
        answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
        wrong = []
        for side, answer, whole in zip(("source", "target"), answers, (ours, full), strict=True):
            if isinstance(answer, Refusal):
                wrong.append(f"the {side} refuses it")
            elif not _ended_before(stop, answer, whole):
                wrong.append(f"the {side} does not end before it")
        return _judge(wrong, f"stop {stop!r} in the request", *answers)
    return Found("unknown", "no answer has a word to stop at")


def _ended_before(stop: str, answer: Generation, whole: Generation) -> bool:
    """An answer that words itself otherwise than before (`noise`) only must not contain the stop string."""
    if stop in answer.text:
        return False
    if not whole.text.startswith(answer.text):
        return True
    return answer.text == whole.text[: whole.text.find(stop)] and answer.finish_reason == "stop"


def stops_of_the_model(run: Run) -> Found:
    """The model's own stop strings work without being sent: both sides are made to write each by a schema."""
    wanted = [stop for stop in run.bundle.facts.source.stop if _can_be_forced(run, stop)]
    if not wanted:
        return Found("unknown", "the model has no stop strings that a schema can force (control tokens end by id)")
    cases = plain_cases(run)
    if not cases:
        return Found("unknown", "no plain conversation is left")
    case = cases[0]
    neither = []
    for stop in wanted[:MAX_STOPS]:
        ask = Ask(max_tokens=160, format={"type": "string", "enum": [f"before {stop} after"]})
        answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
        ours, theirs = (answer if isinstance(answer, Generation) else None for answer in answers)
        if ours is None or theirs is None:
            return Found("unknown", "a schema with one string is refused", *map(shown, answers))
        if "after" in theirs.text and "after" not in ours.text:
            return Found("different", f"the source stops at {stop!r}, the target writes on", *map(shown, answers))
        if "after" in ours.text and "after" not in theirs.text:
            return Found("different", f"the target stops at {stop!r}, the source writes on", *map(shown, answers))
        if "after" in theirs.text:
            neither.append(stop)
    if neither:
        return Found("told", f"neither side stops at {', '.join(map(repr, neither))}, which the model sets")
    return Found("same", f"{len(wanted[:MAX_STOPS])} stop strings of the model end an answer without being sent")


def _can_be_forced(run: Run, stop: str) -> bool:
    """As text inside a JSON string: printable, without escapes, and no control token."""
    special = {run.vocabulary.names[i] for i in run.vocabulary.special}
    plain = stop.isprintable() and '"' not in stop and "\\" not in stop and bool(stop.strip())
    return plain and not any(name in stop for name in special)


def context_overflow(run: Run) -> Found:
    """A prompt that is longer than the context: vLLM has to say so with 400, and keep running."""
    limit = run.target.context_length()
    if limit is None or limit > MAX_OVERFLOW_TOKENS:
        why = f"the context of {limit} tokens is too long to overfill" if limit else "the target tells no limit"
        return Found("unknown", why)
    text = "one two three four five six seven eight nine ten " * (limit // 8 + 8)
    long = Conversation("longer than the context", ({"role": "user", "content": text},))
    try:
        run.target.chat(long, Ask(max_tokens=1))
    except ServerError as error:
        if 400 <= error.status < 500:
            return Found(
                "told",
                f"a prompt of more than {limit} tokens is refused with {error.status}; Ollama drops old messages or "
                "cuts it without a word",
            )
        return Found("different", f"a prompt that is too long breaks the target: {error}")
    return Found("unknown", f"the target takes a prompt that should be longer than its {limit} tokens")


def empty_input(run: Run) -> Found:
    """An empty message is answered, or refused, by both."""
    asked = Conversation("empty", ({"role": "user", "content": ""},))
    case = run.prepare(asked)
    if case is None:
        return Found("unknown", "the source cannot be asked an empty message")
    answers = ask_source(run, case, Ask(max_tokens=4)), ask_target(run, asked, Ask(max_tokens=4))
    refused = [isinstance(answer, Refusal) for answer in answers]
    if refused[0] != refused[1]:
        side = "source" if refused[0] else "target"
        return Found("different", f"only the {side} refuses an empty message", *map(shown, answers))
    return Found("same", "an empty message is " + ("refused" if refused[0] else "answered") + " by both")


def still_alive(run: Run) -> Found:
    """After all that, a plain question is still answered as before."""
    for case in plain_cases(run)[:1]:
        try:
            answer = run.target.chat(case.target_conversation, Ask(max_tokens=4))
        except EngineError as error:
            return Found("different", f"the target does not answer any more: {error}")
        return Found("same", "the target still answers", target=shown(answer))
    return Found("unknown", "no plain conversation is left")


def _judge(wrong: list[str], what: str, source: Generation | Refusal, target: Generation | Refusal) -> Found:
    """A fault of the target fails; one of the source alone is only told."""
    if any("target" in reason for reason in wrong):
        return Found("different", f"{what}: {'; '.join(wrong)}", shown(source), shown(target))
    if wrong:
        return Found("told", f"{what}: {'; '.join(wrong)}", shown(source), shown(target))
    return Found("same", f"{what}: both do")
