"""An answer on its way to the client, by the branches of Ollama's own callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.reading import AnswerReader
from migrate.gateway.types import Chunk, Metrics

TAGS = ("<think>", "</think>")
TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
METRICS = Metrics(eval_count=3)
LOGPROBS = ({"token": "x", "logprob": -1.0},)

Seen = list[tuple[str, str, list[str]]]


def chat(
    *,
    think: bool | str | None = None,
    tools: Sequence[Any] = (),
    tag: str = "{",
    prompt: str = "",
    tags: tuple[str, str] = TAGS,
) -> AnswerReader:
    return AnswerReader.for_chat(tags=tags, think=think, prompt=prompt, tools=tools, tag=tag)


def read(reader: AnswerReader, pieces: Sequence[str], *, logprobs: Any = ()) -> list[Chunk]:
    chunks = [chunk for piece in pieces for chunk in reader.add(piece, logprobs)]
    return [*chunks, *reader.finish("stop", METRICS)]


def seen(chunks: Sequence[Chunk]) -> Seen:
    """(content, thinking, names of calls) of each."""
    return [(chunk.content, chunk.thinking, [call.name for call in chunk.tool_calls]) for chunk in chunks]


END: tuple[str, str, list[str]] = ("", "", [])


@pytest.mark.parametrize(
    ("reader", "pieces", "expected"),
    [
        pytest.param(chat(), ["a", "", " b"], [("a", "", []), (" b", "", []), END], id="plain"),
        pytest.param(
            chat(think=True),
            ["<think>", "\n", "a", "</th", "ink>", "\n", "b"],
            [("", "a", []), ("b", "", []), END],
            id="reasoning: nothing is sent while it is unclear what it is",
        ),
        pytest.param(chat(think="low"), ["<think>a</think>b"], [("b", "a", []), END], id="a level is thinking too"),
        pytest.param(
            chat(think=False), ["<think>a</think>b"], [("<think>a</think>b", "", []), END], id="think off: all is text"
        ),
        pytest.param(chat(), ["<think>a"], [("<think>a", "", []), END], id="think not sent"),
        pytest.param(
            chat(think=True, tags=("", "")), ["<think>a"], [("<think>a", "", []), END], id="a template without tags"
        ),
        pytest.param(
            chat(think=True, prompt="Q <think>\n"), ["a</think>", "b"], [("", "a", []), ("b", "", []), END], id="primed"
        ),
        pytest.param(chat(think=True), ["<think>a</th"], [("", "a", []), END], id="half a tag at the end is lost"),
        pytest.param(
            chat(tools=TOOLS, tag="<t>"),
            ["Well. ", "<", "t>", CALL[:20], CALL[20:], "</t>"],
            [("Well. ", "", []), ("", "", ["get_weather"]), END],
            id="a call",
        ),
        pytest.param(
            chat(tools=TOOLS), ['{"a"', ": 1"], [('{"a": 1', "", [])], id="no call after all: text at the end"
        ),
        pytest.param(chat(tools=TOOLS), ['{"a"', ": 1}", "x"], [('{"a": 1}', "", []), ("x", "", []), END], id="JSON"),
        pytest.param(chat(tools=TOOLS, tag="<t>"), ["<t>", "lost"], [END], id="behind a tag text is lost"),
        pytest.param(
            chat(tools=TOOLS, tag="<t>"),
            [f"a<t>{CALL}{CALL}"],
            [("a", "", []), ("", "", ["get_weather", "get_weather"]), END],
            id="text and calls in one piece: both",
        ),
        pytest.param(
            chat(think=True, tools=TOOLS, tag="<t>"),
            ["<think>", "a", "</think>", "<t>" + CALL],
            [("", "a", []), ("", "", ["get_weather"]), END],
            id="reasoning, then a call",
        ),
        pytest.param(
            chat(think=True, tools=TOOLS, tag="<t>"),
            ["<think>a</think><t>", CALL],
            [("", "a", []), ("", "", ["get_weather"]), END],
            id="reasoning and a tag in one piece",
        ),
        pytest.param(
            AnswerReader.for_generate(tags=TAGS, think=True, prompt=""),
            ["<think>", "a", "</think>", "b"],
            [("", "", []), ("", "a", []), ("", "", []), ("b", "", []), END],
            id="generate sends a message for every piece",
        ),
        pytest.param(
            AnswerReader.for_generate(tags=TAGS, think=None, prompt=""),
            [CALL],
            [(CALL, "", []), END],
            id="generate knows no tools",
        ),
    ],
)
def test_messages(reader: AnswerReader, pieces: list[str], expected: Seen) -> None:
    chunks = read(reader, pieces)

    assert seen(chunks) == expected
    assert [chunk.done for chunk in chunks] == [False] * (len(expected) - 1) + [True]
    assert (chunks[-1].done_reason, chunks[-1].metrics) == ("stop", METRICS)


def test_calls_have_ids_and_places() -> None:
    chunks = read(chat(tools=TOOLS, tag="<t>"), ["<t>" + CALL + CALL, CALL])
    calls = [call for chunk in chunks for call in chunk.tool_calls]

    assert [call.index for call in calls] == [0, 1, 2]
    assert len({call.id for call in calls}) == 3
    assert all(call.id.startswith("call_") and call.arguments == {"city": "Paris"} for call in calls)


@pytest.mark.parametrize(
    ("reader", "pieces", "expected"),
    [
        pytest.param(chat(), ["a", "b"], [("a", 1), ("b", 1), ("", 0)], id="with the text"),
        pytest.param(
            chat(tools=TOOLS, tag="<t>"),
            ["<t>", CALL[:9], CALL[9:]],
            [("", 1), ("", 1), ("", 1), ("", 0)],
            id="alone, while a call is being written",
        ),
        pytest.param(
            chat(think=True), ["<think>", "a"], [("", 1), ("", 0)], id="lost, while it is unclear what is reasoning"
        ),
        pytest.param(
            AnswerReader.for_generate(tags=TAGS, think=True, prompt=""),
            ["<think>", "a"],
            [("", 1), ("", 1), ("", 0)],
            id="generate loses none",
        ),
        pytest.param(
            chat(tools=TOOLS, tag="<t>"), [f"a<t>{CALL}"], [("a", 1), ("", 0), ("", 0)], id="once, with text and call"
        ),
    ],
)
def test_logprobs(reader: AnswerReader, pieces: list[str], expected: list[tuple[str, int]]) -> None:
    chunks = read(reader, pieces, logprobs=LOGPROBS)

    assert [(chunk.content, len(chunk.logprobs)) for chunk in chunks] == expected


def test_thirty_one_repeats_end_the_stream_without_an_end() -> None:
    reader = chat()
    sent = [chunk for piece in ["a"] + ["  b"] * 20 + ["b\n"] * 40 for chunk in reader.add(piece)]

    assert len(sent) == 1 + 31
    assert reader.stuck
    assert reader.finish("stop", METRICS) == []
    assert reader.add("c") == []


def test_repeats_that_are_interrupted() -> None:
    reader = chat()
    for piece in (["b"] * 30 + ["a"]) * 3:
        reader.add(piece)

    assert not reader.stuck


@pytest.mark.parametrize(("spaces", "ends"), [(29, True), (30, False)])
def test_white_space_counts_from_the_start_and_with_the_end(spaces: int, ends: bool) -> None:
    """Nothing came before it, which is as good as white space; the last event of llama-server has no text either."""
    reader = chat()
    for _ in range(spaces):
        assert reader.add("\n")

    assert bool(reader.finish("length", METRICS)) == ends


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["<think>", "a", "</think>", "\n", "b", "c"], [("", "a", []), ("", "", [])]),
        (["<think>a</think>b", "c"], [("", "a", [])]),
    ],
)
def test_the_answer_stops_where_a_format_is_to_begin(pieces: list[str], expected: Seen) -> None:
    """With a format on a model that thinks Ollama stops when text begins, and asks again."""
    reader = chat(think=True, tools=TOOLS, tag="<t>")
    reader.constrain = True

    assert reader.thinks
    assert seen([chunk for piece in pieces for chunk in reader.add(piece)]) == expected
    assert reader.switched
    assert reader.finish("stop", METRICS) == []

    reader.again()
    assert seen(read(reader, ['{"x":', "1}"])) == [('{"x":', "", []), ("1}", "", []), END]


def test_without_reasoning_no_format_is_waited_for() -> None:
    reader = chat(think=True)
    reader.constrain = True

    assert seen(read(reader, ["a", "b"])) == [("a", "", []), ("b", "", []), END]
    assert not reader.switched


@given(st.lists(st.sampled_from(["a", "é", " ", "{", "}", "<t>", "<think>", "</think>", '"', CALL]), max_size=20))
def test_plain_answers_are_not_changed(pieces: list[str]) -> None:
    assert "".join(chunk.content for chunk in read(chat(), pieces)) == "".join(pieces)
