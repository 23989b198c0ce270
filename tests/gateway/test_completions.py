"""vLLM's completions route: what is asked, and what becomes of streams that a real vLLM sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import completions
from migrate.gateway.catalog import Catalog
from migrate.gateway.completions import Piece, done_reason, max_tokens
from migrate.gateway.sampling import sampling
from migrate.gateway.upstreams import UpstreamError
from tests.gateway import bench
from tests.ollama.replay import recordings


def read(catalog: Catalog, events: Iterable[Mapping[str, Any]], top: int | None = None) -> list[Piece]:
    async def stream() -> AsyncIterator[Mapping[str, Any]]:
        for event in events:
            yield event

    async def all_of_it() -> list[Piece]:
        return [piece async for piece in completions.pieces(catalog.require("support-bot"), stream(), top)]

    return bench.run(all_of_it())


@pytest.mark.parametrize(
    ("name", "text", "reason", "usage"),
    [
        ("generate-raw", "3+4 is 7.", "stop", (20, 8)),
        ("chat-num-predict", "Once upon a", "length", (88, 3)),
        ("chat-format-schema", '{"name": "get_weather", "arguments": {"city": "Prague"}}', "stop", (87, 17)),
    ],
)
def test_streams_of_vllm(catalog: Catalog, name: str, text: str, reason: str, usage: tuple[int, int]) -> None:
    *said, last = read(catalog, bench.events(name))

    assert "".join(piece.text for piece in said) == text
    assert (last.text, last.done_reason, last.usage) == ("", reason, usage)
    assert all(piece.text and piece.usage is None for piece in said)


@pytest.mark.parametrize("row", ["chat/support-bot/0", "chat/support-bot/6"])
def test_logprobs_are_ollamas(catalog: Catalog, shared: Path, row: str) -> None:
    """Of the same weights in llama.cpp: texts and bytes are equal, values to the difference of two engines."""
    found = recordings(shared / "ollama" / "recordings.jsonl")
    wanted = json.loads(next(r for r in found if r["name"] == row)["response"]["body"])["logprobs"]
    got = [entry for piece in read(catalog, bench.events(row), 20) for entry in piece.logprobs]

    assert [entry["token"] for entry in got] == [entry["token"] for entry in wanted]
    for mine, theirs in zip(got, wanted, strict=True):
        assert list(mine) == list(theirs)
        assert mine["bytes"] == theirs["bytes"]
        assert mine["logprob"] == pytest.approx(theirs["logprob"], abs=0.05)
        assert len(mine["top_logprobs"]) == len(theirs["top_logprobs"]) == 20
        assert mine["top_logprobs"][0]["token"] == theirs["top_logprobs"][0]["token"]
        values = [entry["logprob"] for entry in mine["top_logprobs"]]
        assert values == sorted(values, reverse=True)


def test_logprobs_without_alternatives(catalog: Catalog) -> None:
    pieces = read(catalog, bench.events("chat/support-bot/0"), 0)

    assert pieces[0].logprobs
    assert not any("top_logprobs" in entry for piece in pieces for entry in piece.logprobs)
    assert not any(piece.logprobs for piece in read(catalog, bench.events("chat/support-bot/0"), None))


# ---- streams that are broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(9))
def test_a_stream_that_ends_early_is_an_error(catalog: Catalog, kept: int) -> None:
    events = bench.events("chat/support-bot/0")
    assert kept < len(events)
    with pytest.raises(UpstreamError, match="has no end") as caught:
        read(catalog, events[:kept])
    assert caught.value.status == 500


@pytest.mark.parametrize(
    "damage",
    [
        {"choices": 3},
        {"choices": [3]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["token_id:x"], "token_logprobs": [0]}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["token_id:1"], "token_logprobs": []}}]},
        {"choices": [{"text": "a", "logprobs": {"tokens": ["token_id:1"], "token_logprobs": [0]}}]},
        {"usage": {"prompt_tokens": 3}},
        {"usage": 3},
    ],
)
def test_events_that_are_not_vllms_are_an_error(catalog: Catalog, damage: Mapping[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="an event is not vLLM's"):
        read(catalog, [*bench.events("generate-raw")[:3], damage], 1)


KEYS = st.sampled_from(["choices", "text", "usage", "logprobs", "tokens"])
EVENTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
)


@given(EVENTS)
def test_no_event_breaks_anything_else(catalog: Catalog, event: Any) -> None:
    if not isinstance(event, dict):  # `upstreams` sees to that
        return
    with pytest.raises(UpstreamError):
        read(catalog, [event], 1)


@pytest.mark.parametrize(
    ("given_reason", "reason"), [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("repetition", "stop")]
)
def test_reasons(given_reason: str, reason: str) -> None:
    assert done_reason(given_reason) == reason


@pytest.mark.parametrize("given_reason", ["abort", "error"])
def test_an_answer_that_vllm_gave_up_is_an_error(given_reason: str) -> None:
    with pytest.raises(UpstreamError, match=given_reason):
        done_reason(given_reason)


# ---- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "prompt", "shift", "tokens"),
    [
        ({}, 100, True, 64),  # PARAMETER num_predict 64
        ({"num_predict": -1}, 100, True, 924),
        ({"num_predict": -2}, 100, True, 924),
        ({"num_predict": 0}, 100, True, 924),  # Ollama leaves a 0 out of what it asks llama-server
        ({"num_predict": 2**40}, 100, True, 924),
        ({"num_predict": 900}, 200, True, 824),
        ({"num_predict": -1, "num_ctx": 512}, 100, True, 924),  # Ollama would shift: the server's context is the end
        ({"num_predict": -1, "num_ctx": 512}, 100, False, 412),
        ({"num_predict": -1}, 1023, True, 1),
    ],
)
def test_how_long_answers_may_be(
    catalog: Catalog, options: dict[str, Any], prompt: int, shift: bool, tokens: int
) -> None:
    model = catalog.require("support-bot")

    assert max_tokens(model, prompt, sampling(model, options), shift=shift) == tokens


@pytest.mark.parametrize(("top", "asked"), [(None, None), (0, 1), (1, 1), (20, 20)])
def test_logprobs_are_asked_for_by_number(catalog: Catalog, top: int | None, asked: int | None) -> None:
    model = catalog.require("support-bot")
    body = completions.body(model, [1, 2], sampling(model, {}), None, top)

    assert body.get("logprobs") == asked
    assert body.get("return_tokens_as_token_ids") is (None if asked is None else True)
    assert (body["prompt"], body["model"], body["stream"]) == ([1, 2], "support-bot", True)
