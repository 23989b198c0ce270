"""Templates of somebody else's are rendered apart: they may be wrong, hang or eat memory."""

from __future__ import annotations

import time
from typing import Any

import pytest

from migrate.chat_template.bounded import render_all
from migrate.chat_template.compare import compare
from migrate.errors import Refused

REQUEST = {"messages": [{"role": "user", "content": "Hi"}]}


def test_prompts_and_failures() -> None:
    template = "{{ bos_token }}{{ messages[0].content }}{{ raise_exception('no') if tools }}"
    asked: list[dict[str, Any]] = [REQUEST, REQUEST | {"tools": [{"type": "function", "function": {"name": "f"}}]}]
    assert render_all(template, asked, tokens={"bos_token": "<s>"}) == ["<s>Hi", None]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% for i in [1, 2, 3, 4] %}{{ f(n - 1) if n else '' }}{% endfor %}{% endmacro %}{{ f(40) }}",
    ],
)
def test_one_that_does_not_end_costs_seconds(template: str) -> None:
    start = time.monotonic()
    with pytest.raises(Refused, match=r"did not end|cannot be rendered"):
        render_all(template, [REQUEST], timeout=4)
    assert time.monotonic() - start < 30


def test_differences_by_conversation() -> None:
    conversations = {"same": REQUEST, "other": {"messages": [{"role": "system", "content": "S"}]}}
    same, other = compare("{{ messages[0].content }}", "{{ messages[0].content|lower if messages[0].role == 'system' "
                          "else messages[0].content }}", conversations=conversations)  # fmt: skip
    assert (same.verdict, other.verdict) == ("exact", "wrong")
    assert other.first_difference == 0


def test_a_template_that_does_not_parse_compares_as_failing() -> None:
    (check,) = compare("x", "{% if %}", conversations={"one": REQUEST})
    assert (check.expected, check.got) == ("x", None)


def test_memory_is_bounded() -> None:
    """The template fails instead of filling the machine."""
    hungry = "{% set x = namespace(t='a' * 9999) %}{% for i in range(40) %}{% set x.t = x.t + x.t %}{% endfor %}"
    assert render_all(hungry, [REQUEST], timeout=20) == [None]
