"""Does a candidate's config.json say what the GGUF says? Compared are the keys that compute."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from migrate.architectures.base import ModelLayout

if TYPE_CHECKING:
    from migrate.original.prove import Check

_OTHERWISE = frozenset(
    [
        *("vocab_size", "max_position_embeddings", "tie_word_embeddings", "rope_parameters", "head_dim"),
        *("moe_layer_freq", "scoring_func", "topk_method", "layer_norm_epsilon", "pad_token_id"),
        *("n_embd", "n_head", "n_inner", "n_layer", "mlp_bias", "attention_bias"),
        "sliding_window_pattern",
    ]
)
"""Settled by the tensors' shapes, or told in several ways; rotary settings are compared apart."""


def check(layout: ModelLayout, config: Mapping[str, Any]) -> Check:
    """Both are read as transformers reads them, where it is installed and knows the family; else as they are written,
    and a key the candidate leaves to its class is not compared."""
    from migrate.original.prove import Check

    inner = config.get("text_config")
    theirs = {**config, **inner} if isinstance(inner, dict) else dict(config)
    theirs["model_type"] = layout.architecture.model_type
    mine: dict[str, Any] = {**layout.config, "model_type": layout.architecture.model_type}
    mine_read, theirs_read = _as_transformers_reads(mine), _as_transformers_reads(theirs)
    compared, differing = 0, []
    for key in sorted(layout.config.keys() - _OTHERWISE):
        if key not in theirs_read or key not in mine_read:
            continue
        compared += 1
        if not _same(mine_read[key], theirs_read[key]):
            differing.append(f"{key} is {theirs_read[key]!r}, the GGUF has {mine_read[key]!r}")
    rope = _rope(mine_read), _rope(theirs_read)
    compared += 1
    if not _same(*rope):
        differing.append(f"rotary settings are {rope[1]}, the GGUF has {rope[0]}")
    if differing:
        return Check("config", False, "; ".join(differing)[:400])
    return Check("config", True, f"{compared} settings that compute")


def _as_transformers_reads(config: dict[str, Any]) -> dict[str, Any]:
    try:
        from transformers import AutoConfig

        read: dict[str, Any] = AutoConfig.for_model(**config).to_dict()
    except Exception:  # not installed, or a family whose code is not in transformers, or one it finds fault with
        return config
    return read


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """theta and scaling, whichever way they are written."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        return dict(parameters)  # per kind of layer
    merged = {"rope_theta": config.get("rope_theta", 10000.0), **{k: v for k, v in parameters.items() if v is not None}}
    kind = merged.pop("type", None) or merged.get("rope_type", "default")
    merged["rope_type"] = kind
    for key in ("partial_rotary_factor", "original_max_position_embeddings", "mscale", "mscale_all_dim"):
        merged.pop(key, None)
    return merged


def _same(a: Any, b: Any) -> bool:
    """Equal, but for what float32 in between takes from a number."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, float) or isinstance(b, float)):
        return bool(a == b)
    if not isinstance(a, int | float) or not isinstance(b, int | float):
        return False
    return bool(struct.pack("<f", a) == struct.pack("<f", b)) or abs(a - b) <= 1e-6 * abs(a)
