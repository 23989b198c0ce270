"""What clients send to Ollama: the endpoints of its APIs, and a request read from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from migrate.engines.base import Conversation
from migrate.ollama.names import ModelName, split_source
from migrate.parity.traffic.redact import REMOVED

World = Literal["native", "openai", "anthropic"]

WORLDS: Mapping[str, World] = {
    "/api/chat": "native",
    "/api/generate": "native",
    "/api/embed": "native",
    "/api/embeddings": "native",
    "/v1/chat/completions": "openai",
    "/v1/completions": "openai",
    "/v1/embeddings": "openai",
    "/v1/responses": "openai",
    "/v1/messages": "anthropic",
}
"""Endpoints of Ollama that run a model on JSON -> whose API it is (ollama.md section 7.1)."""

MAX_NESTING = 64


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    `place` is how reports call it ("line 12"); `line` is 1-based, in a directory of logs the number of the file.
    `body` is as the client sent it, without images. `conversation` is what is compared, or None: an embedding request
    has `texts` instead, and for any other `unusable` says why not. `notes` say what of the request is not compared.
    `count`: how often it was made. `status` and `answer` are Ollama's, where they were recorded.
    """

    endpoint: str
    body: Mapping[str, Any]
    model: str
    line: int
    place: str
    conversation: Conversation | None = None
    texts: tuple[str, ...] = ()
    unusable: str = ""
    notes: tuple[str, ...] = ()
    count: int = 1
    status: int | None = None
    answer: Mapping[str, Any] | None = None

    @property
    def world(self) -> World:
        return WORLDS[self.endpoint]

    @property
    def body_key(self) -> bytes:
        """Equal for equal requests to one endpoint, whatever the order of their keys."""
        return _digest([self.endpoint, self.body])

    @property
    def key(self) -> bytes:
        """Equal for requests that ask the model the same, whatever API and options they use."""
        asked = self.conversation
        if asked is None:
            return _digest([self.texts])
        return _digest([list(asked.messages), list(asked.tools), asked.think])

    @property
    def characters(self) -> int:
        """Length of what is asked, a measure of its tokens."""
        if self.conversation is None:
            return sum(map(len, self.texts))
        return sum(len(str(message.get("content") or "")) for message in self.conversation.messages)


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).digest()


class UnknownRequest(ValueError):
    """A line that is JSON, but no request; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line holds before it is understood. `guessed`: the endpoint was told from the shape, and fits another."""

    endpoint: str
    body: dict[str, Any]
    guessed: bool = False
    status: int | None = None
    answer: Mapping[str, Any] | None = None


def entry(value: Any, *, endpoint: str | None = None, embedding: bool = False) -> Entry:
    """A line of a file as a request: a bare body, or an object with `path`, `endpoint` or `url` and `body` or
    `request`. `embedding`: the model makes embeddings, which settles what `{"model", "prompt"}` is.

    Raises UnknownRequest.
    """
    if not isinstance(value, dict):
        raise UnknownRequest("it is no object")
    status, answer = value.get("status"), value.get("answer")
    wrapped, named = _unwrapped(value)
    if wrapped is not None:
        value = wrapped
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnknownRequest("its body is no JSON") from None
    if not isinstance(value, dict):
        raise UnknownRequest("its body is no object")
    body = clean(value)
    found, guessed = endpoint, False
    if found is None and named is not None:
        found = endpoint_of(named)
    if found is None:
        found, guessed = from_shape(body, embedding=embedding)
    recorded = wrapped is not None
    return Entry(
        found,
        body,
        guessed,
        status if recorded and isinstance(status, int) else None,
        clean(answer) if recorded and isinstance(answer, dict) else None,
    )


def _unwrapped(value: dict[str, Any]) -> tuple[Any, str | None]:
    """(body, endpoint as it was written) of an object around a request; (None, None) for a bare body."""
    for _ in range(2):
        named = next((value[k] for k in ("path", "endpoint", "url") if isinstance(value.get(k), str)), None)
        if "body" in value and not {"messages", "prompt", "input"} & value.keys():
            return value["body"], named
        inner = value.get("request")
        if not isinstance(inner, dict | str) or {"messages", "prompt", "input"} & value.keys():
            return None, None
        if named is not None or isinstance(inner, str) or "body" not in inner:
            return inner, named
        value = inner
    return None, None


