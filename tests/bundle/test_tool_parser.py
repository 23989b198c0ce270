"""The plugin's search for tool calls against Ollama's own, recorded; it runs here without vLLM."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.bundle.write import tool_parser
from tests.chat_template.scoreboard import read

RECORDED = Path(__file__).parents[2] / "fixtures" / "tool-calls.jsonl"


def load(path: Path) -> ModuleType:
    """The plugin as a script: so it does not register itself where vLLM happens to be installed."""
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def emitted(path: Path, tag: str, tags: dict[str, str] | None = None) -> ModuleType:
    path.write_text(tool_parser(tag, tags), encoding="utf-8")
    return load(path)


with tempfile.TemporaryDirectory() as _directory:
    plugin = emitted(Path(_directory) / "tool_parser.py", "{")


def search(row: dict[str, Any]) -> tuple[list[str], list[list[Any]], str]:
    found = plugin.CallSearch(row["tag"], row["names"])
    contents, calls = [], []
    for piece in row["pieces"]:
        content, more = found.add(piece)
        contents.append(content)
        calls += [list(call) for call in more]
    return contents, calls, found.finish()


@pytest.mark.parametrize("row", list(read(RECORDED)), ids=lambda row: "".join(row["pieces"])[:30])
def test_finds_what_ollama_finds(row: dict[str, Any]) -> None:
    contents, calls, rest = search(row)
    assert calls == [[call["name"], call["arguments"] or {}] for call in row["calls"]]
    assert contents == row["content"]
    # Ollama gives text out again at the end that it has given out before; here everything comes once.
    assert rest in (row["rest"], "")
    if not rest and row["rest"]:
        assert row["rest"] in "".join(contents)


PARTS = st.sampled_from(
    [
        "<tool_call>",
        "{",
        "}",
        "[",
        "]",
        '"',
        "\\",
        "f",
        "get",
        "get_x",
        '"name": "f"',
        '"arguments": {"a": 1}',
        ", ",
        "é",
    ]
)


@given(st.lists(PARTS, max_size=14), st.sampled_from(["<tool_call>", "{", "["]), st.integers(1, 5))
def test_pieces_do_not_change_the_first_call(parts: list[str], tag: str, size: int) -> None:
    """Whatever comes in whatever pieces: no exception, and text without the tag comes out whole."""
    text = "".join(parts)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    contents, calls, rest = search({"tag": tag, "names": ["f", "get", "get_x"], "pieces": pieces})
    if not calls and tag in ("{", "["):
        assert "".join(contents) + rest == text
    assert all(isinstance(arguments, dict) for _, arguments in calls)


@pytest.mark.parametrize("tag", ["<tool_call>", "[TOOL_CALLS] [", 'a "quoted" \\ tag', "Action: ```json\n["])
def test_the_tag_is_filled_in(tmp_path: Path, tag: str) -> None:
    filled_in = emitted(tmp_path / "tool_parser.py", tag)
    assert tag == filled_in.TAG


def test_deep_nesting_is_no_call() -> None:
    text = '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 5000 + "1" + "}" * 5001
    assert search({"tag": "<tool_call>", "names": ["f"], "pieces": [text]})[1] == []


def test_another_tag_for_another_name(tmp_path: Path) -> None:
    """Models that share a server: the request's model says which tag is looked for."""
    filled_in = emitted(tmp_path / "tool_parser.py", "<tool_call>", {"second": "CALL", "second:latest": "CALL"})
    asked = {name: filled_in.tag_of(SimpleNamespace(model=name)) for name in ("first", "second:latest", None)}
    assert asked == {"first": "<tool_call>", "second:latest": "CALL", None: "<tool_call>"}
    assert filled_in.tag_of(SimpleNamespace()) == "<tool_call>"
