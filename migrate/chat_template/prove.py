"""The proof of a translation: a battery of conversations, rendered as Ollama does and by the Jinja.

Both must give the same bytes. Where Ollama fails the Jinja has to raise; where the Jinja raises and Ollama does not,
that conversation is refused, not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from migrate.chat_template import conversation
from migrate.chat_template.environment import render
from migrate.errors import MigrateError
from migrate.ollama.template import render_chat

Verdict = Literal["exact", "refused", "wrong"]

_USER = {"role": "user", "content": "What is the tallest mountain?"}
_SYSTEM = {"role": "system", "content": "Answer in one word."}
_ANSWER = {"role": "assistant", "content": "Everest"}
_SECOND = {"role": "user", "content": "And the second?"}
_TOOL = {
    "type": "function",
    "function": {
        "name": "elevation",
        "description": "Height of a mountain in <m> & feet",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Which one"},
                "digits": {"type": ["integer", "null"], "default": 0},
                "Unit": {"type": "string", "enum": ["m", "ft"]},
                "where": {"type": "object", "properties": {"lon": {"type": "number"}, "lat": {"type": "number"}}},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
}
_BARE_TOOL = {"type": "function", "function": {"name": "now"}}
_CALL = {
    "id": "c1",
    "function": {"name": "elevation", "arguments": {"name": "K2 <é>", "digits": 2, "exact": True, "near": [1.5, None]}},
}
_RESULT = {"role": "tool", "content": "8611.00", "tool_name": "elevation", "tool_call_id": "c1"}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_THOUGHT = _ANSWER | {"thinking": "Easy.\nEverest."}

BATTERY: Mapping[str, Mapping[str, Any]] = {
    "one question": {"messages": [_USER]},
    "system": {"messages": [_SYSTEM, _USER]},
    "several turns": {"messages": [_SYSTEM, _USER, _ANSWER, _SECOND]},
    "turns without system": {"messages": [_USER, _ANSWER, _SECOND, _ANSWER, _USER]},
    "neighbours of one role": {"messages": [_SYSTEM, _SYSTEM, _USER, _SECOND, _ANSWER, _ANSWER, _USER, _USER]},
    "system in the middle": {"messages": [_USER, _ANSWER, _SYSTEM, _SECOND]},
    "system last": {"messages": [_USER, _SYSTEM]},
    "answer begun": {"messages": [_USER, {"role": "assistant", "content": "The tallest"}]},
    "answer first": {"messages": [_ANSWER, _USER]},
    "empty texts": {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": ""}]},
    "empty answer": {"messages": [_USER, {"role": "assistant", "content": ""}, _SECOND]},
    "markup": {"messages": [{"role": "user", "content": "{{ x }} {% y %} {# z #} '\"\\ <b>&\u2028\r\n\t日本 🎉 "}]},
    "unknown role": {"messages": [{"role": "Observer", "content": "hm"}, _USER, {"role": "control", "content": "é"}]},
    "tools": {"messages": [_USER], "tools": [_TOOL]},
    "two tools and system": {"messages": [_SYSTEM, _USER], "tools": [_TOOL, _BARE_TOOL]},
    "tool called": {"messages": [_USER, _CALLING, _RESULT], "tools": [_TOOL]},
    "tool round trip": {"messages": [_SYSTEM, _USER, _CALLING, _RESULT, _ANSWER, _SECOND], "tools": [_TOOL]},
    "two calls with text": {
        "messages": [
            _USER,
            _CALLING | {"content": "Let me see.", "tool_calls": [_CALL, _CALL | {"id": "c2"}]},
            _RESULT,
            _RESULT | {"tool_call_id": "c2"},
        ],
        "tools": [_TOOL, _BARE_TOOL],
    },
    "calls in the history only": {"messages": [_USER, _CALLING, _RESULT, _ANSWER, _SECOND]},
    "thinking on": {"messages": [_USER], "think": True},
    "thinking off": {"messages": [_SYSTEM, _USER], "think": False},
    "thinking high": {"messages": [_USER], "think": "high"},
    "thought before": {"messages": [_USER, _THOUGHT, _SECOND], "think": True},
    "thought and begun": {"messages": [_USER, _THOUGHT]},
    "thought in the text": {
        "messages": [_USER, _ANSWER | {"content": " <think>\nEasy.\n</think>\n\nEverest"}, _SECOND],
    },
    "thought and called": {"messages": [_USER, _CALLING | {"thinking": "Look up."}, _RESULT], "tools": [_TOOL]},
}


@dataclass(frozen=True, slots=True)
class Check:
    """One conversation: `expected` is Ollama's text (None where Ollama fails), `got` the Jinja's (None: it raised)."""

    name: str
    expected: str | None
    got: str | None
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.got is None:
            return "exact" if self.expected is None else "refused"
        return "exact" if self.got == self.expected else "wrong"

    @property
    def first_difference(self) -> int | None:
        """Position of the first character that differs, None if there is none or one side has no text."""
        if self.expected is None or self.got is None or self.expected == self.got:
            return None
        pairs = zip(self.expected, self.got, strict=False)
        shorter = min(len(self.expected), len(self.got))
        return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)

    def describe(self) -> str:
        """One line for people: the verdict, and both texts around the first difference."""
        if self.verdict != "wrong":
            return f"{self.name}: {self.verdict}" + (f" ({self.reason})" if self.reason else "")
        at = self.first_difference
        if at is None:
            return f"{self.name}: wrong: Ollama fails ({self.reason}), the chat template does not"
        sides = [repr((text or "")[max(0, at - 20) : at + 30]) for text in (self.expected, self.got)]
        return f"{self.name}: wrong at character {at}: Ollama {sides[0]}, chat template {sides[1]}"


@dataclass(frozen=True, slots=True)
class Proof:
    checks: tuple[Check, ...]

    def of(self, verdict: Verdict) -> list[Check]:
        return [check for check in self.checks if check.verdict == verdict]

    @property
    def holds(self) -> bool:
        """No conversation gets a wrong prompt."""
        return not self.of("wrong")


def prove(
    template: str,
    jinja: str,
    *,
    system: str | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    think: bool | None = None,
    filter_think_tags: bool = False,
    conversations: Mapping[str, Mapping[str, Any]] = BATTERY,
    today: date | None = None,
) -> Proof:
    """Renders every conversation both ways.

    `system`, `messages`, `think` and `filter_think_tags` as given to `translate`. A conversation is a request to
    /api/chat: messages, and optionally tools and think. Tools print as JSON (see `show`).
    """
    today = today or date.today()
    checks = []
    for name, request in conversations.items():
        asked = {"think": think, **request} if think is not None else request
        expected, failure = _as_ollama(template, asked, system, messages, filter_think_tags, today)
        got, reason = render_or_reason(jinja, request, today)
        checks.append(Check(name, expected, got, failure or reason))
    return Proof(tuple(checks))


def _as_ollama(
    template: str,
    request: Mapping[str, Any],
    system: str | None,
    messages: Sequence[Mapping[str, Any]],
    filter_think_tags: bool,
    today: date,
) -> tuple[str | None, str]:
    try:
        text = render_chat(
            template,
            request["messages"],
            system=system,
            model_messages=messages,
            tools=request.get("tools", ()),
            think=request.get("think"),
            json_tools=True,
            filter_think_tags=filter_think_tags,
            today=today,
        )
    except MigrateError as error:
        return None, str(error)
    return text, ""


def render_or_reason(jinja: str, request: Mapping[str, Any], today: date | None = None) -> tuple[str | None, str]:
    """What the chat template renders for a request to /api/chat, or None and why it does not."""
    import jinja2

    try:
        return render(jinja, **conversation.arguments(request), today=today), ""
    except jinja2.TemplateSyntaxError:
        raise
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
