"""Ollama's built-in renderers against what they print: the corpus, our own recordings, the recorded servers."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pytest

from migrate.chat_template import BATTERY, Translation, render, renderer
from migrate.chat_template.conversation import arguments
from migrate.chat_template.renderers import RENDERERS, names
from migrate.errors import Refused
from migrate.mapping.migration import Migration, plan
from migrate.ollama.store import Store
from tests.chat_template import scoreboard
from tests.chat_template.scoreboard import read
from tests.chat_template.test_recordings import rendered

FIXTURES = Path(__file__).parents[2] / "fixtures"
USER = {"role": "user", "content": "Hi"}


def test_every_renderer_of_ollama_is_there() -> None:
    assert len(names()) == 25
    assert set(names()) == {row["renderer"] for row in read(FIXTURES / "renderers.jsonl")}


def test_corpus(shared: Path) -> None:
    counts = scoreboard.score_renderers(shared / "corpus").counts()
    assert counts == {"exact": 500}


@pytest.mark.parametrize("name", names())
def test_recorded_conversations(name: str) -> None:
    rows = [row for row in read(FIXTURES / "renderers.jsonl") if row["renderer"] == name]
    jinja = renderer(name).jinja
    day = datetime.date(2026, 11, 24)
    for row in rows:
        got = render(jinja, **arguments(BATTERY[row["conversation"]]), today=day)
        assert got == row["rendered"], row["conversation"]
    assert len(rows) == 15


TRUNCATED = {"gemma-bot": 2, "qwen35-bot": 2}
"""Prompts longer than the recorded server's context: Ollama left the first messages out."""


@pytest.mark.parametrize("folder", ["ollama", "ollama/modern"])
def test_what_servers_rendered_for_models_of_their_stores(shared: Path, folder: str) -> None:
    """Through the whole mapping: prompt path, SYSTEM, MESSAGE, the default of `think`."""
    store = Store(shared / folder / "store")
    migrations: dict[str, Migration] = {}
    verdicts: dict[str, Counter[str]] = {}
    for name, request, expected in rendered(shared / folder):
        migration = migrations.setdefault(name, plan(store.load(name)))
        assert migration.chat_template is not None, name
        got = render(migration.chat_template, **arguments(request))
        verdict = "exact" if got == expected else _why(request, expected)
        verdicts.setdefault(name, Counter())[verdict] += 1
    wrong = {name: count for name, count in verdicts.items() if count["wrong"]}
    assert not wrong
    assert {n: c["truncated"] for n, c in verdicts.items() if c["truncated"]} == (
        TRUNCATED if folder == "ollama/modern" else {}
    )
    assert sum(c["exact"] for c in verdicts.values()) == (81 if folder == "ollama" else 67)


def _why(request: dict[str, Any], expected: str) -> str:
    if "{object <nil>" in expected:
        return "function struct"
    first = next(m["content"] for m in request["messages"] if m["role"] != "system")
    return "truncated" if first not in expected else "wrong"


@pytest.mark.parametrize("name", names())
def test_the_generation_prompt_can_be_left_out(name: str) -> None:
    jinja = renderer(name).jinja
    with_prompt = render(jinja, [USER])
    without = render(jinja, [USER], add_generation_prompt=False)
    assert with_prompt.startswith(without)
    assert "Hi" in without
    assert len(without) < len(with_prompt)


@pytest.mark.parametrize("name", names())
def test_bos_is_printed_once(name: str) -> None:
    prompt = render(renderer(name, bos=True).jinja, [USER], bos_token="<BOS>")
    own = RENDERERS[name].leading_bos
    assert prompt.startswith(own or "<BOS>")
    assert prompt.count(own or "<BOS>") == 1


def test_system_and_messages_of_the_modelfile_come_first() -> None:
    turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "yes"}]
    jinja = renderer("qwen3-vl-instruct", system="Be brief.", messages=turns).jinja
    assert render(jinja, [USER]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs it?<|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    own_system = render(jinja, [{"role": "system", "content": "Own."}, USER])
    assert "Be brief." not in own_system
    assert own_system.index("Is it?") < own_system.index("Own.")


def test_a_server_that_fills_in_think_thinks_by_default() -> None:
    assert render(renderer("deepseek3.1").jinja, [USER]).endswith("</think>")
    thinking = renderer("deepseek3.1", think=True).jinja
    assert render(thinking, [USER]).endswith("<think>")
    assert render(thinking, [USER], enable_thinking=False).endswith("</think>")


def test_tool_results_are_named_by_the_call_they_answer() -> None:
    """OpenAI's clients send only the id; the name is in the call."""
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": {}}}
    messages: list[dict[str, Any]] = [USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    jinja = renderer("gemma4-small").jinja
    named = render(jinja, [*messages, {"role": "tool", "content": "9", "name": "now", "tool_call_id": "c1"}])
    assert render(jinja, [*messages, {"role": "tool", "content": "9", "tool_call_id": "c1"}]) == named


def test_where_ollama_fails_the_template_raises() -> None:
    with pytest.raises(jinja2.TemplateError, match="migrate: "):
        render(renderer("qwen3.8").jinja, [{"role": "assistant", "content": "Hm"}])


@pytest.mark.parametrize("name", names())
def test_content_that_is_not_text_is_refused(name: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    with pytest.raises(jinja2.TemplateError, match="must be text"):
        render(renderer(name).jinja, parts)


@pytest.mark.parametrize("name", names())
def test_the_emitted_template_is_one_a_person_can_read(name: str) -> None:
    translation = renderer(name)
    assert isinstance(translation, Translation)
    assert "<%" not in translation.jinja
    assert "<<" not in translation.jinja
    assert all(len(line) <= 120 for line in translation.jinja.splitlines())
    assert translation.jinja.startswith(f"{{#- The prompt of Ollama's built-in renderer {name}. #}}\n")


def test_order_that_is_random_in_ollama_is_told() -> None:
    (finding,) = renderer("qwen3-coder").findings
    assert "order" in finding.reason


@pytest.mark.parametrize("name", ["", "deepseek3", "../macros", "gemma4"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(Refused, match="is not known") as refused:
        renderer(name)
    assert "qwen3-coder" in (refused.value.hint or "")


def test_recordings_are_of_known_conversations() -> None:
    assert {row["conversation"] for row in read(FIXTURES / "renderers.jsonl")} <= set(BATTERY)
