"""The prompts a real Ollama rendered for the models of the shared stores, and those of our chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.chat_template import render, translate
from migrate.chat_template.conversation import arguments
from tests.chat_template.scoreboard import read

RENDERERS = {"renderer-bot", "gemma-bot", "qwen35-bot"}
KNOWN_FUNCTION_STRUCT = 8
"""Prompts with tools: Ollama 0.14 and later print `{{ .Function }}` as a Go struct, the chat template as JSON."""


def rendered(folder: Path) -> list[tuple[str, dict[str, Any], str]]:
    """(model, request, rendered prompt) of every recorded `_debug_render_only`."""
    found = []
    for row in read(folder / "recordings.jsonl"):
        body = row["request"].get("body")
        if not isinstance(body, dict) or not body.get("_debug_render_only") or row["response"]["status"] != 200:
            continue
        reply = json.loads(row["response"]["body"])
        found.append((body["model"], body, reply["_debug_info"]["rendered_template"]))
    return found


def _shown(folder: Path) -> dict[str, dict[str, Any]]:
    """What /api/show says of every model."""
    rows = [row for row in read(folder / "recordings.jsonl") if row["request"].get("path") == "/api/show"]
    shown = {row["request"]["body"]["model"]: row["response"] for row in rows}
    return {name: json.loads(reply["body"]) for name, reply in shown.items() if reply["status"] == 200}


@pytest.mark.parametrize("folder", ["ollama", "ollama/modern"])
def test_templates_of_the_store_render_what_ollama_rendered(shared: Path, folder: str) -> None:
    models = _shown(shared / folder)
    compared, structs = 0, 0
    for name, request, expected in rendered(shared / folder):
        if name in RENDERERS:
            continue
        model = models[name]
        source: dict[str, Any] = {"system": model.get("system"), "messages": model.get("messages") or ()}
        got = render(translate(model["template"], **source).jinja, **arguments(request))
        if got != expected and "{object <nil>" in expected:
            structs += 1
            continue
        assert got == expected, f"{name}: {request}"
        compared += 1
    assert (compared, structs) == ((66, 8) if folder == "ollama" else (29, 0))
