"""POST /v1/responses against Ollama's own middleware (see middleware.py)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import go_wire, responses
from migrate.gateway.types import ApiError, Chunk
from tests.gateway.middleware import JSON, as_sent, bodies, chunk, expected, name, refusal, rows, without_ids


@pytest.mark.parametrize("row", rows("responses", "request-") + rows("responses", "body-"), ids=name)
def test_a_body_is_read_as_ollama_reads_it(row: dict[str, Any]) -> None:
    if row["out_status"] == 200:
        assert as_sent(responses.responses_request(row["body"].encode())) == expected(row["request"])
        return
    with pytest.raises(ApiError) as caught:
        responses.responses_request(row["body"].encode())
    assert go_wire.encode(responses.error(caught.value.status, caught.value.message)) == row["out_body"]


@pytest.mark.parametrize("row", rows("responses", "reply-"), ids=name)
def test_a_whole_answer(row: dict[str, Any]) -> None:
    wanted = json.loads(row["out_body"])
    request = responses.decoded(row["body"].encode())
    reply = responses.response_reply("support-bot", chunk(row["answer"][0]), request, id=wanted["id"])
    assert reply["completed_at"] >= reply["created_at"]
    assert without_ids(go_wire.body(reply).decode()) == without_ids(row["out_body"])


@pytest.mark.parametrize("row", rows("responses", "stream-"), ids=name)
def test_a_stream(row: dict[str, Any]) -> None:
    stream = responses.ResponseStream("support-bot", responses.decoded(row["body"].encode()))
    written = b"".join([stream.feed(chunk(answer)) for answer in row["answer"]] + [stream.end()])
    assert without_ids(written.decode()) == without_ids(row["out_body"])


def test_ids_in_a_stream_belong_together() -> None:
    stream = responses.ResponseStream("m", responses.decoded({"model": "m", "input": "x"}))
    written = stream.feed(Chunk(thinking="t")) + stream.feed(Chunk(content="a")) + stream.feed(Chunk(done=True))
    events = [json.loads(event.split("data: ")[1]) for event in written.decode().split("\n\n")[:-1]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    reasoning, message = events[-1]["response"]["output"]
    named = {
        (event["output_index"], event.get("item_id") or event["item"]["id"])
        for event in events
        if "output_index" in event
    }
    assert named == {(0, reasoning["id"]), (1, message["id"])}


def test_the_search_of_ollamas_cloud_is_refused() -> None:
    with pytest.raises(ApiError, match="web_search is run by Ollama's cloud") as caught:
        responses.responses_request({"model": "m", "input": "x", "tools": [{"type": "web_search"}]})
    assert caught.value.status == 400


def test_an_error_in_the_middle_is_told() -> None:
    stream = responses.ResponseStream("m", responses.decoded({"model": "m", "input": "x"}))
    stream.feed(Chunk(content="a"))
    event, data = stream.end("boom").decode().strip().split("\n")
    assert event == "event: response.failed"
    response = json.loads(data.removeprefix("data: "))["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "boom"}
    assert response["output"][0]["content"][0]["text"] == "a"


@given(bodies(responses.REQUEST, responses.TOOL, *responses.ITEMS.values()) | JSON)
def test_any_body_is_translated_or_refused(body: Any) -> None:
    assert refusal(responses.responses_request, body) in (None, 400)


@given(
    st.lists(bodies(*responses.ITEMS.values(), *responses.CONTENTS.values()), max_size=3),
    st.lists(bodies(responses.TOOL), max_size=2),
)
def test_any_items_are_translated_or_refused(items: Any, tools: Any) -> None:
    for kind in (*responses.ITEMS, None):
        body = {"model": "m", "input": [{**item, "type": kind} for item in items], "tools": tools}
        assert refusal(responses.responses_request, body) in (None, 400)


@pytest.mark.parametrize("depth", [300, 5_000, 200_000])
def test_nesting_is_bounded(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    namespaces = b'{"type": "namespace", "tools": [' * depth + b"]}" * depth
    for body in (
        b'{"model": "m", "input": "x", "text": {"format": {"type": "json_schema", "schema": {"a": %s}}}}' % deep,
        b'{"model": "m", "input": "x", "tools": [%s]}' % namespaces,
    ):
        with pytest.raises(ApiError):
            go_wire.body(responses.response_reply("m", Chunk(), responses.decoded(body)))
