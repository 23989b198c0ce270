"""What a bundle keeps of the Ollama model so that it can be shown, listed and rendered without the store.

`details`, `model_info` and `tensors` are those of /api/tags and /api/show (server/images.go and server/routes.go at
0.33, held to recordings of a real server).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrate.bundle import format as bundle_format
from migrate.gguf.header import GGUFHeader, LazyArray, read_header
from migrate.mapping.migration import Migration
from migrate.ollama import capabilities
from migrate.ollama.model import OllamaModel
from migrate.ollama.options import CURRENT_VERSION

CAPABILITIES = ("completion", "embedding", "vision", "audio", "tools", "insert", "thinking", "image")
"""In the order in which Ollama finds them."""
NOT_SHOWN = ("general.name", "tokenizer.chat_template")


def source(migration: Migration, digests: Mapping[str, str] | None = None) -> bundle_format.Source:
    """The `source` of migration.json. `digests`: those of the layers, when they are known (`layer_digests`)."""
    model, header = migration.model, migration.model.gguf
    assert header is not None
    known = dict(layer_digests(migration) if digests is None else digests)
    return bundle_format.Source(
        name=model.name,
        kind=model.kind,
        architecture=header.architecture,
        quantization=header.file_type or "unknown",
        parameter_count=header.parameter_count,
        digests=known,
        prompt_path=migration.prompt.path,
        prompt_path_reason=migration.prompt.reason,
        template=model.template,
        chat_template=header.chat_template,
        system=model.system,
        messages=[dict(m) for m in model.messages],
        parameters=[{"name": p.name, "value": p.value, "origin": p.origin} for p in migration.parameters],
        adds_bos=migration.bos_in_template,
        ollama_version=migration.choices.ollama_version or model.ollama_version or CURRENT_VERSION,
        renderer=model.renderer,
        parser=model.parser,
        capabilities=_capabilities(migration),
        licenses=list(model.licenses),
        parent=model.parent,
        size=size(model),
        manifest_digest=known.get("manifest", "").removeprefix("sha256:") or None,
        details=details(model),
        adapter_digests=[layer.digest for layer in model.adapters if layer.digest],
        blobs={role: digest.replace(":", "-") for role, digest in known.items() if role != "manifest"},
    )


def _capabilities(migration: Migration) -> list[str]:
    found = capabilities.capabilities(migration.model, migration.prompt.path)
    return sorted(found, key=lambda name: (CAPABILITIES.index(name) if name in CAPABILITIES else 99, name))


def size(model: OllamaModel) -> int:
    """Bytes of the layers and, in a store, of the config, which is a blob beside them."""
    total = sum(layer.size for layer in model.layers)
    name = model.digests.get("config", "").replace(":", "-")
    folder = next((layer.path.parent for layer in model.layers if layer.path and layer.digest), None)
    if name and folder is not None and (config := folder / name).is_file():
        total += config.stat().st_size
    return total


def details(model: OllamaModel) -> dict[str, Any]:
    """`details` of /api/tags; /api/show has the same without the two lengths."""
    config, header = model.config, model.gguf
    family = capabilities.family(model)
    found: dict[str, Any] = {
        "parent_model": model.parent or "",
        "format": str(config.get("model_format") or ("gguf" if model.checkpoint is None else "safetensors")),
        "family": family,
        "families": list(config.get("model_families") or [family]),
        "parameter_size": str(config.get("model_type") or human_number(header.parameter_count if header else 0)),
        "quantization_level": str(config.get("file_type") or (header.file_type if header else None) or "unknown"),
    }
    for key in ("context_length", "embedding_length"):
        value = config.get(key) or (header.field(key) if header else None)
        if isinstance(value, int):
            found[key] = value
    return found


def human_number(count: int) -> str:
    """A count as Ollama prints it (format.HumanNumber): 3.54M, 8.0B is 8B."""
    for limit, unit, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= limit:
            return f"{count / limit:.{0 if count % limit == 0 else digits}f}{unit}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def shown(migration: Migration) -> dict[str, Any]:
    """`model_info`, `tensors` and, if there is one, `projector_info` of /api/show, as it answers without `verbose`."""
    header = migration.model.gguf
    assert header is not None
    if migration.model.checkpoint is None and header.path.is_file():
        header = read_header(header.path)  # as it lies there: the plan works with a mended one
    found: dict[str, Any] = {"model_info": model_info(header)}
    projector = next((layer.path for layer in migration.model.projectors if layer.path), None)
    if projector is not None:
        found["projector_info"] = model_info(read_header(projector))
    found["tensors"] = [{"name": t.name, "type": t.type.name, "shape": list(t.shape)} for t in header.tensors.values()]
    return found


def model_info(header: GGUFHeader) -> dict[str, Any]:
    """The metadata in the order of their names; an array of any length is null unless `verbose` asks for it."""
    pairs = {**header.metadata, "general.parameter_count": header.parameter_count}
    return {key: _shown_value(value) for key, value in sorted(pairs.items()) if key not in NOT_SHOWN}


def _shown_value(value: Any) -> Any:
    if isinstance(value, tuple | list | LazyArray):
        return None
    return _shortest(value) if isinstance(value, float) else value


def _shortest(value: float) -> float:
    """A float32 as Go prints it: the fewest digits that give the same 32 bits (1e-05, not 9.999999747378752e-06)."""
    try:
        single = struct.pack("<f", value)
    except OverflowError:
        return value
    if struct.unpack("<f", single)[0] != value:
        return value  # a float64, or no number
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((found for found in shorter if struct.pack("<f", found) == single), value)


def layer_digests(migration: Migration) -> dict[str, str]:
    """The layers' digests; a GGUF that is no blob of a store is hashed here."""
    digests = {role: digest for role, digest in migration.model.digests.items() if digest}
    header = migration.model.gguf
    has_file = migration.model.checkpoint is None or migration.choices.original is not None
    if header is not None and has_file and "model" not in digests:
        for number, path in enumerate(header.files, 1):
            digests["model" if number == 1 else f"model part {number}"] = f"sha256:{sha256(path)}"
    return dict(sorted(digests.items()))


def sha256(path: Path) -> str:
    """Hexadecimal, of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
