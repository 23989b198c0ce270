"""The conversations that every model is asked, written for this project: what templates and tokenizers get wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from migrate.engines.base import Conversation, Message
from migrate.parity.facts import BundleFacts

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells today's weather in a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name of the city"},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
        },
    },
)


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _system(content: str) -> Message:
    return {"role": "system", "content": content}


PLAIN: tuple[Conversation, ...] = (
    Conversation("one question", (_user("What is 3+4?"),)),
    Conversation("a fact", (_user("What is the capital of Peru?"),)),
    Conversation("own system prompt", (_system("You answer in one short sentence."), _user("Why is the sky blue?"))),
    Conversation(
        "several turns",
        (
            _user("My name is Ada."),
            _assistant("Nice to meet you, Ada."),
            _user("I have two cats."),
            _assistant("How lovely! What are they called?"),
            _user("What was my name?"),
        ),
    ),
    Conversation(
        "unicode", (_user("Übersetze «naïve café» ins 日本語, bitte – mit 🎉, ñandú und e\u0301 (zerlegt)!"),)
    ),
    Conversation("two users in a row", (_user("First part of my question."), _user("And the second part."))),
    Conversation("system in the middle", (_user("Hello"), _assistant("Hi!"), _system("Be brief."), _user("Go on."))),
    Conversation("begun answer", (_user("Count from 2 to 6."), _assistant("2, 3,"))),
    Conversation("empty question", (_user(""),)),
    Conversation(
        "whitespace and code", (_user("  def f(x):\n\treturn {'a': [x, None]}  # \"ok\" \\n\n\n<b>&amp;</b> "),)
    ),
    Conversation(
        "template syntax in text",
        (_user("{{ .Prompt }} {% if x %} {{- '' -}} {# no #} \\u003c <|im_end|> </s> [INST]"),),
    ),
    Conversation("a long question", (_user("Sort these words: " + "tiger, cat, horse, orange fox, blue bird, " * 16),)),
)

WITH_TOOLS: tuple[Conversation, ...] = (
    Conversation("tools", (_user("What is the weather in Oslo?"),), TOOLS),
    Conversation(
        "tool answered",
        (
            _user("What is the weather in Oslo?"),
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}],
            },
            {"role": "tool", "content": "4 degrees, rain", "tool_name": "get_weather"},
        ),
        TOOLS,
    ),
)


def battery(facts: BundleFacts) -> tuple[Conversation, ...]:
    """The conversations for one model: those with tools only where the live template prints tools."""
    return PLAIN + (WITH_TOOLS if facts.source.has_tools else ())


def digest(conversations: Sequence[Conversation]) -> str:
    """Names what was asked, so that two reports can be compared."""
    content = [[c.name, list(c.messages), list(c.tools)] for c in conversations]
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