def endpoint_of(text: str) -> str:
    """The endpoint that a path or a URL names. Raises UnknownRequest."""
    try:
        path = urlsplit(text.strip()).path.rstrip("/")
    except ValueError:
        path = ""
    for known in WORLDS:
        if path == known or path.endswith(known):
            return known
    raise UnknownRequest(f"{path[:80]!r} is no endpoint that runs a model")


_NATIVE_FIELDS = frozenset({"options", "keep_alive", "format", "think", "truncate", "shift"})
_OPENAI_FIELDS = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "user",
        "seed",
        "response_format",
        "tool_choice",
        "parallel_tool_calls",
        "stream_options",
        "reasoning_effort",
        "reasoning",
        "functions",
        "function_call",
        "metadata",
        "store",
        "service_tier",
        "best_of",
        "echo",
    }
)
_RESPONSES_FIELDS = frozenset({"instructions", "previous_response_id", "max_output_tokens", "text", "reasoning"})


def from_shape(body: Mapping[str, Any], *, embedding: bool = False) -> tuple[str, bool]:
    """(endpoint, whether another fits as well) of a bare body. Raises UnknownRequest."""
    keys = body.keys()
    native, openai = bool(keys & _NATIVE_FIELDS), bool(keys & _OPENAI_FIELDS)
    if "messages" in keys:
        if "system" in keys or "anthropic_version" in keys or "stop_sequences" in keys or "thinking" in keys:
            return "/v1/messages", False
        if not native and (openai or _openai_messages(body["messages"])):
            return "/v1/chat/completions", False
        return "/api/chat", not native and not _native_messages(body["messages"])
    if "input" in keys:
        parts = body["input"]
        if keys & _RESPONSES_FIELDS or (isinstance(parts, list) and any(isinstance(p, dict) for p in parts)):
            return "/v1/responses", False
        if not native and ("encoding_format" in keys or "user" in keys):
            return "/v1/embeddings", False
        return "/api/embed", not native
    if "prompt" in keys:
        generate = bool(keys & {"raw", "system", "template", "context", "images"})
        if not native and not generate and openai:
            return "/v1/completions", False
        if embedding and not generate:
            return "/api/embeddings", False
        return "/api/generate", not native and not generate
    raise UnknownRequest("it has neither messages nor prompt nor input")


def _openai_messages(messages: Any) -> bool:
    """Some message can only be one of OpenAI's API: parts as content, arguments as text, a developer."""
    rows = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    calls = [c for m in rows if isinstance(m.get("tool_calls"), list) for c in m["tool_calls"] if isinstance(c, dict)]
    return (
        any(isinstance(m.get("content"), list) or m.get("role") == "developer" for m in rows)
        or any("type" in call for call in calls)
        or any(
            isinstance(call.get("function"), dict) and isinstance(call["function"].get("arguments"), str)
            for call in calls
        )
    )


def _native_messages(messages: Any) -> bool:
    rows = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    return any({"images", "tool_name", "thinking"} & m.keys() or m.get("tool_calls") for m in rows)


def clean(value: Any, depth: int = 0) -> Any:
    """JSON without images, and with text that is Unicode: half a surrogate pair becomes U+FFFD, as in Go.

    Raises UnknownRequest for JSON that is nested deeper than `MAX_NESTING`.
    """
    if depth > MAX_NESTING:
        raise UnknownRequest(f"it is nested deeper than {MAX_NESTING} levels")
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean(key): _clean_member(key, item, depth + 1) for key, item in value.items()}
    return value


def _clean_member(key: str, value: Any, depth: int) -> Any:
    if key == "images" and isinstance(value, list):
        return [REMOVED] * min(len(value), 64)
    if key in ("image_url", "input_audio") and value:
        return {"url": REMOVED}
    return clean(value, depth)


def same_model(ours: str, theirs: str) -> bool:
    """Whether Ollama takes both names for one model: `x` is `x:latest`, case does not count."""
    names = [split_source(name)[0] for name in (ours, theirs)]
    if all(ModelName.valid(name) for name in names):
        first, second = (ModelName.parse(name).key for name in names)
        return first == second
    return names[0] == names[1]
