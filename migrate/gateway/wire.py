"""Ollama's own answers as bytes: NDJSON pieces, whole replies, errors (api/types.go and gin's JSON, read at 0.33)."""

from __future__ import annotations

import datetime
import functools
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from migrate.gateway.types import Chunk, Metrics, ToolCall

JSON_TYPE = "application/json; charset=utf-8"
NDJSON_TYPE = "application/x-ndjson"
TEXT_TYPE = "text/plain; charset=utf-8"

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ESCAPED = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def go_json(value: Any) -> bytes:
    """JSON as Go writes it: compact, keys in the order given, `<`, `>`, `&`, U+2028 and U+2029 escaped."""
    text = _compact(value)
    return _ESCAPED.sub(_escape, text).encode()


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return "\\ufffd" if 0xD800 <= code <= 0xDFFF else f"\\u{code:04x}"


def now() -> str:
    """RFC 3339 in UTC with nanoseconds, without zeros at the end."""
    seconds, fraction = divmod(time.time_ns(), 1_000_000_000)
    digits = f"{fraction:09d}".rstrip("0")
    return f"{_second(seconds)}.{digits}Z" if digits else f"{_second(seconds)}Z"


@functools.lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def error(message: str) -> bytes:
    return go_json({"error": message})


def chat(model: str, chunk: Chunk) -> bytes:
    """One piece, or the whole, of an answer of /api/chat."""
    if chunk.rendered is not None:
        return go_json(
            {
                "model": model,
                "created_at": now(),
                "message": {"role": "", "content": ""},
                "done": False,
                "_debug_info": _debug(chunk),
            }
        )
    message: dict[str, Any] = {"role": "assistant", "content": chunk.content}
    if chunk.thinking:
        message["thinking"] = chunk.thinking
    if chunk.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in chunk.tool_calls]
    answer: dict[str, Any] = {"model": model, "created_at": now(), "message": message, "done": chunk.done}
    if chunk.done_reason:
        answer["done_reason"] = chunk.done_reason
    if chunk.logprobs:
        answer["logprobs"] = list(chunk.logprobs)
    return go_json(answer | _metrics(chunk.metrics))


def generate(model: str, chunk: Chunk) -> bytes:
    """One piece, or the whole, of an answer of /api/generate."""
    answer: dict[str, Any] = {"model": model, "created_at": now(), "response": chunk.content}
    if chunk.thinking:
        answer["thinking"] = chunk.thinking
    answer["done"] = chunk.done
    if chunk.done_reason:
        answer["done_reason"] = chunk.done_reason
    if chunk.context:
        answer["context"] = list(chunk.context)
    answer |= _metrics(chunk.metrics)
    if chunk.tool_calls:
        answer["tool_calls"] = [_tool_call(call) for call in chunk.tool_calls]
    if chunk.rendered is not None:
        answer["_debug_info"] = _debug(chunk)
    if chunk.logprobs:
        answer["logprobs"] = list(chunk.logprobs)
    return go_json(answer)


def embed(model: str, vectors: Sequence[bytes], metrics: Metrics) -> bytes:
    """An answer of /api/embed; each vector is already JSON."""
    told = ("total_duration", "load_duration", "prompt_eval_count")
    tail = go_json({key: value for key, value in _metrics(metrics).items() if key in told})
    head = go_json({"model": model})[:-1] + b',"embeddings":[' + b",".join(vectors) + b"]"
    return head + (b"," + tail[1:] if len(tail) > 2 else b"}")


def embedding(vector: bytes) -> bytes:
    """An answer of the older /api/embeddings."""
    return b'{"embedding":' + vector + b"}"


def whole(chunks: Iterable[Chunk]) -> Chunk:
    """An answer in one: texts joined, everything else from the last piece, as writeChatResponse does."""
    contents: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[Mapping[str, Any]] = []
    last = Chunk()
    for chunk in chunks:
        contents.append(chunk.content)
        thinking.append(chunk.thinking)
        calls += chunk.tool_calls
        logprobs += chunk.logprobs
        last = chunk
    return replace(
        last, content="".join(contents), thinking="".join(thinking), tool_calls=tuple(calls), logprobs=tuple(logprobs)
    )


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"index": call.index, "name": call.name, "arguments": dict(call.arguments)}
    return {"id": call.id, "function": function} if call.id else {"function": function}


def _metrics(metrics: Metrics) -> dict[str, int]:
    found = {
        "total_duration": metrics.total_duration,
        "load_duration": metrics.load_duration,
        "prompt_eval_count": metrics.prompt_eval_count,
        "prompt_eval_duration": metrics.prompt_eval_duration,
        "eval_count": metrics.eval_count,
        "eval_duration": metrics.eval_duration,
    }
    return {key: value for key, value in found.items() if value}


def _debug(chunk: Chunk) -> dict[str, Any]:
    info: dict[str, Any] = {"rendered_template": chunk.rendered}
    if chunk.image_count:
        info["image_count"] = chunk.image_count
    return info
