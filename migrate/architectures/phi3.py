"""Phi-3, Phi-3.5 and Phi-4: q, k, v in one matrix, gate and up in another, LongRoPE in two tensors of factors."""

from __future__ import annotations

import math
from typing import Any

from migrate.architectures.base import Architecture, Config, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    INPUT_NORM,
    MLP,
    OUTPUT,
    POST_ATTENTION_NORM,
    decoder_config,
    decoder_sizes,
    head_size,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor
from migrate.findings import Status

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    original = source.integer("rope.scaling.original_context_length", result["max_position_embeddings"])
    return result | {
        "original_max_position_embeddings": original,
        "rope_parameters": _rope(source, head_dim, result["max_position_embeddings"], original),
        "sliding_window": _window(source),
    }


def _rope(source: Source, head_dim: int, length: int, original: int) -> dict[str, Any]:
    rotated = source.integer("rope.dimension_count", head_dim)
    partial = {"partial_rotary_factor": shortest_float(rotated / head_dim)}
    long, short = source.floats(LONG), source.floats(SHORT)
    if long is None or short is None:
        return rope_parameters(source, rotated) | partial
    if len(long) != rotated // 2 or len(short) != rotated // 2:
        raise source.refuse(f"{len(long)} and {len(short)} rotary factors for {rotated} rotated values")
    source.get("rope.scaling.type")
    parameters = {
        "rope_type": "longrope",
        "rope_theta": source.number("rope.freq_base", 10_000.0),
        "long_factor": [shortest_float(value) for value in long],
        "short_factor": [shortest_float(value) for value in short],
        "original_max_position_embeddings": original,
    }
    factor = source.number("rope.scaling.attn_factor", 1.0)
    implied = math.sqrt(1 + math.log(length / original) / math.log(original)) if length > original else 1.0
    if not math.isclose(factor, implied, rel_tol=1e-5):
        parameters["attention_factor"] = factor
    return parameters | partial


def _window(source: Source) -> int | None:
    window = source.integer("attention.sliding_window", 0)
    if not window:
        return None
    reason = "llama.cpp does not apply it to this architecture: beyond that many tokens of context the answers differ"
    source.ledger.add("attention.sliding_window", Status.APPROXIMATE, window, f'"sliding_window": {window}', reason)
    return window


def sizes(config: Config) -> dict[str, int]:
    plain = decoder_sizes(config)
    return plain | {"qkv": plain["q"] + 2 * plain["kv"], "gate_up": 2 * plain["intermediate"]}


ARCHITECTURE = Architecture(
    model_type="phi3",
    class_name="Phi3ForCausalLM",
    gguf_names=("phi3",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        Tensor("blk.{i}.attn_qkv.weight", f"{ATTENTION}.qkv_proj.weight", ("qkv", "hidden")),
        ATTENTION_OUTPUT,
        POST_ATTENTION_NORM,
        Tensor("blk.{i}.ffn_up.weight", f"{MLP}.gate_up_proj.weight", ("gate_up", "hidden")),
        Tensor("blk.{i}.ffn_down.weight", f"{MLP}.down_proj.weight", ("hidden", "intermediate")),
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=lambda config, cache_bytes: (
        config["num_hidden_layers"] * 2 * decoder_sizes(config)["kv"] * cache_bytes
    ),
    lora_targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    consumed=(LONG, SHORT),
)
