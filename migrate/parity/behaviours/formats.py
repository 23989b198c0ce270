"""Answers with a form: JSON, a schema, text beyond ASCII, tool calls, reasoning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from migrate.engines.base import Ask, Generation
from migrate.parity.behaviours.probe import Found, Refusal, ask_source, ask_target, plain_cases, shown
from migrate.parity.case import Case, Run

UNICODE = "naïve 日本語 🎉 ñandú"
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}, "sure": {"type": "boolean"}},
    "required": ["answer", "sure"],
    "additionalProperties": False,
}
JSON_TOKENS = 96


def json_mode(run: Run) -> Found:
    """`format: "json"` gives a JSON object, or one that the token limit cut."""
    return _both(run, Ask(max_tokens=JSON_TOKENS, format="json"), _is_object, "format json")


def json_schema(run: Run) -> Found:
    """A schema is held to."""
    return _both(run, Ask(max_tokens=JSON_TOKENS, format=SCHEMA), _fits_schema, "a JSON schema")


def unicode_stream(run: Run) -> Found:
    """Text beyond ASCII survives streaming: no character is cut between two chunks."""
    ask = Ask(max_tokens=JSON_TOKENS, format={"type": "string", "enum": [UNICODE]}, stream=True)
    return _both(run, ask, lambda text: _parsed(text) == UNICODE, "text beyond ASCII, streamed")


def tool_calls(run: Run) -> Found:
    """Whether the same functions are called with the same arguments, where both servers parse calls."""
    cases = [case for case in run.open_cases if case.conversation.tools and case.target_ids]
    if not cases:
        return Found("unknown", "the model's template prints no tools")
    first = ask_target(run, cases[0].target_conversation, Ask(max_tokens=1, call_tools=True))
    if isinstance(first, Refusal):
        if not run.bundle.parses_tools:
            return Found("told", "the bundle has no parser for this model's calls: such requests are refused")
        return Found("different", "the target refuses requests whose tools may be called", target=shown(first))
    if run.source.kind == "llama.cpp":
        return Found("unknown", "llama.cpp is asked below its tool parser: compare with a live Ollama")
    called = 0
    for case in cases:
        ask = Ask(max_tokens=run.settings.max_tokens * 2, call_tools=True)
        answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
        ours, theirs = (_calls(answer) for answer in answers)
        called += bool(ours)
        if ours != theirs:
            if _agreed(case):
                detail = f"«{case.name}»: the same words, but {_say(ours)} became {_say(theirs)}"
                return Found("different", detail, *map(shown, answers))
            return Found("unknown", f"«{case.name}»: the words differ already, so the calls may", *map(shown, answers))
    if not called:
        return Found("unknown", f"neither side calls a tool in {len(cases)} conversations with tools (both take them)")
    return Found("same", f"{len(cases)} conversations with tools, {called} calls: the same on both sides")


def thinking(run: Run) -> Found:
    """Reasoning is told apart from the answer on both sides, or on neither."""
    for case in plain_cases(run):
        ask = Ask(max_tokens=run.settings.max_tokens)
        ours = case.source_answer
        if ours is None or run.source.kind == "llama.cpp":
            continue
        theirs = ask_target(run, case.target_conversation, ask)
        if isinstance(theirs, Refusal) or not (ours.thinking or theirs.thinking):
            continue
        if bool(ours.thinking) != bool(theirs.thinking):
            side = "source" if ours.thinking else "target"
            detail = f"only the {side} tells reasoning apart from the answer"
            return Found("different", detail, shown(ours), shown(theirs))
        return Found("same", "both tell reasoning apart from the answer")
    return Found("unknown", "no answer has reasoning that is told apart")


def _both(run: Run, ask: Ask, fits: Any, what: str) -> Found:
    """`fits(text)` on both sides; a fault of the target alone is a difference."""
    cases = plain_cases(run)
    if not cases:
        return Found("unknown", "no plain conversation is left")
    case = cases[0]
    answers = ask_source(run, case, ask), ask_target(run, case.target_conversation, ask)
    good = [isinstance(answer, Generation) and (fits(answer.text) or _cut(answer)) for answer in answers]
    if good[1]:
        return Found("same" if good[0] else "told", f"{what}: " + ("both do" if good[0] else "only the target does"))
    if not good[0]:
        return Found("told", f"{what}: neither side does", *map(shown, answers))
    return Found("different", f"{what}: only the source does", *map(shown, answers))


def _cut(answer: Generation) -> bool:
    """Ended by the limit: JSON that is not finished, but begun like JSON."""
    return answer.finish_reason == "length" and answer.text.lstrip()[:1] in ("{", '"', "")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_object(text: str) -> bool:
    return isinstance(_parsed(text), dict)


def _fits_schema(text: str) -> bool:
    value = _parsed(text)
    return (
        isinstance(value, dict)
        and value.keys() == {"answer", "sure"}
        and value["answer"] in ("yes", "no")
        and isinstance(value["sure"], bool)
    )


def _calls(answer: Generation | Refusal) -> list[tuple[str, Any]]:
    if isinstance(answer, Refusal):
        return []
    return [_call(call) for call in answer.tool_calls]


def _call(call: Mapping[str, Any]) -> tuple[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments")
    return str(function.get("name")), _parsed(arguments) if isinstance(arguments, str) else arguments


def _say(calls: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}({json.dumps(arguments, ensure_ascii=False)})" for name, arguments in calls) or "no call"


def _agreed(case: Case) -> bool:
    ours, theirs = case.source_answer, case.target_answer
    return ours is not None and theirs is not None and (ours.text, ours.ids) == (theirs.text, theirs.ids)
