"""What Ollama and llama-server do around the GGUF's own template."""

from __future__ import annotations

import pytest

from migrate.chat_template import native, render

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
USER = {"role": "user", "content": "Hi"}


def test_untouched_when_there_is_nothing_to_add() -> None:
    assert native(PLAIN).jinja == PLAIN


def test_system_and_messages_come_first() -> None:
    jinja = native(PLAIN, system="S", messages=[{"role": "user", "content": "a"}]).jinja
    assert render(jinja, [USER]) == "<system>S<user>a<user>Hi"


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (PLAIN, "<s><user>Hi"),
        ("\n" + PLAIN, "<s>\n<user>Hi"),
        ("{{ bos_token }}" + PLAIN, "<s><user>Hi"),
        ("<s>" + PLAIN, "<s><user>Hi"),
    ],
)
def test_bos_is_there_once(template: str, prompt: str) -> None:
    assert render(native(template, bos_token="<s>").jinja, [USER], bos_token="<s>") == prompt


@pytest.mark.parametrize("tool_use", ["TOOLS", "\nTOOLS\n", "{% macro f() %}TOOLS{% endmacro %}{{ f() }}"])
def test_the_variant_for_tools(tool_use: str) -> None:
    jinja = native(PLAIN + "\n", tool_use=tool_use).jinja
    assert render(jinja, [USER]) == render(PLAIN + "\n", [USER])
    assert render(jinja, [USER], tools=[{}]) == render(tool_use, [USER], tools=[{}])


def test_reasoning_of_earlier_answers_is_not_sent() -> None:
    template = PLAIN + "{% for m in messages %}{{ m.reasoning_content }}{% endfor %}"
    answer = {"role": "assistant", "content": "x", "reasoning": "why", "reasoning_content": "why"}
    assert "why" in render(template, [answer, USER])
    assert "why" not in render(native(template).jinja, [answer, USER])


def test_thinking_is_on_unless_the_request_says_no() -> None:
    jinja = native("{{ enable_thinking }}").jinja
    assert render(jinja, [USER]) == "True"
    assert render(jinja, [USER], enable_thinking=False) == "False"


def test_think_tags_are_cut_out_of_earlier_answers() -> None:
    jinja = native(PLAIN, filter_think_tags=True).jinja
    old = {"role": "assistant", "content": " <think>a</think>\n b"}
    assert render(jinja, [USER, old, USER, old]) == "<user>Hi<assistant>b<user>Hi<assistant> <think>a</think>\n b"
