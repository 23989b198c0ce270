"""Ollama's answer to a recorded request, put together from what went over the wire.

A streamed answer is one JSON object a line (native API) or server-sent events (OpenAI routes); the pieces are joined,
so that redaction sees whole words (ollama.md sections 7.3 and 7.4).
"""

from __future__ import annotations

import json
from typing import Any

MAX_PARTS = 200_000


def answer(endpoint: str, content: bytes) -> dict[str, Any] | None:
    """{text, thinking, tool_calls, finish_reason} of an answer; None for an error, for embeddings, or when it is not
    understood. What is empty is left out."""
    try:
        parts = _parts(content)
    except (ValueError, RecursionError):
        return None
    read = _openai if endpoint.startswith("/v1/") else _native
    pieces = [piece for part in parts if (piece := read(part)) is not None]
    if not pieces:
        return None
    made: dict[str, Any] = {
        "text": "".join(str(piece.get("text") or "") for piece in pieces),
        "thinking": "".join(str(piece.get("thinking") or "") for piece in pieces),
        "tool_calls": [call for piece in pieces for call in piece.get("tool_calls") or ()],
        "finish_reason": next((piece["end"] for piece in reversed(pieces) if piece.get("end")), ""),
    }
    return {key: value for key, value in made.items() if value or key == "text"}


def _parts(content: bytes) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for line in content.split(b"\n"):
        text = line.removeprefix(b"data:").strip()
        if not text or text == b"[DONE]" or line.startswith((b":", b"event:", b"id:")):
            continue
        value = json.loads(text)
        if not isinstance(value, dict) or len(parts) >= MAX_PARTS:
            raise ValueError
        parts.append(value)
    return parts


def _native(part: dict[str, Any]) -> dict[str, Any] | None:
    message = part.get("message")
    if isinstance(message, dict):
        text, of = message.get("content"), message
    elif isinstance(part.get("response"), str):
        text, of = part["response"], part
    else:
        return None
    calls = of.get("tool_calls")
    return {
        "text": text,
        "thinking": of.get("thinking"),
        "tool_calls": calls if isinstance(calls, list) else [],
        "end": part.get("done_reason"),
    }


def _openai(part: dict[str, Any]) -> dict[str, Any] | None:
    choices = part.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    message = choice.get("delta") or choice.get("message")
    of = message if isinstance(message, dict) else {"content": choice.get("text")}
    calls = of.get("tool_calls")
    return {
        "text": of.get("content"),
        "thinking": of.get("reasoning"),
        "tool_calls": calls if isinstance(calls, list) else [],
        "end": choice.get("finish_reason"),
    }
