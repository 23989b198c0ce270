"""Ollama's own answers as Go writes them: order of keys, what is left out, escapes, times."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import wire
from migrate.gateway.types import Chunk, Metrics, ToolCall
from tests.ollama.replay import recordings

TEXT = st.text(st.characters(exclude_categories=()))
FULL = Metrics(1, 2, 3, 4, 5, 6)
CALL = ToolCall("f", {"b": 1, "a": [True, None]}, "call_abcdefgh", 1)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": None}, '{"b":1,"a":null}'),
        ("<a href='x'>&\u2028\u2029", r'"\u003ca href=' + r"'x'\u003e\u0026\u2028\u2029" + '"'),
        ('\x00\x1f\b\f\n\r\t"\\/\x7f', r'"\u0000\u001f\b\f\n\r\t\"\\/' + "\x7f" + '"'),
        ("é😀", '"é😀"'),
        ("\ud800", r'"\ufffd"'),
        ([0.5, 1, True], "[0.5,1,true]"),
    ],
)
def test_json_is_gos(value: Any, written: str) -> None:
    assert wire.go_json(value).decode() == written


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))  # fmt: skip
def test_json_comes_back(value: Any) -> None:
    text = wire.go_json(value)

    assert json.loads(text) == _replaced(value)
    assert not set(b"<>&\n") & set(text)


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    return {_replaced(k): _replaced(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        (1_795_000_000_000_000_001, "2026-11-18T11:06:40.000000001Z"),
        (1_795_000_000_123_456_780, "2026-11-18T11:06:40.12345678Z"),
    ],
)
def test_times(monkeypatch: pytest.MonkeyPatch, nanoseconds: int, text: str) -> None:
    monkeypatch.setattr("migrate.gateway.wire.time.time_ns", lambda: nanoseconds)

    assert wire.now() == text


def test_now_is_now() -> None:
    made = datetime.datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*Z", r".\1Z", wire.now()))

    assert abs(made - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(seconds=5)


def written(data: bytes) -> str:
    return re.sub(r'"created_at":"[^"]+"', '"created_at":T', data.decode())


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (Chunk("hi"), '{"model":"m","created_at":T,"message":{"role":"assistant","content":"hi"},"done":false}'),
        (
            Chunk(thinking="hm", logprobs=({"token": "a"},)),
            '{"model":"m","created_at":T,"message":{"role":"assistant","content":"","thinking":"hm"},"done":false,'
            '"logprobs":[{"token":"a"}]}',
        ),
        (
            Chunk(tool_calls=(CALL,)),
            '{"model":"m","created_at":T,"message":{"role":"assistant","content":"","tool_calls":[{"id":"call_abcdefgh",'
            '"function":{"index":1,"name":"f","arguments":{"b":1,"a":[true,null]}}}]},"done":false}',
        ),
        (
            Chunk(done=True, done_reason="stop", metrics=FULL),
            '{"model":"m","created_at":T,"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
            '"total_duration":1,"load_duration":2,"prompt_eval_count":3,"prompt_eval_duration":4,"eval_count":5,'
            '"eval_duration":6}',
        ),
        (
            Chunk(rendered="p", image_count=2),
            '{"model":"m","created_at":T,"message":{"role":"","content":""},"done":false,'
            '"_debug_info":{"rendered_template":"p","image_count":2}}',
        ),
    ],
)
def test_pieces_of_chats(chunk: Chunk, text: str) -> None:
    assert written(wire.chat("m", chunk)) == text


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (Chunk("hi"), '{"model":"m","created_at":T,"response":"hi","done":false}'),
        (
            Chunk(thinking="hm", tool_calls=(ToolCall("f", {}),), logprobs=({"token": "a"},)),
            '{"model":"m","created_at":T,"response":"","thinking":"hm","done":false,'
            '"tool_calls":[{"function":{"index":0,"name":"f","arguments":{}}}],"logprobs":[{"token":"a"}]}',
        ),
        (
            Chunk(done=True, done_reason="length", metrics=Metrics(total_duration=1), context=[1, 2]),
            '{"model":"m","created_at":T,"response":"","done":true,"done_reason":"length","context":[1,2],'
            '"total_duration":1}',
        ),
        (
            Chunk(rendered="p"),
            '{"model":"m","created_at":T,"response":"","done":false,"_debug_info":{"rendered_template":"p"}}',
        ),
    ],
)
def test_pieces_of_generate(chunk: Chunk, text: str) -> None:
    assert written(wire.generate("m", chunk)) == text


@pytest.mark.parametrize(
    ("vectors", "metrics", "text"),
    [
        ([b"[1,2]", b"[3]"], Metrics(1, 2, 3, 4, 5, 6),
         '{"model":"m","embeddings":[[1,2],[3]],"total_duration":1,"load_duration":2,"prompt_eval_count":3}'),
        ([], Metrics(), '{"model":"m","embeddings":[]}'),
    ],
)  # fmt: skip
def test_vectors(vectors: list[bytes], metrics: Metrics, text: str) -> None:
    assert wire.embed("m", vectors, metrics).decode() == text


def test_a_whole_answer_joins_its_texts_and_ends_as_its_last_piece() -> None:
    pieces = [
        Chunk("a", thinking="t", logprobs=({"token": "a"},)),
        Chunk("b", tool_calls=(CALL,)),
        Chunk("c", done=True, done_reason="stop", metrics=FULL, context=[1], logprobs=({"token": "c"},)),
    ]

    assert wire.whole(pieces) == Chunk(
        "abc", "t", (CALL,), ({"token": "a"}, {"token": "c"}), True, "stop", FULL, [1]
    )  # fmt: skip
    assert wire.whole([]) == Chunk()


def test_recorded_answers_are_written_again_byte_for_byte(shared: Path) -> None:
    """Each line of the real Ollama's chats and generates, read and written again; numbers as Python writes them."""
    seen = 0
    for row in recordings(shared / "ollama" / "recordings.jsonl", shared / "ollama" / "modern" / "recordings.jsonl"):
        path = row["request"]["path"]
        if path not in ("/api/chat", "/api/generate") or row["response"]["status"] != 200 or row["name"][:4] == "rend":
            continue
        for line in row["response"]["body"].splitlines():
            answer = json.loads(line)
            if not answer["model"]:  # a stream that ended without its last message
                continue
            made = _again(answer, path)
            assert _rounded(made) == _rounded(_untimed(line)), row["name"]
            seen += 1
    assert seen > 150


def _rounded(line: str) -> str:
    return re.sub(r'"logprob":[^,}]+', "L", line)


def _untimed(line: str) -> str:
    return re.sub(r'"created_at":"[^"]+"', '"created_at":T', line)


def _call(call: dict[str, Any]) -> ToolCall:
    function = call["function"]
    return ToolCall(function["name"], function["arguments"], call.get("id", ""), function["index"])


def _again(answer: dict[str, Any], path: str) -> str:
    message = answer.get("message") or {"content": answer.get("response", "")}
    calls = message.get("tool_calls") or answer.get("tool_calls") or []
    chunk = Chunk(
        message["content"],
        message.get("thinking", "") or answer.get("thinking", ""),
        [_call(call) for call in calls],
        answer.get("logprobs", ()),
        answer["done"],
        answer.get("done_reason", ""),
        Metrics(*(answer.get(name, 0) for name in Metrics.__dataclass_fields__)),
        answer.get("context"),
    )
    write = wire.chat if path == "/api/chat" else wire.generate
    return written(write(answer["model"], chunk))
