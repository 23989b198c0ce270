"""A manifest: the list of layers that makes a model, as registries and Ollama's store keep it (JSON)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from migrate.errors import StoreError
from migrate.ollama.bounded import loads_object
from migrate.ollama.model import Layer

MAX_BYTES = 64 << 20
"""An MLX model has a layer per tensor: 100,000 of them are 30 MB."""

IMAGE = "application/vnd.ollama.image."
MODEL, ADAPTER, PROJECTOR, DRAFT = (IMAGE + k for k in ("model", "adapter", "projector", "draft"))
TEMPLATE, PROMPT, SYSTEM, PARAMS = (IMAGE + k for k in ("template", "prompt", "system", "params"))
MESSAGES, LICENSE, TENSOR, JSON_FILE = (IMAGE + k for k in ("messages", "license", "tensor", "json"))
KNOWN = frozenset(
    (
        MODEL,
        ADAPTER,
        PROJECTOR,
        DRAFT,
        TEMPLATE,
        PROMPT,
        SYSTEM,
        PARAMS,
        MESSAGES,
        LICENSE,
        TENSOR,
        JSON_FILE,
        IMAGE + "embed",
    )
)
WEIGHTS = (MODEL, ADAPTER, PROJECTOR, DRAFT)

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True)
class Manifest:
    """`digest` is what `ollama list` calls ID: the sha256 of the manifest's bytes. `config` None: the file has none."""

    digest: str
    config: Layer | None
    layers: tuple[Layer, ...]

    def of(self, *media_types: str) -> list[Layer]:
        """The layers of these types, in order."""
        return [layer for layer in self.layers if layer.media_type in media_types]

    def last(self, *media_types: str) -> Layer | None:
        """The layer that counts where only one can: the last."""
        return next(reversed(self.of(*media_types)), None)

    @property
    def size(self) -> int:
        """Bytes of all layers and the config, as `ollama list` shows."""
        return sum(layer.size for layer in self.layers) + (self.config.size if self.config else 0)


def parse(data: bytes, what: str) -> Manifest:
    """The manifest in `data`; `what` names it in errors. `Layer.path` is left empty. Raises StoreError."""
    content = loads_object(data, what)
    layers = content.get("layers") or []
    if not isinstance(layers, list):
        raise StoreError(f"{what}: `layers` is not a list")
    config = content.get("config")
    has_config = isinstance(config, dict) and bool(config.get("digest"))
    return Manifest(
        digest=f"sha256:{sha256(data).hexdigest()}",
        config=_layer(config, f"{what}: config") if has_config else None,
        layers=tuple(_layer(layer, f"{what}: layer {i}") for i, layer in enumerate(layers)),
    )


def digest_hex(digest: str) -> str | None:
    """The 64 hexadecimal digits of "sha256:..." or "sha256-..."; None for anything else, such as a path."""
    found = _DIGEST.fullmatch(digest)
    return found.group(1).lower() if found else None


def _layer(entry: Any, what: str) -> Layer:
    if not isinstance(entry, Mapping):
        raise StoreError(f"{what} is not an object")
    digest, size = entry.get("digest"), entry.get("size", 0)
    hexadecimal = digest_hex(digest) if isinstance(digest, str) else None
    if hexadecimal is None:
        raise StoreError(f"{what} has no valid digest: {str(digest)[:100]!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise StoreError(f"{what} has no valid size: {str(size)[:40]!r}")
    texts = {key: entry.get(key) for key in ("mediaType", "from", "name")}
    if not all(text is None or isinstance(text, str) for text in texts.values()):
        raise StoreError(f"{what}: mediaType, from and name must be texts")
    return Layer(
        media_type=texts["mediaType"] or "",
        digest=f"sha256:{hexadecimal}",
        size=size,
        name=texts["name"] or None,
        from_=texts["from"] or None,
    )
