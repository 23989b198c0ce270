"""Which prompt path is live: as the recordings of real models show, and by the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.ollama import capabilities as caps
from migrate.ollama.model import OllamaModel, PromptPath
from migrate.ollama.prompt_path import prefers_jinja, prompt_path
from migrate.ollama.store import Store

JINJA_PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
JINJA_TOOLS = JINJA_PLAIN + "{{ tools }}"
JINJA_ROUND_TRIP = JINJA_TOOLS + "{{ m.tool_calls }}<tool_response>"
JINJA_THINK = JINJA_PLAIN + "<think></think>"
GO_PLAIN = "{{ range .Messages }}{{ .Content }}{{ end }}"
GO_TOOLS = GO_PLAIN + "{{ .Tools }}"
GO_ROUND_TRIP = GO_TOOLS + '{{ range .Messages }}{{ .ToolCalls }}{{ if eq .Role "tool" }}{{ end }}{{ end }}'
GO_THINK = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"


def model(jinja: str | None = None, **fields: Any) -> OllamaModel:
    info = {"general.architecture": fields.pop("architecture", "llama")}
    return OllamaModel("m", "host", model_info=info | ({"tokenizer.chat_template": jinja} if jinja else {}), **fields)


@pytest.mark.parametrize(
    ("store", "name", "path", "notes"),
    [
        ("ollama", "support-bot", "go_template", 0),
        ("ollama", "child-bot", "go_template", 0),
        ("ollama", "legacy-bot", "go_template", 0),
        ("ollama", "q4-bot", "go_template", 0),
        ("ollama", "adapter-bot", "go_template", 0),
        ("ollama", "native-bot", "go_template", 1),
        ("ollama", "renderer-bot", "renderer", 1),
        ("ollama/modern", "gemma-bot", "renderer", 0),
        ("ollama/modern", "qwen35-bot", "renderer", 1),
        ("ollama/modern", "oss-bot", "parser", 0),
        ("ollama/modern", "think-bot", "go_template", 0),
        ("ollama/modern", "embed-bot", "gguf_jinja", 0),
    ],
)
def test_real_models(shared: Path, store: str, name: str, path: PromptPath, notes: int) -> None:
    loaded = Store(shared / store / "store").load(name)
    decision = prompt_path(loaded)
    assert decision.path == path
    assert len(decision.notes) == notes
    assert decision.reason
    lines = (shared / store / "recordings.jsonl").read_text(encoding="utf-8").splitlines()
    shown = next(json.loads(r["response"]["body"]) for r in map(json.loads, lines) if r["name"] == f"show/{name}")
    assert caps.capabilities(loaded, path) == set(shown["capabilities"])


def test_native_bot_is_not_native(shared: Path) -> None:
    (note,) = prompt_path(Store(shared / "ollama" / "store").load("native-bot")).notes
    assert note.item == "TEMPLATE"
    assert "built-in chatml" in note.reason


@pytest.mark.parametrize(
    ("jinja", "go", "jinja_wins"),
    [
        (JINJA_PLAIN, GO_PLAIN, False),
        (JINJA_TOOLS, GO_PLAIN, True),
        (JINJA_THINK, GO_PLAIN, True),
        (JINJA_TOOLS, GO_TOOLS, False),
        (JINJA_TOOLS, GO_ROUND_TRIP, False),
        (JINJA_ROUND_TRIP, GO_TOOLS, True),
        (JINJA_ROUND_TRIP, GO_ROUND_TRIP, False),
        (JINJA_TOOLS + "<think></think>", GO_ROUND_TRIP, False),
        (JINJA_ROUND_TRIP + "<think></think>", GO_ROUND_TRIP, True),
        (JINJA_TOOLS, GO_TOOLS + GO_THINK, False),
        (JINJA_THINK, GO_TOOLS, False),
        (JINJA_TOOLS, "{{ .Broken", True),
    ],
)
def test_a_go_template_that_can_do_less_is_ignored(jinja: str, go: str, jinja_wins: bool) -> None:
    assert prefers_jinja(jinja, go) is jinja_wins
    decision = prompt_path(model(jinja, template=go))
    assert decision.path == ("gguf_jinja" if jinja_wins else "go_template")
    assert [note.status for note in decision.notes] == (["dropped"] if jinja_wins else [])


@pytest.mark.parametrize(
    ("fields", "environment", "path", "words"),
    [
        ({"renderer": "qwen3.5", "template": GO_PLAIN}, None, "renderer", "RENDERER qwen3.5"),
        ({"parser": "qwen3", "template": GO_PLAIN}, None, "parser", "the TEMPLATE is rendered"),
        ({"parser": "qwen3"}, None, "parser", "the default {{ .Prompt }} is rendered"),
        ({"template": "<|start|>x<|end|>", "architecture": "gpt-oss"}, "0", "parser", "harmony"),
        ({"template": GO_PLAIN, "architecture": "gpt-oss"}, None, "gguf_jinja", "knows tools"),
        ({"template": GO_PLAIN}, None, "gguf_jinja", "knows tools"),
        ({"template": GO_PLAIN}, "", "gguf_jinja", "knows tools"),
        ({"template": GO_PLAIN}, "1", "go_template", "OLLAMA_GO_TEMPLATE is on"),
        ({"template": GO_PLAIN}, "yes please", "go_template", "is on"),
        ({"template": GO_ROUND_TRIP}, "0", "gguf_jinja", "is off"),
        ({"template": GO_ROUND_TRIP}, '"False"', "gguf_jinja", "is off"),
        ({}, "1", "gguf_jinja", "there is no TEMPLATE"),
        ({"template": GO_PLAIN, "ollama_version": "0.29.9"}, None, "go_template", "before Ollama 0.30"),
        ({"template": GO_PLAIN, "selected_template": GO_PLAIN}, "0", "go_template", "the server says"),
        ({"template": GO_PLAIN, "selected_template": JINJA_TOOLS}, "1", "gguf_jinja", "the server uses"),
    ],
)
def test_order_of_the_paths(fields: dict[str, Any], environment: str | None, path: PromptPath, words: str) -> None:
    decision = prompt_path(model(JINJA_TOOLS, **fields), go_template_env=environment)
    assert decision.path == path
    assert words in decision.reason


def test_without_any_template() -> None:
    assert "ChatML" in prompt_path(model()).reason


def test_a_template_without_effect_is_dropped_in_words() -> None:
    (note,) = prompt_path(model(renderer="cogito", template="mine")).notes
    assert (note.item, note.status) == ("TEMPLATE", "dropped")
    assert prompt_path(model(renderer="cogito", template="{{ .Prompt }}")).notes == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GO_THINK, {"thinking"}),
        ("{{ range $i, $m := .Messages }}a{{ $m.Thinking }}b{{ end }}", set()),
        ("{{ range $.Messages }}a{{ .Thinking }}b{{ end }}", set()),
        ("{{ range .Messages }}{{ range .ToolCalls }}a{{ .Thinking }}b{{ end }}{{ end }}", set()),
        ("{{ range .Messages }}a{{ .Thinking }}{{ end }}", set()),
        ("{{ range .Messages }}a{{ if and .Thinking .X }}x{{ end }}b{{ end }}", {"thinking"}),
        ("{{ .Suffix }}{{ $.Tools }}", {"insert", "tools"}),
        ("{{ (index .Tools 0).Function }}", set()),
        ("{{ if }}", set()),
    ],
)
def test_capabilities_of_a_go_template(text: str, found: set[str]) -> None:
    assert caps.of_go(text) == found


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("{{ content.split('</think>') }}", True),
        ("{{ content.split('</think>') }}{{ reasoning_content }}", False),
        ("<think>", False),
        ("<think></think>reasoning_content", True),
    ],
)
def test_thinking_in_jinja(text: str, thinking: bool) -> None:
    assert ("thinking" in caps.of_jinja(text)) is thinking
