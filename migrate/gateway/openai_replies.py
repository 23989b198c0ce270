"""The answers of Ollama's OpenAI routes, whole and as server-sent events.

Source: Ollama 0.33, openai/openai.go (the structs and To* functions) and middleware/openai.go (the writers). Keys are
in the order of the structs; `go_wire.body` and the streams write them as Go does. What a handler answers ends with a
newline, the errors of the translation itself (ApiError from openai.py) do not.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from migrate.gateway import go_wire as go
from migrate.gateway.types import Chunk, Metrics, ToolCall

_DONE = b"data: [DONE]\n\n"
_FINGERPRINT = "fp_ollama"


def error(status: int, message: str) -> dict[str, Any]:
    """The body of an error with this HTTP status."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    text = message or "something went wrong, please see the ollama server logs for details"  # api.StatusError
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


def _id(prefix: str) -> str:
    return f"{prefix}-{random.randrange(999)}"


def _usage(metrics: Metrics) -> dict[str, int]:
    prompt, answer = metrics.prompt_eval_count, metrics.eval_count
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Tool calls as OpenAI has them: the arguments are a text."""
    return [
        {
            "id": call.id,
            "index": call.index,
            "type": "function",
            "function": {"name": call.name, "arguments": go.encode_arguments(call.arguments)},
        }
        for call in calls
    ]


def _logprobs(chunk: Chunk) -> dict[str, Any]:
    return {"logprobs": {"content": [_logprob(item) for item in chunk.logprobs]}} if chunk.logprobs else {}


def _logprob(given: Mapping[str, Any]) -> dict[str, Any]:
    """api.Logprob: `bytes` and `top_logprobs` are left out when empty."""
    result: dict[str, Any] = {"token": given["token"], "logprob": given["logprob"]}
    if given.get("bytes"):
        result["bytes"] = given["bytes"]
    if given.get("top_logprobs"):
        result["top_logprobs"] = [_logprob(item) for item in given["top_logprobs"]]
    return result


# ---- /v1/chat/completions -------------------------------------------------------------------------------------------


def chat_reply(model: str, chunk: Chunk, *, id: str | None = None, created: int | None = None) -> dict[str, Any]:
    """The whole answer of /v1/chat/completions: everything is in one chunk. `created` is in seconds, now if None."""
    calls = tool_calls(chunk.tool_calls)
    message: dict[str, Any] = {"role": "" if chunk.rendered is not None else "assistant", "content": chunk.content}
    if chunk.thinking:
        message["reasoning"] = chunk.thinking
    if calls:
        message["tool_calls"] = calls
    reply = {
        "id": id or _id("chatcmpl"),
        "object": "chat.completion",
        "created": int(time.time()) if created is None else created,
        "model": model,
        "system_fingerprint": _FINGERPRINT,
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": _finish(chunk.done_reason, bool(calls)) or None,
                **_logprobs(chunk),
            }
        ],
        "usage": _usage(chunk.metrics),
    }
    if chunk.rendered is not None:
        images = {"image_count": chunk.image_count} if chunk.image_count else {}
        reply["_debug_info"] = {"rendered_template": chunk.rendered, **images}
    return reply


def _finish(reason: str, called: bool) -> str:
    return "tool_calls" if reason == "stop" and called else reason


class ChatStream:
    """/v1/chat/completions with `stream`. The role is in the first event only; the reason has an event of its own."""

    def __init__(
        self, model: str, *, include_usage: bool = False, id: str | None = None, created: int | None = None
    ) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = id or _id("chatcmpl")
        self._created = created
        self._head = ""
        self._first = True
        self._called = False

    def feed(self, chunk: Chunk) -> bytes:
        """The events of a piece of the answer."""
        written = b""
        trailer = not (chunk.content or chunk.thinking or chunk.tool_calls or chunk.logprobs)
        if self._first or not (chunk.done and trailer):
            written = b"".join(self._event([choice]) for choice in self._choices(chunk))
            self._first = False
        if not chunk.done:
            return written
        reason = _finish(chunk.done_reason or "stop", self._called)
        written += self._event([{"index": 0, "delta": {}, "finish_reason": reason}])
        if self._include_usage:
            written += self._event([], _usage(chunk.metrics))
        return written + _DONE

    def end(self, message: str | None = None, status: int = 500) -> bytes:
        """The end of a stream. Nothing is due, as `feed` wrote it; with `message`, the error that cut the stream off.

        Ollama loses that error (its middleware makes an empty event of it): here a client gets to read it.
        """
        return b"" if message is None else go.event(error(status, message))

    def _choices(self, chunk: Chunk) -> list[dict[str, Any]]:
        """One event, or two where thinking and something else came together: thinking has the first to itself."""
        role = {"role": "assistant"} if self._first else {}
        calls = {"tool_calls": tool_calls(chunk.tool_calls)} if chunk.tool_calls else {}
        self._called = self._called or bool(calls)
        reasoning = {"reasoning": chunk.thinking} if chunk.thinking else {}
        if chunk.thinking and (chunk.content or calls):
            deltas = [{**role, **reasoning}, {"content": chunk.content, **calls}]
        else:
            deltas = [{**role, "content": chunk.content, **reasoning, **calls}]
        choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
        choices[0] |= _logprobs(chunk)
        return choices

    def _event(self, choices: Sequence[Mapping[str, Any]], usage: Mapping[str, int] | None = None) -> bytes:
        if not self._head:  # the same in every event
            head = {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": int(time.time()) if self._created is None else self._created,
                "model": self._model,
                "system_fingerprint": _FINGERPRINT,
            }
            self._head = f'data: {go.encode(head)[:-1]},"choices":'
        tail = "" if usage is None else f',"usage":{go.encode(usage)}'
        return f"{self._head}{go.encode(choices)}{tail}}}\n\n".encode()


# ---- /v1/completions ------------------------------------------------------------------------------------------------


def completion_reply(model: str, chunk: Chunk, *, id: str | None = None, created: int | None = None) -> dict[str, Any]:
    """The whole answer of /v1/completions. Thinking and logprobs are not in it, as in Ollama."""
    return {
        "id": id or _id("cmpl"),
        "object": "text_completion",
        "created": int(time.time()) if created is None else created,
        "model": model,
        "system_fingerprint": _FINGERPRINT,
        "choices": [_text(chunk)],
        "usage": _usage(chunk.metrics),
    }


def _text(chunk: Chunk) -> dict[str, Any]:
    return {"text": chunk.content, "index": 0, "finish_reason": chunk.done_reason or None}


class CompletionStream:
    """/v1/completions with `stream`. With `include_usage` every event has a usage, of zeros before the last."""

    def __init__(
        self, model: str, *, include_usage: bool = False, id: str | None = None, created: int | None = None
    ) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = id or _id("cmpl")
        self._created = created

    def feed(self, chunk: Chunk) -> bytes:
        """The events of a piece of the answer."""
        written = self._event([_text(chunk)], Metrics())
        if not chunk.done:
            return written
        if self._include_usage:
            written += self._event([], chunk.metrics)
        return written + _DONE

    def end(self, message: str | None = None, status: int = 500) -> bytes:
        """As ChatStream.end."""
        return b"" if message is None else go.event(error(status, message))

    def _event(self, choices: Sequence[Mapping[str, Any]], metrics: Metrics) -> bytes:
        chunk: dict[str, Any] = {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()) if self._created is None else self._created,
            "choices": choices,
            "model": self._model,
            "system_fingerprint": _FINGERPRINT,
        }
        return go.event({**chunk, "usage": _usage(metrics)} if self._include_usage else chunk)


# ---- /v1/embeddings and /v1/models ----------------------------------------------------------------------------------


def embed_reply(
    model: str, vectors: Iterable[Sequence[float]], prompt_tokens: int, encoding_format: str = ""
) -> dict[str, Any]:
    """The answer of /v1/embeddings: float32 numbers in their shortest form, or base64 of them in little-endian."""
    as_text = encoding_format.casefold() == "base64"
    data = [
        {"object": "embedding", "embedding": _base64(vector) if as_text else float32(vector), "index": index}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "data": data or None, "model": model, "usage": usage}


def _base64(vector: Sequence[float]) -> str:
    import numpy as np

    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def float32(vector: Sequence[float]) -> list[float]:
    """The numbers that read like the shortest text of the float32 each of them is, as Go writes a []float32."""
    import numpy as np

    return [float(text) for text in np.asarray(vector, dtype=np.float32).astype("U32").tolist()]


def models_reply(models: Iterable[tuple[str, int, str]]) -> dict[str, Any]:
    """The answer of GET /v1/models, of (id, created in seconds, owned_by)."""
    return {"object": "list", "data": [model_reply(*model) for model in models] or None}


def model_reply(id: str, created: int, owned_by: str) -> dict[str, Any]:
    """The answer of GET /v1/models/{model}. `id` is the name as it was asked for."""
    return {"id": id, "object": "model", "created": created, "owned_by": owned_by}
