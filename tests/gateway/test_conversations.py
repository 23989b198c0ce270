"""vLLM's chat route: what is asked, and what becomes of streams that a real vLLM sent (fixtures/gateway/README.md)."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import conversations
from migrate.gateway.catalog import Catalog, ServedModel
from migrate.gateway.conversations import _Spaces, data_uri
from migrate.gateway.sampling import sampling
from migrate.gateway.serving import Clock
from migrate.gateway.types import ApiError, Chunk, Think
from migrate.gateway.upstreams import UpstreamError
from migrate.ollama.conversation import SPACES
from tests.gateway import bench

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def read(events: Iterable[Mapping[str, Any]], top: int | None = None) -> list[Chunk]:
    async def stream() -> AsyncIterator[Mapping[str, Any]]:
        for event in events:
            yield event

    async def all_of_it() -> list[Chunk]:
        clock = Clock(time.perf_counter_ns(), sent=time.perf_counter_ns())
        return [chunk async for chunk in conversations.chunks(stream(), clock, top)]

    return bench.run(all_of_it())


def calls(chunks: list[Chunk]) -> list[tuple[int, str, Any]]:
    return [(call.index, call.name, call.arguments) for chunk in chunks for call in chunk.tool_calls]


OSLO = (0, "get_weather", {"city": "Oslo"})
TROMSO = (1, "get_weather", {"city": "Tromsø", "days": 3})


@pytest.mark.parametrize(
    ("name", "thinking", "content", "called", "reason", "counts"),
    [
        ("chat-tool-call", "", "", [OSLO], "stop", (805, 53)),
        ("chat-two-tool-calls", "", "", [OSLO, TROMSO], "stop", (805, 141)),
        ("chat-text-and-tool-call", "", "I will look.", [OSLO], "stop", (805, 68)),
        ("chat-thinking", "The user asks for 3+4.", "3+4 is 7.", [], "stop", (20, 31)),
        ("chat-thinking-tool-call", "I need a tool.", "", [OSLO], "stop", (805, 69)),
        ("chat-thinking-cut", "The user a", "", [], "length", (20, 8)),
        ("chat-plain", "", '{"name": "get_weather", "arguments": "get', [], "length", (805, 12)),
    ],
)
def test_streams_of_vllm(
    name: str, thinking: str, content: str, called: list[Any], reason: str, counts: tuple[int, int]
) -> None:
    chunks = read(bench.events(name))
    *said, last = chunks

    assert "".join(chunk.thinking for chunk in said) == thinking
    assert "".join(chunk.content for chunk in said) == content
    assert calls(said) == called
    assert (last.done, last.done_reason) == (True, reason)
    assert (last.metrics.prompt_eval_count, last.metrics.eval_count) == counts
    assert not any(chunk.done for chunk in said)
    assert (last.content, last.thinking, list(last.tool_calls)) == ("", "", [])


def test_pieces_are_passed_as_they_come() -> None:
    chunks = read(bench.events("chat-thinking"))

    assert [chunk.thinking for chunk in chunks[:4]] == ["The", " u", "s", "er"]
    assert [chunk.content for chunk in chunks if chunk.content] == ["3", "+", "4", " is", " 7", "."]


def test_calls_come_whole_with_ids_before_the_end() -> None:
    *_, call, last = read(bench.events("chat-two-tool-calls"))

    assert last.done
    assert len(call.tool_calls) == 2
    assert len({made.id for made in call.tool_calls}) == 2
    assert all(made.id.startswith("call_") and len(made.id) == 13 for made in call.tool_calls)


@pytest.mark.parametrize("top", [0, 1, 2])
def test_logprobs(top: int) -> None:
    chunks = read(bench.events("chat-thinking-logprobs"), top)
    entries = [entry for chunk in chunks for entry in chunk.logprobs]

    assert len(entries) == 30  # the token that ends an answer is none of it
    assert all(entry["bytes"] == list(entry["token"].encode()) for entry in entries if entry["token"])
    assert {len(entry.get("top_logprobs", [])) for entry in entries} == {top}
    assert all(entry["logprob"] <= 0 for entry in entries)
    assert not any(chunk.logprobs for chunk in read(bench.events("chat-thinking-logprobs"), None))


# ---- streams that are broken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(7))
def test_a_stream_that_ends_early_is_an_error(kept: int) -> None:
    events = bench.events("chat-tool-call")
    assert kept < len(events)
    with pytest.raises(UpstreamError, match="has no end"):
        read(events[:kept])


@pytest.mark.parametrize(
    "damage",
    [
        {"choices": 3},
        {"choices": [3]},
        {"choices": [{"delta": {"tool_calls": [{"index": "x"}]}}]},
        {"choices": [{"delta": {"tool_calls": [None]}}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {}, "logprobs": {"content": [{"token": 3}]}}]},
        {"usage": {"prompt_tokens": "many"}},
        {"usage": {"prompt_tokens": 3}},
        {"choices": [{"delta": {}, "finish_reason": "error"}]},
        {"choices": [{"delta": {}, "finish_reason": "abort"}]},
    ],
)
def test_events_that_are_not_vllms_are_an_error(damage: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="an error was encountered while running the model"):
        read([*bench.events("chat-tool-call")[:3], damage], 1)


def test_arguments_that_are_no_json_object_are_an_error() -> None:
    events = copy.deepcopy(bench.events("chat-tool-call"))
    events[4]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] = 'Os"lo'

    with pytest.raises(UpstreamError, match="arguments of a call of 'get_weather' are no JSON object"):
        read(events)


# ---- white space -----------------------------------------------------------------------------------------------------


@given(st.text(alphabet=SPACES[:5] + "ab", max_size=12), st.text(alphabet=SPACES[:5] + "ab", max_size=12), st.data())
def test_white_space_goes_however_the_text_is_cut(thinking: str, content: str, data: st.DataObject) -> None:
    spaces = _Spaces()
    got_thinking = "".join(spaces.thinking(piece) for piece in pieces(thinking, data))
    got = "".join(spaces.content(piece) for piece in pieces(content, data))

    assert got_thinking == thinking.strip(SPACES)
    wanted = content.lstrip(SPACES) if thinking else content
    assert got == wanted.rstrip(SPACES)
    assert got + spaces.left == (wanted or "")


def pieces(text: str, data: st.DataObject) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


# ---- what is asked ---------------------------------------------------------------------------------------------------


def body(model: ServedModel, messages: list[dict[str, Any]], think: Think = None, **more: Any) -> dict[str, Any]:
    settings = {"tools": (), "wanted": None, "top_logprobs": None, "prompt_tokens": 100, "options": {}} | more
    options = sampling(model, settings.pop("options"))
    tools, wanted, top = settings.pop("tools"), settings.pop("wanted"), settings.pop("top_logprobs")
    return conversations.body(model, messages, tools, options, wanted, think, top, **settings)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("think", "kwargs"),
    [
        (None, {}),
        (True, {"enable_thinking": True}),
        (False, {"enable_thinking": False}),
        ("low", {"enable_thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_thinking_is_told_to_the_template(modern_catalog: Catalog, think: Think, kwargs: dict[str, Any]) -> None:
    asked = body(modern_catalog.require("qwen35-bot"), [USER], think)

    assert asked.get("chat_template_kwargs", {}) == kwargs


def test_a_variant_is_named_to_the_template(catalog: Catalog) -> None:
    asked = body(catalog.require("renderer-bot"), [USER], None)

    assert asked["chat_template_kwargs"] == {"migrate_variant": "renderer-bot"}
    assert asked["model"] == "renderer-bot"


@pytest.mark.parametrize(
    ("options", "prompt_tokens", "max_tokens"),
    [
        ({}, 100, 412),  # the rest of 512
        ({"num_predict": 7}, 100, 7),
        ({"num_predict": 10_000}, 100, 412),
        ({"num_predict": -1}, 511, 1),
        ({}, None, 512),  # images: nobody knows how many tokens they take, and vLLM bounds it
        ({"num_predict": 7}, None, 7),
    ],
)
def test_how_long_answers_may_be(
    modern_catalog: Catalog, options: dict[str, Any], prompt_tokens: int | None, max_tokens: int
) -> None:
    asked = body(modern_catalog.require("qwen35-bot"), [USER], options=options, prompt_tokens=prompt_tokens)

    assert asked["max_tokens"] == max_tokens


def test_tools_are_functions_whatever_they_are_called(catalog: Catalog) -> None:
    """Ollama does not look at `type`; vLLM refuses all but "function"."""
    tools = [{"type": "", "function": {"name": "f"}}, {"type": "odd", "function": {"name": "g"}}]
    asked = body(catalog.require("renderer-bot"), [USER], tools=tools)

    assert [tool["type"] for tool in asked["tools"]] == ["function", "function"]
    assert asked["tool_choice"] == "auto"
    assert tools[1]["type"] == "odd"


def test_messages_in_the_other_form(catalog: Catalog) -> None:
    call = {"function": {"name": "f", "arguments": {"a": "é"}}}
    asked = body(
        catalog.require("renderer-bot"),
        [
            {"role": "user", "content": "see", "images": [PNG, PNG]},
            {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "22", "tool_name": "f"},
        ],
    )
    user, assistant, tool = asked["messages"]

    assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][0]["image_url"]["url"] == f"data:image/png;base64,{PNG}"
    assert user["content"][2]["text"] == "see"
    assert assistant["reasoning"] == "hm"
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": "é"}'}
    assert tool == {"role": "tool", "content": "22", "name": "f", "tool_call_id": assistant["tool_calls"][0]["id"]}


def test_gpt_oss_has_its_effort_and_its_system(modern_catalog: Catalog) -> None:
    """vLLM writes its prompts by code, which does not know SYSTEM; nor does a count of ours hold."""
    model = modern_catalog.require("qwen35-bot")
    source = model.source.model_copy(update={"architecture": "gptoss", "system": "Be brief."})
    from migrate.gateway.prompts import Prompts

    oss = dataclasses.replace(model, source=source, prompts=Prompts(source))
    asked = body(oss, [USER], "high", options={"num_predict": 9})

    assert asked["reasoning_effort"] == "high"
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["max_tokens"] == 9


@pytest.mark.parametrize(
    ("start", "kind"),
    [("/9j/4AAQ", "image/jpeg"), (PNG, "image/png"), ("UklGRiQAAABXRUJQ", "image/webp"), ("R0lGODlhAQAB", "image/gif")],
)
def test_images_by_their_beginning(start: str, kind: str) -> None:
    assert data_uri(start) == f"data:{kind};base64,{start}"


@pytest.mark.parametrize(
    "image", ["", "aGVsbG8=", "http://internal/x.png", "file:///etc/passwd", "data:image/png;base64,x"]
)
def test_what_is_no_image_is_refused(image: str) -> None:
    """An address would make vLLM fetch it."""
    with pytest.raises(ApiError) as caught:
        data_uri(image)
    assert caught.value.status == 400
