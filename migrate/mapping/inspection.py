"""What `migrate inspect` shows, as one JSON-able value. The schema is documented in docs/inspect.md."""

from __future__ import annotations

from typing import Any

from migrate.gguf.header import GGUFHeader
from migrate.mapping.migration import Migration
from migrate.ollama.options import CURRENT_VERSION

SCHEMA_VERSION = 1

BITS_PER_WEIGHT = {"bf16": 16.0, "int8": 8.5, "int4": 4.5}
"""8 and 4 bits in groups of 32 with a float16 scale each: half a bit more."""


def inspection(migration: Migration) -> dict[str, Any]:
    """Everything known of one model: plain dicts, lists, strings and numbers."""
    model, header = migration.model, migration.model.gguf
    return {
        "schema_version": SCHEMA_VERSION,
        "name": model.name,
        "kind": model.kind,
        "architecture": _architecture(migration),
        "quantization": _quantization(migration),
        "parameter_count": _parameter_count(migration),
        "context_length": _context_length(migration),
        "kv_bytes_per_token": kv_bytes_per_token(migration),
        "memory": _memory(migration),
        "tensor_types": _tensor_types(header),
        "tokenizer": _tokenizer(header),
        "chat_template": bool(header and header.chat_template),
        "provenance": _provenance(header),
        "prompt_path": migration.prompt.path,
        "prompt_path_reason": migration.prompt.reason,
        "template": model.template,
        "system": model.system,
        "messages": [dict(m) for m in model.messages],
        "parameters": [{"name": p.name, "value": p.value, "origin": p.origin} for p in migration.parameters],
        "renderer": model.renderer,
        "parser": model.parser,
        "requires": model.requires,
        "adapters": [layer.digest or str(layer.path) for layer in model.adapters],
        "projectors": [layer.digest or str(layer.path) for layer in model.projectors],
        "licenses": len(model.licenses),
        "parent": model.parent,
        "digests": dict(model.digests),
        "ollama_version": migration.choices.ollama_version or model.ollama_version or CURRENT_VERSION,
        "ollama_version_known": bool(migration.choices.ollama_version or model.ollama_version),
        "movable": not migration.refused,
        "findings": [f.to_dict() for f in migration.ledger],
        "finding_counts": migration.ledger.counts(),
    }


def _architecture(migration: Migration) -> str:
    model = migration.model
    if model.gguf is not None:
        return model.gguf.architecture
    return str(model.model_info.get("general.architecture") or model.config.get("model_family") or "")


def _quantization(migration: Migration) -> str:
    model = migration.model
    if model.gguf is not None and (name := model.gguf.file_type):
        return name
    return str(model.config.get("file_type") or "unknown")


def _parameter_count(migration: Migration) -> int | None:
    if migration.layout is not None:
        return migration.layout.parameter_count
    if migration.model.gguf is not None:
        return migration.model.gguf.parameter_count
    value = migration.model.model_info.get("general.parameter_count")
    return value if isinstance(value, int) else None


def _context_length(migration: Migration) -> int | None:
    value = _field(migration, "context_length")
    return value if isinstance(value, int) else None


def _field(migration: Migration, key: str) -> Any:
    """A key of the architecture, from the GGUF or from what a server said of it."""
    model = migration.model
    if model.gguf is not None:
        return model.gguf.field(key)
    return model.model_info.get(f"{_architecture(migration)}.{key}")


def kv_bytes_per_token(migration: Migration, cache_bytes: int = 2) -> int | None:
    """Bytes of key/value cache one token takes; None when the file does not say enough.

    For an architecture without a file of its own: keys and values of every layer's kv heads, or the compressed
    vector and the rotary part where attention is latent (MLA).
    """
    if migration.layout is not None:
        return migration.layout.kv_bytes_per_token(cache_bytes)
    layers, heads = _field(migration, "block_count"), _field(migration, "attention.head_count")
    width = _field(migration, "embedding_length")
    if not isinstance(layers, int) or not isinstance(width, int):
        return None
    if isinstance(latent := _field(migration, "attention.kv_lora_rank"), int):
        rotary = _field(migration, "rope.dimension_count")
        return layers * (latent + (rotary if isinstance(rotary, int) else 0)) * cache_bytes
    kv_heads = _field(migration, "attention.head_count_kv")
    kv_heads = heads if kv_heads is None else kv_heads
    if isinstance(kv_heads, int):
        total_heads = layers * kv_heads
    elif kv_heads is not None and all(isinstance(n, int) for n in kv_heads):
        total_heads = sum(kv_heads)
    else:
        return None
    key = _field(migration, "attention.key_length") or (width // heads if isinstance(heads, int) and heads else None)
    value = _field(migration, "attention.value_length") or key
    if not isinstance(key, int) or not isinstance(value, int):
        return None
    return total_heads * (key + value) * cache_bytes


def _memory(migration: Migration) -> dict[str, int | None]:
    """Bytes of weights on disk now and at 16, 8 and 4 bits."""
    count = _parameter_count(migration)
    header = migration.model.gguf
    sizes: dict[str, int | None] = {"gguf": header.tensor_bytes if header else None}
    for name, bits in BITS_PER_WEIGHT.items():
        sizes[name] = None if count is None else int(count * bits / 8)
    return sizes


def _tensor_types(header: GGUFHeader | None) -> list[dict[str, Any]]:
    if header is None:
        return []
    return [
        {"type": s.type.name, "tensors": s.tensors, "parameters": s.parameters, "bytes": s.nbytes}
        for s in header.type_shares()
    ]


def _tokenizer(header: GGUFHeader | None) -> dict[str, Any] | None:
    if header is None or (model := header.get("tokenizer.ggml.model")) is None:
        return None
    return {
        "model": model,
        "pre": header.get("tokenizer.ggml.pre"),
        "vocab_size": len(header.get("tokenizer.ggml.tokens", ())),
        "bos_token_id": header.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.get("tokenizer.ggml.eos_token_id"),
    }


def _provenance(header: GGUFHeader | None) -> dict[str, str]:
    """The `general.*` texts that tell where a file comes from."""
    if header is None:
        return {}
    skip = ("general.architecture", "general.type", "general.quantization_version", "general.file_type")
    return {
        key: str(value)
        for key, value in header.metadata.items()
        if key.startswith("general.") and key not in skip and isinstance(value, str | int)
    }
