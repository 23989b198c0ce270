"""Model names: `[host/][namespace/]model[:tag]`, with Ollama's defaults and rules (types/model/name.go)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from migrate.errors import UsageError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

Source = Literal["local", "cloud"]

# First a letter, a digit or _: so no part is "..", absolute, hidden or an option.
_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_RULES = {
    "host": "letters, digits, _ - . :",
    "namespace": "letters, digits, _ -",
    "model": "letters, digits, _ - .",
    "tag": "letters, digits, _ - .",
}


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete, valid name. Names that differ only in case are the same model (`key`)."""

    host: str
    namespace: str
    model: str
    tag: str

    def __post_init__(self) -> None:
        for part, pattern in _PARTS.items():
            value = getattr(self, part)
            if not pattern.fullmatch(value):
                raise UsageError(
                    f"{_shown(self._joined())} is not a model name: {_shown(value)} cannot be its {part}",
                    hint=f"A {part} has {_RULES[part]}, and starts with a letter, a digit or _.",
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """A name as people type it; what is missing is registry.ollama.ai, library, latest. Raises UsageError."""
        rest, tag = text, DEFAULT_TAG
        if text.rfind(":") > text.rfind("/"):
            rest, _, tag = text.rpartition(":")
        scheme, found, after = rest.partition("://")
        if found and scheme.lower() in ("http", "https"):
            rest = after
        *front, model = rest.split("/")
        if len(front) > 2:
            raise UsageError(
                f"{_shown(text)} is not a model name: it has too many slashes", hint="host/namespace/model:tag"
            )
        namespace = front.pop() if front else DEFAULT_NAMESPACE
        host = front.pop() if front else DEFAULT_HOST
        return cls(host, namespace, model, tag)

    @classmethod
    def valid(cls, text: str) -> bool:
        """Whether `parse` takes the text."""
        try:
            cls.parse(text)
        except UsageError:
            return False
        return True

    def _joined(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    def __str__(self) -> str:
        return self._joined()

    @property
    def short(self) -> str:
        """As `ollama list` prints it: the default host and namespace left out, the tag never."""
        name = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{name}"
        return name

    @property
    def key(self) -> str:
        """Equal for names Ollama takes for the same model."""
        return self._joined().lower()

    @property
    def path(self) -> Path:
        """Where its manifest lies, relative to `manifests/`. Always inside it: no part can be ".." or absolute."""
        return Path(self.host, self.namespace, self.model, self.tag)


def split_source(text: str) -> tuple[str, Source | None]:
    """Cuts off Ollama's selectors: `m:cloud`, `m:8b-cloud` and `m:local` give (`m`, "cloud"), (`m:8b`, "cloud"),
    (`m`, "local"); anything else comes back with None. A cloud model has no weights on any disk of yours.
    """
    before, colon, suffix = text.strip().rpartition(":")
    lowered = suffix.strip().lower()
    if colon and lowered == "cloud":
        return before, "cloud"
    if colon and lowered == "local":
        return before, "local"
    if colon and lowered.endswith("-cloud") and "/" not in lowered:
        return f"{before}:{suffix.strip()[: -len('-cloud')]}", "cloud"
    return text.strip(), None


def _shown(text: str, limit: int = 100) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
