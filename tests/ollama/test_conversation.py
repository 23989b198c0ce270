"""Order and merging of messages, as in Ollama's routes.go, prompt.go and template.go."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.errors import BadInput
from migrate.ollama.conversation import collate, image_tagged, ordered, without_thinking


def message(role: str, content: str = "", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def texts(messages: list[Any]) -> list[str]:
    return [f"{m['role']}:{m['content']}" for m in messages]


MODEL = [message("user", "q"), message("assistant", "a")]


@pytest.mark.parametrize(
    ("request_messages", "expected"),
    [
        ([message("user", "hi")], ["system:S", "user:q", "assistant:a", "user:hi"]),
        ([message("system", "R"), message("user", "hi")], ["user:q", "assistant:a", "system:R", "user:hi"]),
        ([message("SYSTEM", "R")], ["user:q", "assistant:a", "system:R"]),
        ([message("user", "hi"), message("system", "R")], ["system:S", "user:q", "assistant:a", "user:hi", "system:R"]),
    ],
)
def test_what_the_model_brings_comes_first(request_messages: list[Any], expected: list[str]) -> None:
    assert texts(ordered(request_messages, system="S", model_messages=MODEL)) == expected


def test_no_system_no_message() -> None:
    assert texts(ordered([message("user", "hi")], system="")) == ["user:hi"]


@pytest.mark.parametrize("content", [["part"], 3, {"a": 1}])
def test_content_has_to_be_text(content: Any) -> None:
    with pytest.raises(BadInput):
        ordered([{"role": "user", "content": content}])


def test_collate_merges_neighbours_but_tools() -> None:
    system, messages = collate(
        [
            message("system", "1"),
            message("system", "2"),
            message("user", "a"),
            message("user", "b"),
            message("tool", "x"),
            message("tool", "y"),
            message("system", "3"),
        ]
    )
    assert system == "1\n\n2\n\n3"
    assert texts(messages) == ["system:1\n\n2", "user:a\n\nb", "tool:x", "tool:y", "system:3"]


def test_collate_keeps_the_tool_calls_of_the_first_only() -> None:
    _, messages = collate([message("assistant", "a", tool_calls=[1]), message("assistant", "b", tool_calls=[2])])
    assert messages == [message("assistant", "a\n\nb", tool_calls=[1])]


def test_collate_changes_nothing_it_was_given() -> None:
    given = [message("user", "a"), message("user", "b")]
    collate(given)
    assert texts(given) == ["user:a", "user:b"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>\nhm</think>\n\nyes", "yes"),
        ("  <think>a</think>b</think>c", "b</think>c"),
        ("<think>never closed", ""),
        ("no <think>a</think>", "no <think>a</think>"),
        ("<thi", ""),
        ("", ""),
        ("  kept  ", "  kept  "),
    ],
)
def test_thinking_of_earlier_turns_is_cut(content: str, expected: str) -> None:
    answer = message("assistant", content)
    result = without_thinking([answer, message("user", "?"), answer])
    assert [m["content"] for m in result] == [expected, "?", content]


def test_images_are_numbered_over_all_messages() -> None:
    tagged = image_tagged(
        [
            message("user", "look", images=["aa", "bb"]),
            message("user", "here [img] and [img]", images=["cc"]),
            message("user", "none"),
        ]
    )
    assert texts(tagged) == ["user:[img-0][img-1]look", "user:here [img-2] and [img]", "user:none"]
