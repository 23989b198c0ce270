"""The chat templates of Ollama's renderers, and of a modern store's models, as real vLLM renders them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from migrate.chat_template import BATTERY, renderer
from migrate.chat_template.renderers import names
from migrate.engines import vllm
from migrate.engines.base import Conversation
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.chat_template.scoreboard import read
from tests.chat_template.test_recordings import rendered

pytestmark = pytest.mark.live

RECORDED = Path(__file__).parents[2] / "fixtures" / "renderers.jsonl"
RECORDED_ON = "2026-11-24"


def in_vllm(server: vllm.RenderEngine, jinja: str, request: dict[str, Any]) -> str:
    """The prompt of real vLLM: its template, its tokens, back to text."""
    think = request.get("think")
    extra: dict[str, Any] = {"chat_template": jinja}
    if isinstance(think, bool):
        extra["chat_template_kwargs"] = {"enable_thinking": think}
    elif think:
        extra["chat_template_kwargs"] = {"enable_thinking": True, "reasoning_effort": think}
    messages = [with_reasoning(m) for m in request["messages"]]
    engine = vllm.RenderEngine(server.url, extra=extra)
    return engine.render(Conversation("-", tuple(messages), tuple(request.get("tools") or ())))


def with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"reasoning": message["thinking"]} if message.get("thinking") else message


@pytest.mark.parametrize("name", names())
def test_renderers(name: str, render_tinychat: vllm.RenderEngine) -> None:
    jinja, today = renderer(name).jinja, datetime.date.today().isoformat()
    compared = 0
    for row in read(RECORDED):
        request = dict(BATTERY[row["conversation"]])
        if row["renderer"] != name or "thought" in row["conversation"]:  # vLLM's request has no place for it here
            continue
        expected = row["rendered"].replace(RECORDED_ON, today)
        assert in_vllm(render_tinychat, jinja, request) == expected, row["conversation"]
        compared += 1
    assert compared == 11


@pytest.mark.parametrize("bot", ["qwen35-bot", "gemma-bot", "think-bot", "oss-bot"])
def test_models_of_a_modern_store(bot: str, shared: Path, render_tinychat: vllm.RenderEngine) -> None:
    jinja = plan(Store(shared / "ollama/modern/store").load(bot)).chat_template
    assert jinja is not None
    requests = [(r, e) for name, r, e in rendered(shared / "ollama/modern") if name == bot and "thinking" not in str(r)]
    compared = 0
    for request, expected in requests:
        first = next(m["content"] for m in request["messages"] if m["role"] != "system")
        if first not in expected:  # Ollama left messages out: longer than its context
            continue
        assert in_vllm(render_tinychat, jinja, request).removeprefix("<|begin_of_text|>") == expected, request
        compared += 1
    assert compared >= 8
