"""A recorded answer of a real Ollama beside the gateway's to the same request: what differs, by kind."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMES = ("created_at", "created", "modified_at", "expires_at", "total_duration", "load_duration",
         "prompt_eval_duration", "eval_duration", "id")  # fmt: skip
COUNTS = ("prompt_eval_count", "eval_count", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class Answer:
    """What came back: its lines as JSON (one for an answer in one piece), or the text where it is no JSON."""

    status: int
    content_type: str
    lines: list[Any]
    text: str

    @classmethod
    def of(cls, status: int, content_type: str, body: str) -> Answer:
        found: list[Any] = []
        for line in body.split("\n"):
            data = line.removeprefix("data:").strip()
            if line.startswith("event:") or not data or data == "[DONE]":
                continue
            try:
                found.append(json.loads(data))
            except ValueError:
                return cls(status, content_type, [], body)
        return cls(status, content_type, found, body)

    @property
    def last(self) -> Any:
        return self.lines[-1] if self.lines else None

    def content(self) -> str:
        """What the model said, its reasoning and calls included."""
        return "".join(_content(line) for line in self.lines)

    def find(self, key: str) -> Any:
        """The last value under a key, at any depth."""
        found = [value for line in self.lines for value in _values(line, key)]
        return found[-1] if found else None

    def count(self, key: str) -> int:
        """Elements of all lists under a key."""
        return sum(len(value) for line in self.lines for value in _values(line, key) if isinstance(value, list))


def _content(line: Any) -> str:
    if not isinstance(line, dict):
        return ""
    message = line.get("message")
    parts = [line.get("response", "")]
    if isinstance(message, dict):
        parts += [message.get("thinking", ""), message.get("content", "")]
        parts += [json.dumps(call["function"]) for call in message.get("tool_calls", [])]
    for choice in line.get("choices") or []:
        said = choice.get("message") or choice.get("delta") or {}
        parts += [choice.get("text", ""), said.get("reasoning") or "", said.get("content") or ""]
    parts += [block.get("text", "") for block in line.get("content", []) if isinstance(block, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def _values(value: Any, key: str) -> list[Any]:
    if isinstance(value, dict):
        own = [value[key]] if key in value else []
        return own + [found for item in value.values() for found in _values(item, key)]
    if isinstance(value, list):
        return [found for item in value for found in _values(item, key)]
    return []


def shape(value: Any) -> Any:
    """Keys in their order and types of values; lists by their first element, numbers of any kind alike."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return ["list", shape(value[0])] if value else ["list"]
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else "text"


def differences(recorded: Answer, got: Answer, *, greedy: bool) -> dict[str, tuple[Any, Any]]:
    """kind -> (recorded, got). `text` is compared for greedy requests only, counts of the answer with it."""
    found: dict[str, tuple[Any, Any]] = {}

    def compare(kind: str, one: Any, other: Any) -> None:
        if one != other:
            found[kind] = (one, other)

    compare("status", recorded.status, got.status)
    compare("content type", recorded.content_type, got.content_type)
    if not recorded.lines:
        compare("body", recorded.text, got.text)
        return found
    compare("error", recorded.find("error"), got.find("error"))
    compare("first keys", shape(recorded.lines[0]), shape(got.lines[0]) if got.lines else None)
    compare("last keys", shape(recorded.last), shape(got.last))
    for key in ("done_reason", "finish_reason", "stop_reason", "rendered_template"):
        compare(key, recorded.find(key), got.find(key))
    for key in COUNTS:
        if greedy or not key.endswith(("eval_count", "completion_tokens", "output_tokens")) or key.startswith("prompt"):
            compare(key, recorded.find(key), got.find(key))
    for key in ("embedding", "embeddings"):
        one, other = recorded.find(key), got.find(key)
        compare(key, one is not None, other is not None)
        if one and other and isinstance(one, list) and not _alike(one, other):
            found[key] = ("vectors", "other vectors")
    if greedy:
        compare("text", recorded.content(), got.content())
        compare("context", recorded.find("context"), got.find("context"))
        compare("logprobs", recorded.count("logprobs"), got.count("logprobs"))
    return found


def _alike(one: list[Any], other: list[Any]) -> bool:
    """Vectors, or lists of vectors, with a cosine above 0.9999 and lengths that agree to a thousandth."""
    if len(one) != len(other):
        return False
    if isinstance(one[0], list):
        return all(_alike(a, b) for a, b in zip(one, other, strict=True))
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    lengths = [math.sqrt(sum(x * x for x in vector)) for vector in (one, other)]
    return dot / (lengths[0] * lengths[1]) > 0.9999 and abs(lengths[0] / lengths[1] - 1) < 1e-3


def is_greedy(request: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """By the request's own options, else the model's; OpenAI's routes take 1.0 where nothing is said."""
    body = request.get("body")
    if not isinstance(body, dict):
        return True
    options = body.get("options") or {}
    own = parameters.get("temperature", 0.8)
    path = str(request.get("path", ""))
    if path.startswith("/v1/"):
        return bool(body.get("temperature", own if path.endswith("messages") else 1.0) == 0)
    return bool(options.get("temperature", own) == 0)
