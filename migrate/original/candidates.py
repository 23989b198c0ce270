"""Which repositories a GGUF might have been made from, the likeliest first. Guesses: `prove` decides."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from migrate.gguf.header import GGUFHeader
from migrate.ollama.model import OllamaModel
from migrate.original.library import repository_of
from migrate.original.repository import REPOSITORY

MAX_BASE_MODELS = 8
_ADDRESS = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s]+/[^/\s?#]+)", re.IGNORECASE)
_SOURCES = ("general.source.huggingface.repository", "general.source.repo_url", "general.source.url")
_OWN = ("general.repo_url", "general.url")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository and where its name was found."""

    repository: str
    origin: str


def candidates(model: OllamaModel) -> list[Candidate]:
    """From the GGUF's metadata, then from the names of the model and its parent in Ollama's library."""
    found: dict[str, Candidate] = {}
    for candidate in _all(model):
        name = candidate.repository.removesuffix(".git")
        if REPOSITORY.fullmatch(name) and ".." not in name and not name.lower().endswith(("-gguf", "_gguf")):
            found.setdefault(name.lower(), Candidate(name, candidate.origin))
    return list(found.values())


def _all(model: OllamaModel) -> Iterator[Candidate]:
    header = model.gguf
    if header is not None:
        for key in _SOURCES:
            yield from _named(header, key)
        for index in range(min(_count(header), MAX_BASE_MODELS)):
            yield from _named(header, f"general.base_model.{index}.repo_url")
            yield from _composed(header, f"general.base_model.{index}.")
        for key in _OWN:
            yield from _named(header, key)
    for origin, name in (("the model's name", model.name), ("the parent's name", model.parent)):
        if name and (repository := repository_of(name)):
            yield Candidate(repository, f"{origin}, {name}, in the table of Ollama's library")
    if header is not None:
        yield from _composed(header, "general.")


def _count(header: GGUFHeader) -> int:
    count = header.get("general.base_model.count", 0)
    return count if isinstance(count, int) and count > 0 else 0


def _named(header: GGUFHeader, key: str) -> Iterator[Candidate]:
    value = header.get(key)
    if isinstance(value, str) and len(value) < 500:
        match = _ADDRESS.match(value.strip())
        yield Candidate(match[1] if match else value.strip(), key)


def _composed(header: GGUFHeader, prefix: str) -> Iterator[Candidate]:
    """OWNER/NAME of an organization and a name, which converters make of a repository's by taking hyphens out."""
    owner = header.get(f"{prefix}organization")
    for key in ("name", "basename"):
        name = header.get(f"{prefix}{key}")
        if key == "basename" and isinstance(name, str):
            parts = (name, header.get(f"{prefix}size_label"), header.get(f"{prefix}finetune"))
            name = "-".join(part for part in parts if isinstance(part, str) and part)
        if isinstance(owner, str) and isinstance(name, str) and len(owner) + len(name) < 200:
            spelled = re.sub(r"\s+", "-", owner.strip()), re.sub(r"\s+", "-", name.strip())
            yield Candidate("/".join(spelled), f"{prefix}organization and {prefix}{key}")
