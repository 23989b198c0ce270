"""StableLM 3B, Zephyr and StableLM 2 1.6B: a llama with LayerNorms whose heads are rotated in part.

StableLM 2 12B (norms on every head of q and k, attention and MLP side by side) has the same `model_type`, but vLLM's
class knows neither. llama.cpp goes by the tensors and never reads `use_parallel_residual`, which its converter sets for
models that have none. vLLM's class takes no LoRA.
"""

from __future__ import annotations

from typing import Any

from migrate.architectures.base import Architecture, Config, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    INPUT_NORM,
    LAYER,
    OUTPUT,
    POST_ATTENTION_NORM,
    QKV,
    QKV_BIASES,
    decoder_config,
    decoder_sizes,
    head_size,
    kv_bytes,
    optional,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor

TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    Tensor("blk.{i}.attn_norm.bias", f"{LAYER}.input_layernorm.bias", ("hidden",)),
    *QKV,
    *optional(QKV_BIASES, "q, k and v biases"),
    ATTENTION_OUTPUT,
    POST_ATTENTION_NORM,
    Tensor("blk.{i}.ffn_norm.bias", f"{LAYER}.post_attention_layernorm.bias", ("hidden",)),
    *GATED_MLP,
    FINAL_NORM,
    Tensor("output_norm.bias", "model.norm.bias", ("hidden",)),
    OUTPUT,
)


def config(source: Source) -> Config:
    for tensor in ("attn_q_norm", "attn_k_norm"):
        if source.shape(f"blk.0.{tensor}.weight"):
            raise source.refuse("norms on the heads of q and k (StableLM 2 12B); vLLM's StableLM has none")
    if source.shape("blk.0.ffn_norm.weight") is None:
        raise source.refuse("attention and MLP side by side; vLLM's StableLM computes one after the other")
    result = decoder_config(source, head_dim_key=False, eps="layer_norm_eps")
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    return result | {
        "rope_parameters": partial_rope(source, head_dim),
        "use_qkv_bias": source.has("q, k and v biases"),
        "qk_layernorm": False,
        "use_parallel_residual": False,
    }


def partial_rope(source: Source, head_dim: int) -> dict[str, Any]:
    """`rope_parameters` of heads of which only the first `rope.dimension_count` values are rotated."""
    rotated = source.integer("rope.dimension_count", head_dim)
    factor = shortest_float(rotated / head_dim)
    if not 0 < rotated <= head_dim or rotated % 2 or int(head_dim * factor) != rotated:
        raise source.refuse(f"{rotated} of {head_dim} values per head are rotated")
    return rope_parameters(source, rotated) | {"partial_rotary_factor": factor}


ARCHITECTURE = Architecture(
    model_type="stablelm",
    class_name="StableLmForCausalLM",
    gguf_names=("stablelm",),
    tensors=TENSORS,
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    ignored_keys=("vocab_size", "use_parallel_residual"),
)
