"""Ollama's store on disk: which models there are, and everything it knows of one (server/images.go, GetModel).

The store is the truth: `ollama show --modelfile` is made from it and loses things on the way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Any

from migrate.errors import MigrateError, NotFound, Refused, StoreError
from migrate.gguf.header import GGUFHeader, read_header
from migrate.ollama import checkpoint as checkpoints
from migrate.ollama import manifest as manifests
from migrate.ollama import options
from migrate.ollama.bounded import loads, loads_object, read_bytes
from migrate.ollama.checkpoint import Checkpoint
from migrate.ollama.locations import default_models_dirs, find_models_dir
from migrate.ollama.manifest import Manifest, digest_hex
from migrate.ollama.model import Layer, Message, OllamaModel
from migrate.ollama.names import ModelName, split_source

__all__ = ["Store", "Summary", "default_models_dirs", "find_models_dir"]

MAX_TEXT_BYTES = 16 << 20
"""Templates, system prompts, licences, parameters, messages, configs."""

Names = list[ModelName]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of models shows, read without touching the weights. `size` in bytes, `modified` in Unix seconds."""

    name: ModelName
    digest: str
    size: int
    modified: float
    family: str
    parameter_size: str
    quantization: str
    remote: bool


class Store:
    """A directory with `manifests` and `blobs` in it. Nothing is ever written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    # Names and manifests

    def list(self) -> Names:
        """All models, sorted by name; what is not named as Ollama names models is passed over."""
        found = (self._name_at(path) for path in _walk(self.path / "manifests", depth=4))
        return sorted((name for name in found if name is not None), key=lambda name: (name.short.lower(), name.key))

    def find(self, name: str | ModelName) -> ModelName:
        """The model of that name as it is spelled in the store. Raises NotFound, UsageError for an impossible name."""
        wanted = ModelName.parse(split_source(name)[0]) if isinstance(name, str) else name
        if self._manifest_path(wanted).is_file():
            return wanted
        known = self.list()
        if same := next((other for other in known if other.key == wanted.key), None):
            return same
        shorts = [other.short for other in known]
        near = [s for s in shorts if s.startswith(f"{wanted.model}:")] or get_close_matches(
            wanted.short, shorts, 3, 0.75
        )
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(shorts[:10]) or 'no models'}."
        raise NotFound(f"no model {wanted.short!r} in {self.path}", hint=hint)

    def manifest(self, name: str | ModelName) -> Manifest:
        """Raises NotFound; StoreError when the file is damaged."""
        found = self.find(name)
        what = f"manifest of {found.short}"
        manifest = manifests.parse(read_bytes(self._manifest_path(found), manifests.MAX_BYTES, what), what)
        located = tuple(replace(layer, path=self.blob(layer.digest)) for layer in manifest.layers)
        config = manifest.config and replace(manifest.config, path=self.blob(manifest.config.digest))
        return Manifest(manifest.digest, config, located)

    def _manifest_path(self, name: ModelName) -> Path:
        return self.path / "manifests" / name.path

    def _name_at(self, path: Path) -> ModelName | None:
        try:
            return ModelName(*path.relative_to(self.path / "manifests").parts)
        except MigrateError:
            return None

    # Blobs

    def blob(self, digest: str) -> Path | None:
        """The file of a digest, if it is there; stores of early 2024 have a colon in the name."""
        if (hexadecimal := digest_hex(digest)) is None:
            return None
        paths = (self.path / "blobs" / f"sha256{mark}{hexadecimal}" for mark in "-:")
        return next((path for path in paths if path.is_file()), None)

    def verify(self, layer: Layer) -> None:
        """Hashes a blob, however large (about 1 s per GB). Raises StoreError when it is not what its name says."""
        path = self._checked(layer, "blob")
        digest = sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        if f"sha256:{digest.hexdigest()}" != layer.digest:
            raise StoreError(f"blob {layer.digest} is damaged: its content has another digest", hint=_REPAIR)

    def _checked(self, layer: Layer, what: str) -> Path:
        """The layer's file, which must be there and have the size the manifest states."""
        if layer.path is None:
            partial = self.path / "blobs" / f"{layer.digest.replace(':', '-')}-partial"
            why = ": its download did not finish" if partial.exists() else ""
            raise StoreError(f"{what}: blob {layer.digest} is missing from {self.path}{why}", hint=_REPAIR)
        try:
            size = layer.path.stat().st_size
        except OSError as error:
            raise StoreError(f"{what}: blob {layer.digest} cannot be read: {error.strerror or error}") from error
        if size != layer.size:
            raise StoreError(f"{what}: blob {layer.digest} has {size:,} bytes instead of {layer.size:,}", hint=_REPAIR)
        return layer.path

    def _read(self, layer: Layer, what: str) -> bytes:
        """A small blob, checked against its digest."""
        data = read_bytes(self._checked(layer, what), MAX_TEXT_BYTES, what)
        if f"sha256:{sha256(data).hexdigest()}" != layer.digest:
            raise StoreError(f"{what}: blob {layer.digest} is damaged: its content has another digest", hint=_REPAIR)
        return data

    def _text(self, layer: Layer | None, what: str) -> str | None:
        return None if layer is None else self._read(layer, what).decode("utf-8", errors="replace")

    # Models

    def summary(self, name: str | ModelName) -> Summary:
        """Raises NotFound, StoreError."""
        found = self.find(name)
        manifest = self.manifest(found)
        config = self._config(manifest, found)
        return Summary(
            name=found,
            digest=manifest.digest,
            size=manifest.size,
            modified=self._manifest_path(found).stat().st_mtime,
            family=str(config.get("model_family") or ""),
            parameter_size=str(config.get("model_type") or ""),
            quantization=str(config.get("file_type") or ""),
            remote=bool(config.get("remote_host")),
        )

    def load(self, name: str | ModelName) -> OllamaModel:
        """Everything the store has on a model; of weights, only headers are read.

        Raises NotFound; StoreError for a damaged or incomplete model; GGUFError when the weights are no valid GGUF.
        """
        found = self.find(name)
        manifest = self.manifest(found)
        config = self._config(manifest, found)
        for layer in manifest.of(*manifests.WEIGHTS):
            self._checked(layer, f"{found.short}: {layer.media_type.removeprefix(manifests.IMAGE)}")
        weights = manifest.last(manifests.MODEL)
        checkpoint, header = self._checkpoint(manifest, found, config.get("capabilities") or ())
        template = manifest.last(manifests.TEMPLATE, manifests.PROMPT)
        return OllamaModel(
            name=found.short,
            kind="store",
            gguf=header or _header(weights, config),
            checkpoint=checkpoint,
            gguf_path=weights.path if weights else None,
            template=self._text(template, f"{found.short}: template"),
            system=self._text(manifest.last(manifests.SYSTEM), f"{found.short}: system"),
            messages=self._messages(manifest, found),
            parameters=self._parameters(manifest, found),
            renderer=config.get("renderer") or None,
            parser=config.get("parser") or None,
            requires=config.get("requires") or None,
            licenses=tuple(
                self._text(layer, f"{found.short}: license") or "" for layer in manifest.of(manifests.LICENSE)
            ),
            adapters=manifest.of(manifests.ADAPTER),
            projectors=manifest.of(manifests.PROJECTOR),
            drafts=manifest.of(manifests.DRAFT)[-1:],
            layers=manifest.layers,
            config=config,
            digests=_digests(manifest),
            parent=weights.from_ if weights else None,
            parent_parameters=self._parent_parameters(weights, found),
            capabilities=tuple(config.get("capabilities") or ()),
        )

    def _checkpoint(
        self, manifest: Manifest, name: ModelName, capabilities: Sequence[str]
    ) -> tuple[Checkpoint | None, GGUFHeader | None]:
        """The tensor layers of a model made for MLX; (None, None) when it has none, or generates images.

        Names that begin with "draft" belong to a second model, for speculation.
        """
        layers = [layer for layer in manifest.of(manifests.TENSOR) if not (layer.name or "").startswith("draft.")]
        if not layers or "image" in capabilities:
            return None, None
        files = [layer for layer in manifest.of(manifests.JSON_FILE) if "/" not in (layer.name or "/")]
        located = {layer.name or "": self._checked(layer, f"{name.short}: {layer.name}") for layer in (*files, *layers)}
        names = {layer.name or "" for layer in files}
        try:
            return checkpoints.read_layers(
                name.short,
                {key: path for key, path in located.items() if key in names},
                {key: path for key, path in located.items() if key not in names},
            )
        except Refused:
            return None, None  # quantized for MLX: the model is described, and refused with its reason

    def _config(self, manifest: Manifest, name: ModelName) -> dict[str, Any]:
        if manifest.config is None:
            return {}
        what = f"{name.short}: config"
        config = loads_object(self._read(manifest.config, what), what)
        for key in ("renderer", "parser", "requires", "model_format", "model_family", "remote_host", "remote_model"):
            if not isinstance(config.get(key) or "", str):
                raise StoreError(f"{what}: {key} is not a text")
        capabilities = config.get("capabilities") or []
        if not isinstance(capabilities, list) or not all(isinstance(c, str) for c in capabilities):
            raise StoreError(f"{what}: capabilities is not a list of texts")
        return config

    def _parameters(self, manifest: Manifest, name: ModelName) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for layer in manifest.of(manifests.PARAMS):
            what = f"{name.short}: params"
            content = loads(self._read(layer, what), what)
            if not isinstance(content, Mapping | None):
                raise StoreError(f"{what}: a JSON object was expected, not {type(content).__name__}")
            merged.update(content or {})
        return {key: options.stored(key, value) for key, value in merged.items() if value is not None}

    def _messages(self, manifest: Manifest, name: ModelName) -> tuple[Message, ...]:
        layer, what = manifest.last(manifests.MESSAGES), f"{name.short}: messages"
        if layer is None:
            return ()
        content = loads(self._read(layer, what), what)
        return check_messages(content, what)

    def _parent_parameters(self, weights: Layer | None, child: ModelName) -> Mapping[str, Any] | None:
        """The parent's parameters, if the parent is still here and still has the same weights."""
        if weights is None or not weights.from_ or not ModelName.valid(weights.from_):
            return None
        try:
            parent = self.find(weights.from_)
            manifest = self.manifest(parent)
            theirs = manifest.last(manifests.MODEL)
            if parent.key == child.key or theirs is None or theirs.digest != weights.digest:
                return None
            return self._parameters(manifest, parent)
        except MigrateError:
            return None  # the child is complete without it


