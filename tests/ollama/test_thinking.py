"""Reasoning told from the answer, held to Ollama's own Go package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.ollama.thinking import ThinkingParser

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "go-thinking.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
]
TAGS = st.sampled_from([("<think>", "</think>"), ("[T]", "[/T]"), ("aa", "ab"), ("t", "t")])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "|".join(row["pieces"])[:40])
def test_tells_apart_what_ollama_does(row: dict[str, Any]) -> None:
    parser = ThinkingParser(row["opening"], row["closing"], primed=row["primed"])

    assert [list(parser.add(piece)) for piece in row["pieces"]] == row["expected"]


@pytest.mark.parametrize(
    ("pieces", "primed", "thinking", "content"),
    [
        pytest.param(["<think>a</think>b"], False, "a", "b", id="one-piece"),
        pytest.param([" \n<think>\n", " a ", "</think>", "\n\n", " b "], False, "a ", "b ", id="white-space-is-eaten"),
        pytest.param([" a", "<think>b</think>"], False, "", " a<think>b</think>", id="only-at-the-start"),
        pytest.param(["a", "</think>b"], True, "a", "b", id="the-prompt-opened-it"),
        pytest.param(["a", "</think>b"], False, "", "a</think>b", id="nobody-opened-it"),
        pytest.param(["<think>a</th", "ink>b"], False, "a", "b", id="tag-in-two-pieces"),
        pytest.param(["<think>a</th", "en>b"], False, "a</then>b", "", id="no-tag-after-all"),
        pytest.param(["<thi"], False, "", "", id="held-back-to-the-end"),
    ],
)
def test_tells_reasoning_from_text(pieces: list[str], primed: bool, thinking: str, content: str) -> None:
    assert joined(ThinkingParser("<think>", "</think>", primed=primed), pieces) == (thinking, content)


@given(tags=TAGS, data=st.data(), primed=st.booleans())
def test_pieces_do_not_matter(tags: tuple[str, str], data: st.DataObject, primed: bool) -> None:
    opening, closing = tags
    parts = st.sampled_from([opening, closing, opening[:-1], closing[:1], " ", "\n", "\u00a0", "hi", "é", "<"])
    text = "".join(data.draw(st.lists(parts, max_size=10)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    whole = joined(ThinkingParser(opening, closing, primed=primed), [text])

    assert joined(ThinkingParser(opening, closing, primed=primed), pieces) == whole


def joined(parser: ThinkingParser, pieces: list[str]) -> tuple[str, str]:
    thinking, content = zip(*(parser.add(piece) for piece in pieces), strict=True)
    return "".join(thinking), "".join(content)
