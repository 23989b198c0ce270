"""The answers of Ollama's Anthropic route, whole and as server-sent events.

Source: Ollama 0.33, anthropic/anthropic.go (ToMessagesResponse, StreamConverter, NewError). Keys are in the order of
the structs. `stop_sequence` is never told and a stop by a sequence is an end_turn, as in Ollama.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from migrate.gateway import go_wire as go
from migrate.gateway.types import Chunk, Metrics

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error(status: int, message: str) -> dict[str, Any]:
    """The body of an error with this HTTP status."""
    return {"type": "error", "error": _error(status, message), "request_id": _id("req")}


def _error(status: int, message: str) -> dict[str, str]:
    return {"type": _KINDS.get(status, "api_error"), "message": message}


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _stop_reason(reason: str, called: bool) -> str:
    """Empty as long as there is none."""
    if called:
        return "tool_use"
    known = {"stop": "end_turn", "length": "max_tokens", "": ""}
    return known.get(reason, "stop_sequence")


def _usage(metrics: Metrics) -> dict[str, int]:
    return {"input_tokens": metrics.prompt_eval_count, "output_tokens": metrics.eval_count}


def messages_reply(model: str, chunk: Chunk, *, id: str | None = None) -> dict[str, Any]:
    """The whole answer of /v1/messages: everything is in one chunk. An answer without anything has null content."""
    content: list[dict[str, Any]] = []
    if chunk.thinking:
        content.append({"type": "thinking", "thinking": chunk.thinking})
    if chunk.content:
        content.append({"type": "text", "text": chunk.content})
    for call in chunk.tool_calls:
        arguments = {key: go.in_order(value) for key, value in call.arguments.items()}
        named = {key: value for key, value in (("id", call.id), ("name", call.name)) if value}
        content.append({"type": "tool_use", **named, "input": arguments})
    reason = _stop_reason(chunk.done_reason, bool(chunk.tool_calls))
    return {
        "id": id or _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content or None,
        **({"stop_reason": reason} if reason else {}),
        "usage": _usage(chunk.metrics),
    }


class MessageStream:
    """/v1/messages with `stream`: one block after the other, thinking, text and calls.

    `estimated_input_tokens` is what message_start tells, when the count is not known yet.
    """

    def __init__(self, model: str, *, estimated_input_tokens: int = 0, id: str | None = None) -> None:
        self._model = model
        self._estimated = estimated_input_tokens
        self._id = id or _id("msg")
        self._first = True
        self._index = 0
        self._open = ""
        self._thought = False
        self._sent: set[str] = set()

    def feed(self, chunk: Chunk) -> bytes:
        """The events of a piece of the answer."""
        events = []
        if self._first:
            self._first = False
            events.append(self._start(chunk.metrics.prompt_eval_count or self._estimated))
        if chunk.thinking and not self._thought:
            events += self._piece("thinking", chunk.thinking)
        if chunk.content:
            events += self._piece("text", chunk.content)
        for call in chunk.tool_calls:
            if call.id in self._sent:
                continue
            self._sent.add(call.id)
            events += self._close()
            named = {key: value for key, value in (("id", call.id), ("name", call.name)) if value}
            events.append(self._block_start({"type": "tool_use", **named, "input": {}}))
            text = go.encode_arguments(call.arguments)
            events.append(self._delta({"type": "input_json_delta", "partial_json": text}))
            self._open = "tool_use"
            events += self._close()
        if chunk.done:
            events += self._close()
            reason = _stop_reason(chunk.done_reason, bool(self._sent))
            events.append(
                _event("message_delta", delta={"stop_reason": reason} if reason else {}, usage=_usage(chunk.metrics))
            )
            events.append(_event("message_stop"))
        return b"".join(events)

    def end(self, message: str | None = None, status: int = 500) -> bytes:
        """The end of a stream. Nothing is due, as `feed` wrote it; with `message`, the error that cut the stream off.

        Ollama loses that error: here a client gets to read it.
        """
        return b"" if message is None else _event("error", error=_error(status, message))

    def _start(self, input_tokens: int) -> bytes:
        message = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "usage": {"input_tokens": input_tokens, "output_tokens": 0},
        }
        return _event("message_start", message=message)

    def _piece(self, kind: str, text: str) -> list[bytes]:
        events = []
        if self._open != kind:
            events += [*self._close(), self._block_start({"type": kind, kind: ""})]
            self._open = kind
        return [*events, self._delta({"type": f"{kind}_delta", kind: text})]

    def _close(self) -> list[bytes]:
        """The end of the block that is open, if one is. After thinking has ended there is no more of it."""
        if not self._open:
            return []
        self._thought = self._thought or self._open == "thinking"
        self._open = ""
        self._index += 1
        return [_event("content_block_stop", index=self._index - 1)]

    def _block_start(self, block: Mapping[str, Any]) -> bytes:
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: Mapping[str, str]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return go.event({"type": kind, **fields}, kind)