_REPAIR = "`ollama pull` (or `ollama create`, for a model of your own) writes missing and damaged blobs again."


def check_messages(content: Any, what: str) -> tuple[Message, ...]:
    """MESSAGEs out of JSON. Raises StoreError for anything but a list of objects with a role and texts."""
    if content is None:
        return ()
    if not isinstance(content, list):
        raise StoreError(f"{what}: a JSON list was expected, not {type(content).__name__}")
    for message in content:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise StoreError(f"{what}: a message without a role: {str(message)[:80]}")
        if not isinstance(message.get("content", ""), str):
            raise StoreError(f"{what}: the content of a message is not a text: {str(message)[:80]}")
    return tuple({**message, "role": message["role"].lower()} for message in content)


def _walk(directory: Path, depth: int) -> Iterator[Path]:
    """Files exactly `depth` levels down; what cannot be listed is passed over."""
    try:
        with os.scandir(directory) as entries:
            children = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in children:
        if depth > 1 and entry.is_dir():
            yield from _walk(Path(entry.path), depth - 1)
        elif depth == 1 and entry.is_file():
            yield Path(entry.path)


def _header(weights: Layer | None, config: Mapping[str, Any]) -> GGUFHeader | None:
    if weights is None or weights.path is None or config.get("model_format", "") not in ("", "gguf"):
        return None
    return read_header(weights.path)


def _digests(manifest: Manifest) -> dict[str, str]:
    found = {"manifest": manifest.digest}
    if manifest.config is not None:
        found["config"] = manifest.config.digest
    roles: Sequence[Layer] = [layer for layer in manifest.layers if layer.media_type != manifests.TENSOR]
    for layer in roles:
        role = layer.media_type.removeprefix(manifests.IMAGE)
        found["template" if role == "prompt" else role] = layer.digest
    return found
