"""What of an answer is compared: read from the bytes that went over the wire, in whichever API it was asked.

Both sides of a pair are read by the same rules, since both answered the same request: Ollama's API (NDJSON or one
object), OpenAI's and Anthropic's routes (server-sent events or one object). ollama.md sections 7.3 to 7.5.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.parity.traffic.answers import answer as joined

Call = tuple[str, str]
"""Name of a function, its arguments as JSON with sorted keys."""


@dataclass(frozen=True, slots=True)
class AnswerSummary:
    """`status` None: no answer at all, or one that broke off. Counts are tokens, None where the server told none.
    Times are in seconds from when the request was sent; `ttft_s` is the first piece's, None when not streamed."""

    status: int | None
    prompt_tokens: int | None = None
    tokens: int | None = None
    done_reason: str = ""
    text: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    ttft_s: float | None = None
    total_s: float = 0.0
    understood: bool = True

    @property
    def ok(self) -> bool:
        return self.status is not None and self.status < 400


def summary(
    path: str, status: int | None, content: bytes, *, ttft_s: float | None = None, total_s: float = 0.0
) -> AnswerSummary:
    """Reads an answer. What cannot be understood says so; an error in the middle of a stream is no status."""
    times: dict[str, Any] = {"ttft_s": ttft_s, "total_s": total_s}
    if status is None or status >= 400:
        return AnswerSummary(status, **times)
    try:
        parts = _objects(content)
    except (ValueError, RecursionError):
        return AnswerSummary(status, understood=False, **times)
    if any(_is_error(part) for part in parts):
        return AnswerSummary(None, **times)
    try:
        return _read(path, parts, content, status, times)
    except (AttributeError, KeyError, TypeError, ValueError):  # JSON of another shape than the API's
        return AnswerSummary(status, understood=False, **times)


def _read(
    path: str, parts: Sequence[dict[str, Any]], content: bytes, status: int, times: Mapping[str, Any]
) -> AnswerSummary:
    if "embed" in path:
        return _embedding(parts, status, times)
    if path == "/v1/messages":
        return _anthropic(parts, status, times)
    if path == "/v1/responses":
        return _responses(parts, status, times)
    return _chat(path, parts, content, status, times)


def _is_error(part: Mapping[str, Any]) -> bool:
    return bool(part.get("error")) or part.get("type") == "error"


def _objects(content: bytes) -> list[dict[str, Any]]:
    """A document, a JSON object a line, or the data of server-sent events."""
    text = content.strip()
    if text.startswith(b"{") and b"\n" in text:
        try:
            whole = json.loads(text)
        except ValueError:
            pass
        else:
            return [whole] if isinstance(whole, dict) else []
    found: list[dict[str, Any]] = []
    for line in text.split(b"\n"):
        piece = line.removeprefix(b"data:").strip()
        if not piece or piece == b"[DONE]" or line.startswith((b":", b"event:", b"id:", b"retry:")):
            continue
        value = json.loads(piece)
        if not isinstance(value, dict):
            raise ValueError("no object")
        found.append(value)
    return found


