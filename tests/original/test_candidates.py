"""Names that might be the original's, from metadata and from the library's table."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from migrate.gguf.header import GGUFHeader
from migrate.ollama.model import OllamaModel
from migrate.original.candidates import candidates
from migrate.original.library import LATEST, REPOSITORIES, repository_of
from migrate.original.repository import REPOSITORY


def model(metadata: dict[str, Any], name: str = "mine", parent: str | None = None) -> OllamaModel:
    header = GGUFHeader(Path("m.gguf"), 0, 3, 32, 0, MappingProxyType(metadata), MappingProxyType({}))
    return OllamaModel(name=name, kind="gguf", gguf=header, parent=parent)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, []),
        ({"general.source.huggingface.repository": "acme/tiny"}, ["acme/tiny"]),
        ({"general.source.url": "https://huggingface.co/acme/tiny"}, ["acme/tiny"]),
        (
            {
                "general.base_model.count": 1,
                "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen3-0.6B",
                "general.base_model.0.name": "Qwen3 0.6B",
                "general.base_model.0.organization": "Qwen",
            },
            ["Qwen/Qwen3-0.6B"],
        ),
        (
            {"general.organization": "Qwen", "general.name": "Qwen2.5 0.5B Instruct"},
            ["Qwen/Qwen2.5-0.5B-Instruct"],
        ),
        (
            {
                "general.organization": "acme",
                "general.basename": "Tiny",
                "general.size_label": "1B",
                "general.finetune": "chat",
            },
            ["acme/Tiny-1B-chat"],
        ),
        # A repository of GGUF files has no safetensors.
        ({"general.repo_url": "https://huggingface.co/acme/tiny-GGUF"}, []),
        # Nothing hostile reaches an address or a path.
        ({"general.source.url": "https://evil.example/acme/tiny"}, []),
        ({"general.source.url": "../../etc/passwd", "general.url": "acme/..", "general.repo_url": "a/b/c"}, []),
        ({"general.base_model.count": 2**60, "general.base_model.0.repo_url": 7, "general.source.url": "x" * 9999}, []),
    ],
)
def test_from_metadata(metadata: dict[str, Any], expected: list[str]) -> None:
    assert [candidate.repository for candidate in candidates(model(metadata))] == expected


def test_the_library_comes_after_the_metadata() -> None:
    found = candidates(model({"general.source.url": "https://huggingface.co/acme/tiny"}, "bot", "llama3.2:1b"))
    assert [candidate.repository for candidate in found] == ["acme/tiny", "meta-llama/Llama-3.2-1B-Instruct"]
    assert "the parent's name, llama3.2:1b" in found[1].origin


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama3.2", "meta-llama/Llama-3.2-3B-Instruct"),
        ("llama3.2:latest", "meta-llama/Llama-3.2-3B-Instruct"),
        ("registry.ollama.ai/library/qwen3:0.6b-q8_0", "Qwen/Qwen3-0.6B"),
        ("qwen2.5:7b-instruct-q4_K_M", "Qwen/Qwen2.5-7B-Instruct"),
        ("llama3:8b-text", None),
        ("somebody/llama3.2:1b", None),
        ("support-bot", None),
        ("", None),
    ],
)
def test_names_of_the_library(name: str, expected: str | None) -> None:
    assert repository_of(name) == expected


def test_the_table_is_sound() -> None:
    assert all(REPOSITORY.fullmatch(repository) for repository in REPOSITORIES.values())
    assert {f"{name}:{tag}" for name, tag in LATEST.items()} <= REPOSITORIES.keys()
