"""The OpenAI routes against a real Ollama's answers, and against Ollama's own middleware (see middleware.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import go_wire, openai
from migrate.gateway.types import ApiError, ChatRequest, Chunk, EmbedRequest, GenerateRequest, Metrics
from tests.gateway.middleware import JSON, as_sent, bodies, chunk, expected, name, recorded, refusal, rows, without_ids

REQUEST: dict[str, Callable[[Any], ChatRequest | GenerateRequest | EmbedRequest]] = {
    "chat": openai.chat_request,
    "completions": openai.completion_request,
    "embeddings": openai.embed_request,
}


def _all(kind: str) -> list[dict[str, Any]]:
    return [row for route in REQUEST for row in rows(route, kind)]


@pytest.mark.parametrize("row", _all("request-") + _all("body-"), ids=name)
def test_a_body_is_read_as_ollama_reads_it(row: dict[str, Any]) -> None:
    translate = REQUEST[row["route"]]
    if row["out_status"] == 200:
        assert as_sent(translate(row["body"].encode())) == expected(row["request"])
        return
    with pytest.raises(ApiError) as caught:
        translate(row["body"].encode())
    assert caught.value.status == row["out_status"]
    assert go_wire.encode(openai.error(caught.value.status, caught.value.message)) == row["out_body"]


@pytest.mark.parametrize("row", _all("error-"), ids=name)
def test_an_error_of_a_handler(row: dict[str, Any]) -> None:
    message = row["answer"][0]["error"]
    assert go_wire.body(openai.error(row["out_status"], message)).decode() == row["out_body"]


@pytest.mark.parametrize("row", rows("chat", "reply-") + rows("completions", "reply-"), ids=name)
def test_a_whole_answer(row: dict[str, Any]) -> None:
    wanted = json.loads(row["out_body"])
    write = openai.chat_reply if row["route"] == "chat" else openai.completion_reply
    reply = write("support-bot", chunk(row["answer"][0]), id=wanted["id"], created=wanted["created"])
    assert go_wire.body(reply).decode() == row["out_body"]


@pytest.mark.parametrize("row", rows("chat", "stream-") + rows("completions", "stream-"), ids=name)
def test_a_stream(row: dict[str, Any]) -> None:
    first = json.loads(row["out_body"].split("\n")[0].removeprefix("data: "))
    make = openai.ChatStream if row["route"] == "chat" else openai.CompletionStream
    usage = openai.include_usage(row["body"].encode())
    stream = make("support-bot", include_usage=usage, id=first["id"], created=first["created"])
    written = b"".join([stream.feed(chunk(answer)) for answer in row["answer"]] + [stream.end()])
    assert without_ids(written.decode()) == without_ids(row["out_body"])


@pytest.mark.parametrize("row", rows("embeddings", "reply-"), ids=name)
def test_embeddings(row: dict[str, Any]) -> None:
    [answer] = row["answer"]
    asked = openai.embed_request(row["body"].encode())
    reply = openai.embed_reply(
        asked.model, answer["embeddings"], answer["prompt_eval_count"], openai.encoding_format(row["body"].encode())
    )
    assert go_wire.body(reply).decode() == row["out_body"]


def test_models() -> None:
    [row] = rows("models", "reply")
    given_models = [(m["id"], m["created"], m["owned_by"]) for m in json.loads(row["out_body"])["data"]]
    assert go_wire.body(openai.models_reply(given_models)).decode() == row["out_body"]
    [row] = rows("models", "none")
    assert go_wire.body(openai.models_reply([])).decode() == row["out_body"]
    [row] = rows("model", "reply")
    model = json.loads(row["out_body"])
    assert go_wire.body(openai.model_reply("a", model["created"], "library")).decode() == row["out_body"]
    [row] = rows("model", "unknown")
    assert go_wire.body(openai.error(404, "model 'nope' not found")).decode() == row["out_body"]


# ---- a real Ollama --------------------------------------------------------------------------------------------------


def test_recorded_answers(shared: Path) -> None:
    for case in ("v1-chat", "v1-chat-defaults", "v1-chat-tools", "v1-completions"):
        row = recorded(shared, case)
        wanted = json.loads(row["response"]["body"])
        [choice] = wanted["choices"]
        usage = wanted["usage"]
        whole = Chunk(
            content=choice["text"] if case == "v1-completions" else choice["message"]["content"],
            done=True,
            done_reason=choice["finish_reason"],
            metrics=Metrics(prompt_eval_count=usage["prompt_tokens"], eval_count=usage["completion_tokens"]),
        )
        write = openai.completion_reply if case == "v1-completions" else openai.chat_reply
        reply = write(wanted["model"], whole, id=wanted["id"], created=wanted["created"])
        assert go_wire.body(reply).decode() == row["response"]["body"]


def test_a_recorded_stream(shared: Path) -> None:
    row = recorded(shared, "v1-chat-stream")
    events = [json.loads(line[6:]) for line in row["response"]["body"].split("\n\n")[:-2]]
    *pieces, _, usage = events
    stream = openai.ChatStream(
        usage["model"],
        include_usage=openai.include_usage(row["request"]["body"]),
        id=usage["id"],
        created=usage["created"],
    )
    last = Metrics(prompt_eval_count=usage["usage"]["prompt_tokens"], eval_count=usage["usage"]["completion_tokens"])
    written = [stream.feed(Chunk(content=event["choices"][0]["delta"]["content"])) for event in pieces]
    written.append(stream.feed(Chunk(done=True, done_reason="stop", metrics=last)))
    assert b"".join(written).decode() == row["response"]["body"]


def test_recorded_requests_are_read(shared: Path) -> None:
    defaults = openai.chat_request(recorded(shared, "v1-chat-defaults")["request"]["body"])
    assert defaults.options == {"temperature": 1.0, "seed": 1, "top_p": 1.0}
    tools = openai.chat_request(recorded(shared, "v1-chat-tools")["request"]["body"])
    assert [tool["function"]["name"] for tool in tools.tools] == ["get_weather"]
    completion = openai.completion_request(recorded(shared, "v1-completions")["request"]["body"])
    assert completion.prompt == "What is 3+4?"
    assert completion.options == {
        "num_predict": 16,
        "temperature": 0,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "top_p": 1.0,
    }


def test_recorded_embeddings_and_models(shared: Path) -> None:
    for case in ("v1-embeddings", "v1-embeddings-base64"):
        row = recorded(shared, case)
        wanted = json.loads(row["response"]["body"])
        asked = openai.embed_request(row["request"]["body"])
        encoding = openai.encoding_format(row["request"]["body"])
        vectors = [
            item["embedding"] for item in json.loads(recorded(shared, "v1-embeddings")["response"]["body"])["data"]
        ]
        reply = openai.embed_reply(
            wanted["model"], vectors[: len(asked.input)], wanted["usage"]["prompt_tokens"], encoding
        )
        assert go_wire.body(reply).decode() == row["response"]["body"]
    row = recorded(shared, "v1-models")
    models = [(m["id"], m["created"], m["owned_by"]) for m in json.loads(row["response"]["body"])["data"]]
    assert go_wire.body(openai.models_reply(models)).decode() == row["response"]["body"]


# ---- beyond Ollama's ------------------------------------------------------------------------------------------------


def test_an_error_in_the_middle_is_told() -> None:
    for stream in (openai.ChatStream("m"), openai.CompletionStream("m")):
        stream.feed(Chunk(content="a"))
        assert stream.end() == b""
        event = json.loads(stream.end("boom").decode().removeprefix("data: "))
        assert event == {"error": {"message": "boom", "type": "api_error", "param": None, "code": None}}


@given(bodies(openai.CHAT, openai.COMPLETION, openai.EMBED) | JSON, st.sampled_from(sorted(REQUEST)))
def test_any_body_is_translated_or_refused(body: Any, route: str) -> None:
    assert refusal(REQUEST[route], body) in (None, 400)


@given(st.binary(), st.sampled_from(sorted(REQUEST)))
def test_any_bytes_are_translated_or_refused(body: bytes, route: str) -> None:
    assert refusal(REQUEST[route], body) in (None, 400)


@pytest.mark.parametrize("depth", [300, 5_000, 200_000])
def test_nesting_is_bounded(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for body in (
        b'{"messages": [{"role": "user", "content": %s}]}' % deep,
        b'{"messages": [{"role": "user", "content": "x"}], "tools": [{"items": %s}]}' % deep,
        b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{\\"a\\": %s}"}}]}]}' % deep,
    ):
        with pytest.raises(ApiError, match=r"max depth|invalid tool call arguments"):
            openai.chat_request(body)


@given(JSON)
def test_what_is_written_reads_back(value: Any) -> None:
    text = json.dumps(value)
    if "NaN" in text or "Infinity" in text:
        return
    written = go_wire.encode(json.loads(text))
    assert not set("<>&\u2028\u2029") & set(written)
    assert _as_float64(json.loads(written)) == _as_float64(json.loads(text))


def _as_float64(value: Any) -> Any:
    match value:
        case bool() | None:
            return value
        case int() | float():
            return float(value)
        case str():
            return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)
        case list():
            return [_as_float64(item) for item in value]
    return {_as_float64(key): _as_float64(item) for key, item in value.items()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unexpected end of JSON input"),
        ('{"a":', "unexpected end of JSON input"),
        ("{x}", "invalid character 'x' looking for beginning of object key string"),
        ("{} x", "invalid character 'x' after top-level value"),
        ('{"a": NaN}', "invalid character 'N' looking for beginning of value"),
        ("[]", "Value looks like object, but can't find closing '}' symbol"),
    ],
)
def test_arguments_that_are_no_object(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        go_wire.arguments(text)


def test_arguments_keep_their_order_and_sort_below() -> None:
    assert go_wire.encode(go_wire.arguments(' {"b": 1e3, "a": {"z": 1, "c": [{"y": 1, "x": 2}]}}\n')) == (
        '{"b":1000,"a":{"c":[{"x":2,"y":1}],"z":1}}'
    )
    assert go_wire.arguments("null") is None


@pytest.mark.parametrize(("value", "text"), [(float("-inf"), "-Inf"), (float("nan"), "NaN")])
def test_numbers_that_are_none_are_an_error(value: float, text: str) -> None:
    with pytest.raises(ApiError, match=f"json: unsupported value: {re.escape(text)}") as caught:
        openai.ChatStream("m").feed(Chunk(content="a", logprobs=[{"token": "a", "logprob": value}]))
    assert caught.value.status == 500
