"""What Ollama's own middleware made of requests and answers: data/middleware.jsonl.

It was recorded by running the packages openai, anthropic and middleware of Ollama at fb307609 (0.33), built with Go
1.26, with a handler in place of the real ones that keeps the request it is handed and writes the answers of the case.
Rows: `name`, `route`, `body` (the text that was sent), `answer` (what the handler wrote, piece by piece, as /api/chat,
/api/generate or /api/embed do), `request` (the body of that route as Ollama decodes it, null when the middleware
answered itself), `out_status`, `content_type`, `out_body`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from migrate.gateway.go_decode import Struct
from migrate.gateway.types import ApiError, ChatRequest, Chunk, EmbedRequest, GenerateRequest, Metrics, ToolCall
from tests.ollama.replay import recordings

_ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "middleware.jsonl").read_text(encoding="utf-8").splitlines()
]


def rows(route: str, kind: str) -> list[dict[str, Any]]:
    """The recorded cases of a route whose names begin with `kind`."""
    found = [row for row in _ROWS if row["name"].startswith(f"{route}/{kind}")]
    assert found
    return found


def recorded(shared: Path, name: str) -> dict[str, Any]:
    """A recording of a real Ollama's /v1 routes."""
    ollama = shared / "ollama"
    found = recordings(ollama / "recordings.jsonl", ollama / "modern" / "recordings.jsonl")
    return next(row for row in found if row["name"] == name)


def name(row: dict[str, Any]) -> str:
    return str(row["name"])


def chunk(answer: dict[str, Any]) -> Chunk:
    """A piece of an answer, as /api/chat or /api/generate write it."""
    message = answer.get("message") or {"content": answer.get("response", "")}
    debug = answer.get("_debug_info")
    return Chunk(
        content=message.get("content", ""),
        thinking=message.get("thinking", ""),
        tool_calls=[
            ToolCall(
                call["function"]["name"], call["function"]["arguments"], call.get("id", ""), call["function"]["index"]
            )
            for call in message.get("tool_calls", ())
        ],
        logprobs=answer.get("logprobs", ()),
        done=answer.get("done", False),
        done_reason=answer.get("done_reason", ""),
        metrics=Metrics(**{f.name: answer.get(f.name, 0) for f in dataclasses.fields(Metrics)}),
        rendered=debug and debug["rendered_template"],
        image_count=debug["image_count"] if debug else 0,
    )


def as_sent(request: ChatRequest | GenerateRequest | EmbedRequest) -> dict[str, Any]:
    """A request by the fields that the middleware sets, in the form of `expected`."""
    fields = dataclasses.asdict(request)
    fields["_debug_render_only"] = fields.pop("debug_render_only", False)
    for other in ("relax_thinking", "truncate", "shift", "keep_alive"):
        fields.pop(other, None)
    return expected(fields)


def expected(request: dict[str, Any]) -> dict[str, Any]:
    """A body without what says nothing: Go's omitempty, a nil list of stops, an empty text, null arguments. Of an input
    that is one text, which /api/embed takes for a list, the list."""
    unset = ("stream", "logprobs", "top_logprobs", "dimensions", "raw", "_debug_render_only")
    said = {key: value for key, value in _plain(request).items() if value or key not in unset}
    return said | ({"input": [said["input"]]} if isinstance(said.get("input"), str) else {})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        items = {key: _plain(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item is not None and item not in ("", [], {})}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_NESTED = (
    "role content function name arguments parameters properties type json_schema schema tool_calls tool_call_id "
    "image_url input_audio url text effort anyOf required source data format"
)
_VALUES = ("text", "image_url", "input_audio", "base64", "aGk=", "{}", "user", "assistant", "json_schema", "namespace")


def bodies(*structs: Struct) -> st.SearchStrategy[Any]:
    """Objects with the fields of these structs, and anything in them."""
    fields = st.sampled_from([*(name for struct in structs for name in struct.fields), *_NESTED.split()])
    values = st.recursive(
        JSON | st.sampled_from(_VALUES), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner)
    )
    return st.dictionaries(fields, values)


def refusal(translate: Callable[[Any], Any], body: Any) -> int | None:
    """The status a translation refuses a body with. Any other exception is a mistake."""
    try:
        translate(body)
    except ApiError as error:
        return error.status if error.message else 0
    return None


def without_ids(text: str) -> str:
    """Ids and times in an answer made equal."""
    text = re.sub(r'"(id|item_id|request_id)":"([a-z]+)_[\w]+"', r'"\1":"\2"', text)
    return re.sub(r'"(created|created_at|completed_at)":\d+', r'"\1":0', text)
