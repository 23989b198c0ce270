"""The search for tool calls, held to Ollama's own Go package and to the plugin of the bundle."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.ollama import tool_calls
from migrate.ollama.tool_calls import CallSearch, tool_call_id

RECORDED = Path(__file__).parents[2] / "fixtures" / "tool-calls.jsonl"
ROWS = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]

CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "".join(row["pieces"])[:30])
def test_finds_what_ollama_finds(row: dict[str, Any]) -> None:
    search = CallSearch(row["tag"], row["names"])
    contents, calls = [], []
    for piece in row["pieces"]:
        content, found = search.add(piece)
        contents.append(content)
        calls += [{"name": name, "arguments": arguments} for name, arguments in found]

    # Ollama says again at the end what it gave as text, where a piece held both text and what looked like a call.
    again = bool(row["rest"]) and contents[-1].endswith(row["rest"])
    assert (contents, calls, search.finish()) == (row["content"], row["calls"], "" if again else row["rest"])
    assert search.found == len(row["calls"])


@pytest.mark.parametrize(
    ("tag", "answer", "content", "calls"),
    [
        ("<tool_call>", f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", [{"city": "Paris"}]),
        ("<tool_call>", "No call. <tool", "No call. ", []),
        ("{", f"\n{CALL}", "\n", [{"city": "Paris"}]),
        ("{", f"text {CALL}", f"text {CALL}", []),
        ("{", '{"answer": 4}', '{"answer": 4}', []),
        ("[", f"[{CALL}]", "", [{"city": "Paris"}]),
        ("<t>", '<t>{"name": "get_weather", "arguments": "{\\"a\\": 1}"}', "", [{"a": 1}]),
        ("<t>", '<t>{"name": "get_weather", "arguments": "null", "parameters": {}}', "", []),
        ("<t>", '<t>{"name": "get_weather", "parameters": {"a": "} { \\" }"}}', "", [{"a": '} { " }'}]),
        ("<t>", '<t>{"get_weather": {"a": 1}}', "", [{"a": 1}]),
        ("<t>", '<t>get_weather({"a": 1.0})', "", [{"a": 1.0}]),
        ("<t>", '<t>get_weather {"a": 1e999} {"a": NaN} {"b": 2}', "", [{"b": 2}]),
        ("<t>", '<t>get_weather {"a": "\\ud800!"}', "", [{"a": "\ufffd!"}]),
        ("<t>", f"<t>{CALL}\n{CALL}", "", [{"city": "Paris"}, {"city": "Paris"}]),
        ("<t>", "<t>get_weather " + '{"a":' * 300 + "1" + "}" * 300 + ' {"b": 2}', "", [{"b": 2}]),
        ("<t>", "<t>get_weather " + '{"a":' * 5000 + "1" + "}" * 5000 + ' {"b": 2}', "", [{"b": 2}]),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_text_and_calls(tag: str, answer: str, content: str, calls: list[Any], size: int) -> None:
    search = CallSearch(tag, ["get_weather", ""])
    found = [search.add(answer[at : at + size]) for at in range(0, len(answer), size)]

    assert [arguments for _, more in found for _, arguments in more] == calls
    assert "".join(text for text, _ in found) + search.finish() == content


def test_a_longer_name_is_waited_for() -> None:
    search = CallSearch("<t>", ["get", "get_weather"])

    assert search.add('<t>{"get') == ("", [])
    assert search.add('_weather": {}}') == ("", [("get_weather", {})])


def test_a_name_behind_its_arguments() -> None:
    search = CallSearch("<t>", ["get"])

    assert search.add('<t>{"a": 1} ') == ("", [])
    assert search.add("g") == ("", [])
    assert search.add("et") == ("", [("get", {"a": 1})])


@given(st.text(alphabet='{}[]":,\\ a1', max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_pieces_do_not_matter(text: str, cuts: list[int]) -> None:
    """For names that are no part of each other, behind a tag of its own."""
    places = sorted({min(cut, len(text)) for cut in cuts})
    whole, cut = CallSearch("<t>", ["aa"]), CallSearch("<t>", ["aa"])
    text = f"<t>{text}"
    at_once = whole.add(text)[1]
    found: list[tuple[str, dict[str, Any]]] = []
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        found += cut.add(text[start:end])[1]

    assert found == at_once


@given(
    st.recursive(
        st.none() | st.text() | st.integers(-(2**53), 2**53), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_finds_any_object(value: Any) -> None:
    """Whatever it holds, an object under the tool's name is its arguments."""
    arguments = {"x": value}

    assert CallSearch("<t>", ["f"]).add(f"<t>[ {json.dumps({'f': arguments})} ]") == ("", [("f", arguments)])


def test_ids_are_ollamas() -> None:
    ids = {tool_call_id() for _ in range(50)}

    assert len(ids) == 50
    assert all(re.fullmatch(r"call_[a-z0-9]{8}", found) for found in ids)


def test_the_module_needs_the_standard_library_only() -> None:
    """Its text is to stand in a plugin that vLLM loads."""
    tree = ast.parse(Path(tool_calls.__file__).read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported <= sys.stdlib_module_names
