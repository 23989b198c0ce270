"""Prompts that a real Ollama server showed (`_debug_render_only`), for its models with a Go TEMPLATE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.ollama.template import render_chat
from tests.corpus import CLOCK, read_jsonl

THINKS_BY_DEFAULT = {"oss-bot"}
"""The server sends think: true for a request without it when it takes the model for one that thinks."""


def _layers(store: Path, model: str) -> dict[str, str]:
    manifest = json.loads((store / "manifests/registry.ollama.ai/library" / model / "latest").read_text())
    return {
        layer["mediaType"].rpartition(".")[2]: (store / "blobs" / layer["digest"].replace(":", "-")).read_text()
        for layer in manifest["layers"]
        if layer["mediaType"].endswith((".template", ".system", ".messages"))
    }


def _recorded(root: Path, model: str) -> list[tuple[dict[str, Any], str]]:
    """Requests and the prompts that came back."""
    return [
        (row["request"]["body"], json.loads(row["response"]["body"])["_debug_info"]["rendered_template"])
        for row in read_jsonl(root / "recordings.jsonl")
        if row["response"]["status"] == 200
        and row["request"]["path"] == "/api/chat"
        and row["request"]["body"].get("_debug_render_only")
        and row["request"]["body"]["model"] == model
    ]


@pytest.mark.parametrize(
    ("folder", "model", "count"),
    [
        ("", "support-bot", 15),
        ("", "child-bot", 15),
        ("", "legacy-bot", 11),
        ("", "q4-bot", 11),
        ("", "adapter-bot", 11),
        ("modern", "oss-bot", 17),
        ("modern", "think-bot", 12),
    ],
)
def test_prompts_of_a_real_server(shared: Path, folder: str, model: str, count: int) -> None:
    root = shared / "ollama" / folder
    layers = _layers(root / "store", model)
    recorded = _recorded(root, model)
    assert len(recorded) == count
    for body, prompt in recorded:
        rendered = render_chat(
            layers["template"],
            body["messages"],
            system=layers.get("system"),
            model_messages=json.loads(layers.get("messages", "[]")),
            tools=body.get("tools", ()),
            think=body.get("think", True if model in THINKS_BY_DEFAULT else None),
            today=CLOCK,
        )
        assert rendered == prompt
