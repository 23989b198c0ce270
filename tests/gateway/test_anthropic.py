"""The Anthropic route against a real Ollama's answer, and against Ollama's own middleware (see middleware.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import anthropic, go_wire
from migrate.gateway.types import ApiError, Chunk, Metrics
from tests.gateway.middleware import JSON, as_sent, bodies, chunk, expected, name, recorded, refusal, rows, without_ids


@pytest.mark.parametrize("row", rows("messages", "request-") + rows("messages", "body-"), ids=name)
def test_a_body_is_read_as_ollama_reads_it(row: dict[str, Any]) -> None:
    if row["out_status"] == 200:
        request = anthropic.messages_request(row["body"].encode())
        assert request.relax_thinking
        assert as_sent(request) == expected(row["request"])
        return
    with pytest.raises(ApiError) as caught:
        anthropic.messages_request(row["body"].encode())
    body = go_wire.encode(anthropic.error(caught.value.status, caught.value.message))
    assert without_ids(body) == without_ids(row["out_body"])


@pytest.mark.parametrize("row", rows("messages", "error-4") + rows("messages", "error-5"), ids=name)
def test_an_error_of_a_handler(row: dict[str, Any]) -> None:
    body = go_wire.body(anthropic.error(row["out_status"], row["answer"][0]["error"])).decode()
    assert without_ids(body) == without_ids(row["out_body"])


@pytest.mark.parametrize("row", rows("messages", "reply-"), ids=name)
def test_a_whole_answer(row: dict[str, Any]) -> None:
    wanted = json.loads(row["out_body"])
    reply = anthropic.messages_reply("support-bot", chunk(row["answer"][0]), id=wanted["id"])
    assert go_wire.body(reply).decode() == row["out_body"]


@pytest.mark.parametrize("row", rows("messages", "stream-") + rows("messages", "estimate-"), ids=name)
def test_a_stream(row: dict[str, Any]) -> None:
    body = row["body"].encode()
    estimated = anthropic.estimate_input_tokens(body)
    stream = anthropic.MessageStream(json.loads(body)["model"], estimated_input_tokens=estimated)
    written = b"".join([stream.feed(chunk(answer)) for answer in row["answer"]] + [stream.end()])
    assert without_ids(written.decode()) == without_ids(row["out_body"])


def test_a_recorded_answer(shared: Path) -> None:
    row = recorded(shared, "v1-messages")
    request = anthropic.messages_request(row["request"]["body"])
    assert request.options == {"num_predict": 32}  # the Modelfile's temperature and top_p stay
    wanted = json.loads(row["response"]["body"])
    usage = wanted["usage"]
    whole = Chunk(
        content=wanted["content"][0]["text"],
        done=True,
        done_reason="stop",
        metrics=Metrics(prompt_eval_count=usage["input_tokens"], eval_count=usage["output_tokens"]),
    )
    reply = anthropic.messages_reply(wanted["model"], whole, id=wanted["id"])
    assert go_wire.body(reply).decode() == row["response"]["body"]


@pytest.mark.parametrize("kind", ["web_search_20250305", "web_search"])
def test_the_search_of_ollamas_cloud_is_refused(kind: str) -> None:
    body = {
        "model": "m",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": kind, "name": "web_search"}],
    }
    with pytest.raises(ApiError, match="web_search is run by Ollama's cloud") as caught:
        anthropic.messages_request(body)
    assert caught.value.status == 400


def test_an_error_in_the_middle_is_told() -> None:
    stream = anthropic.MessageStream("m")
    stream.feed(Chunk(content="a"))
    wanted = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    assert stream.end("busy", 503) == wanted


@given(bodies(anthropic.REQUEST, anthropic.BLOCK, anthropic.TOOL) | JSON)
def test_any_body_is_translated_or_refused(body: Any) -> None:
    assert refusal(anthropic.messages_request, body) in (None, 400)
    assert refusal(anthropic.estimate_input_tokens, body) in (None, 400)


@given(st.lists(bodies(anthropic.BLOCK), max_size=3), st.lists(bodies(anthropic.TOOL), max_size=2), JSON)
def test_any_blocks_are_translated_or_refused(blocks: Any, tools: Any, system: Any) -> None:
    body = {
        "model": "m",
        "max_tokens": 1,
        "system": system,
        "messages": [{"role": "user", "content": blocks}],
        "tools": tools,
    }
    assert refusal(anthropic.messages_request, body) in (None, 400)
    assert refusal(anthropic.estimate_input_tokens, body) in (None, 400)


@pytest.mark.parametrize("depth", [300, 5_000, 200_000])
def test_nesting_is_bounded(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for part in (b'{"type": "tool_result", "content": %s}', b'{"type": "tool_use", "id": "i", "input": {"a": %s}}'):
        body = b'{"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [%s]}]}' % (part % deep)
        with pytest.raises(ApiError, match="max depth"):
            anthropic.messages_request(body)