def _chat(
    path: str, parts: Sequence[dict[str, Any]], content: bytes, status: int, times: Mapping[str, Any]
) -> AnswerSummary:
    """/api/chat, /api/generate, /v1/chat/completions, /v1/completions."""
    made = joined(path, content)
    if made is None:
        made = joined(path, b"\n".join(json.dumps(part).encode() for part in parts))
    if made is None:
        return AnswerSummary(status, understood=False, **times)
    usages = [part["usage"] for part in parts if isinstance(part.get("usage"), dict)]
    usage: dict[str, Any] = usages[-1] if usages else {}
    last = parts[-1] if parts else {}
    native = not path.startswith("/v1/")
    calls = made.get("tool_calls", [])
    return AnswerSummary(
        status,
        prompt_tokens=_count(last.get("prompt_eval_count") if native else usage.get("prompt_tokens")),
        tokens=_count(last.get("eval_count") if native else usage.get("completion_tokens")),
        done_reason=str(made.get("finish_reason", "")),
        text=str(made.get("text", "")),
        thinking=str(made.get("thinking", "")),
        calls=_native_calls(calls) if native else _openai_calls(calls),
        **times,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _native_calls(calls: Sequence[Any]) -> tuple[Call, ...]:
    functions = [c["function"] for c in calls if isinstance(c, dict) and isinstance(c.get("function"), dict)]
    return tuple((str(f.get("name", "")), _arguments(f.get("arguments"))) for f in functions)


def _openai_calls(calls: Sequence[Any]) -> tuple[Call, ...]:
    """Streamed calls come in pieces: a name, then pieces of the arguments, told apart by `index`."""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            continue
        index = call.get("index")
        index = index if isinstance(index, int) else number
        names[index] = names.get(index, "") + str(function.get("name") or "")
        arguments[index] = arguments.get(index, "") + str(function.get("arguments") or "")
    return tuple((names[index], _arguments(arguments[index])) for index in sorted(names))


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return str(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _embedding(parts: Sequence[Mapping[str, Any]], status: int, times: Mapping[str, Any]) -> AnswerSummary:
    whole = parts[0] if parts else {}
    usage = whole.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else whole.get("prompt_eval_count")
    rows = whole.get("embeddings")
    if isinstance(whole.get("embedding"), list):
        rows = [whole["embedding"]]
    elif isinstance(whole.get("data"), list):
        rows = [row.get("embedding") for row in whole["data"] if isinstance(row, dict)]
    vectors = tuple(map(_vector, rows)) if isinstance(rows, list) else ()
    return AnswerSummary(
        status,
        prompt_tokens=_count(count),
        vectors=tuple(vector for vector in vectors if vector is not None),
        understood=isinstance(rows, list) and None not in vectors,
        **times,
    )


def _vector(row: Any) -> tuple[float, ...] | None:
    """Numbers, or the float32 of `encoding_format: base64`, little-endian."""
    if isinstance(row, str):
        try:
            data = base64.b64decode(row, validate=True)
            return struct.unpack(f"<{len(data) // 4}f", data)
        except (ValueError, struct.error):
            return None
    if isinstance(row, list) and all(isinstance(x, int | float) for x in row):
        return tuple(map(float, row))
    return None


def _anthropic(parts: Sequence[Mapping[str, Any]], status: int, times: Mapping[str, Any]) -> AnswerSummary:
    """One message, or message_start, content_block_*, message_delta, message_stop."""
    blocks: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    reason = ""
    for part in parts:
        match part.get("type"):
            case "message":
                blocks = {i: dict(b) for i, b in enumerate(part.get("content") or ()) if isinstance(b, dict)}
                usage, reason = dict(part.get("usage") or {}), str(part.get("stop_reason") or "")
            case "message_start":
                usage |= (part.get("message") or {}).get("usage") or {}
            case "content_block_start":
                blocks[int(part.get("index", 0))] = dict(part.get("content_block") or {})
            case "content_block_delta":
                block, delta = blocks.setdefault(int(part.get("index", 0)), {}), part.get("delta") or {}
                for key in ("text", "thinking", "partial_json"):
                    if isinstance(delta.get(key), str):
                        block[key] = str(block.get(key, "")) + delta[key]
            case "message_delta":
                reason = str((part.get("delta") or {}).get("stop_reason") or reason)
                usage |= {k: v for k, v in (part.get("usage") or {}).items() if v}
    ordered = [blocks[index] for index in sorted(blocks)]
    calls = [
        (str(b.get("name", "")), _arguments(b.get("partial_json") or b.get("input") or {}))
        for b in ordered
        if b.get("type") == "tool_use"
    ]
    return AnswerSummary(
        status,
        prompt_tokens=_count(usage.get("input_tokens")),
        tokens=_count(usage.get("output_tokens")),
        done_reason=reason,
        text="".join(str(b.get("text", "")) for b in ordered),
        thinking="".join(str(b.get("thinking", "")) for b in ordered),
        calls=tuple(calls),
        understood=bool(ordered) or bool(reason),
        **times,
    )


def _responses(parts: Sequence[Mapping[str, Any]], status: int, times: Mapping[str, Any]) -> AnswerSummary:
    """The whole response; of a stream, the one that `response.completed` (or `incomplete`) carries."""
    ends = [part["response"] for part in parts if isinstance(part.get("response"), dict)]
    whole = ends[-1] if ends else parts[0] if parts else {}
    output = whole.get("output")
    items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
    usage = whole.get("usage") if isinstance(whole.get("usage"), dict) else {}
    texts = [c.get("text", "") for i in items if i.get("type") == "message" for c in _dicts(i.get("content"))]
    thoughts = [s.get("text", "") for i in items if i.get("type") == "reasoning" for s in _dicts(i.get("summary"))]
    return AnswerSummary(
        status,
        prompt_tokens=_count((usage or {}).get("input_tokens")),
        tokens=_count((usage or {}).get("output_tokens")),
        done_reason=str(whole.get("status", "")),
        text="".join(map(str, texts)),
        thinking="".join(map(str, thoughts)),
        calls=tuple(
            (str(i.get("name", "")), _arguments(i.get("arguments") or "{}"))
            for i in items
            if i.get("type") == "function_call"
        ),
        understood=bool(items),
        **times,
    )


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
