"""What a model's own chat template does otherwise than Ollama's prompt, conversation by conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.chat_template.bounded import render_all
from migrate.chat_template.prove import BATTERY, Check


def compare(
    ollama: str,
    own: str,
    *,
    tokens: Mapping[str, str] | None = None,
    conversations: Mapping[str, Mapping[str, Any]] = BATTERY,
) -> list[Check]:
    """Both templates on every conversation, one Check each: expected is Ollama's text, got the own template's.

    `tokens`: bos_token and eos_token. Raises Refused for a template that does not end or does not parse.
    """
    requests = list(conversations.values())
    expected = render_all(ollama, requests, tokens=tokens)
    got = render_all(own, requests, tokens=tokens)
    return [Check(name, a, b) for name, a, b in zip(conversations, expected, got, strict=True)]
