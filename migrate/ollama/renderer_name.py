"""Which built-in renderer a RENDERER line means (Ollama 0.33, server/renderer_resolution.go).

Only `gemma4` is not a name of its own: the model's name, then its size, say which of two it is. A copy of a model under
another name may get another prompt.
"""

from __future__ import annotations

import re

from migrate.ollama.model import OllamaModel

_SMALL, _LARGE = ("e2b", "e4b"), ("12b", "26b", "31b")
_LARGE_FROM = 12e9
"""Parameters from which a model counts as large."""


def resolve(model: OllamaModel) -> str:
    """The renderer's name; "" where there is no RENDERER."""
    if model.renderer != "gemma4":
        return model.renderer or ""
    name = model.name.lower()
    if any(size in name for size in _SMALL):
        return "gemma4-small"
    if any(size in name for size in _LARGE):
        return "gemma4-large"
    return "gemma4-large" if _parameters(str(model.config.get("model_type") or "")) >= _LARGE_FROM else "gemma4-small"


def _parameters(size: str) -> float:
    """The number that Ollama shows as a size ("11.8B"); 0 for what it cannot read."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)([BMK])", size.upper())
    return float(match[1]) * {"B": 1e9, "M": 1e6, "K": 1e3}[match[2]] if match else 0.0
