"""gemma4 is two renderers; the name says which, then the size (Ollama's renderer_resolution.go)."""

from __future__ import annotations

import pytest

from migrate.ollama.model import OllamaModel
from migrate.ollama.renderer_name import resolve


@pytest.mark.parametrize(
    ("renderer", "name", "size", "resolved"),
    [
        (None, "x", "", ""),
        ("qwen3.5", "gemma4:31b", "31B", "qwen3.5"),
        ("gemma4", "gemma4:e4b", "31B", "gemma4-small"),
        ("gemma4", "gemma4:31B", "2B", "gemma4-large"),
        ("gemma4", "my-bot", "11.9B", "gemma4-small"),
        ("gemma4", "my-bot", "12B", "gemma4-large"),
        ("gemma4", "my-bot", "25.8b", "gemma4-large"),
        ("gemma4", "my-bot", "999M", "gemma4-small"),
        ("gemma4", "my-bot", "a lot", "gemma4-small"),
        ("gemma4", "my-bot", "", "gemma4-small"),
        ("gemma4-large", "e2b", "", "gemma4-large"),
    ],
)
def test_resolve(renderer: str | None, name: str, size: str, resolved: str) -> None:
    model = OllamaModel(name=name, kind="store", renderer=renderer, config={"model_type": size})
    assert resolve(model) == resolved
