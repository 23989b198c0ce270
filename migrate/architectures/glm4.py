"""GLM-4-0414: four norms per layer, gate and up in one matrix, half of each head rotated; never float16 in vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    INPUT_NORM,
    MLP,
    OUTPUT,
    POST_ATTENTION_NORM,
    QKV,
    QKV_BIASES,
    decoder_config,
    decoder_sizes,
    norm,
    optional,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor


def config(source: Source) -> Config:
    result = decoder_config(source)
    head_dim = result["head_dim"]
    rotated = source.integer("rope.dimension_count", head_dim)
    part = shortest_float(rotated / head_dim)
    return result | {
        "rope_parameters": rope_parameters(source, rotated) | {"partial_rotary_factor": part},
        "partial_rotary_factor": part,
        "attention_bias": source.has("qkv biases"),
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return decoder_sizes(config) | {"gate_up": 2 * config["intermediate_size"]}


ARCHITECTURE = Architecture(
    model_type="glm4",
    class_name="Glm4ForCausalLM",
    gguf_names=("glm4",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        *optional(QKV_BIASES, "qkv biases"),
        ATTENTION_OUTPUT,
        norm("post_attention_norm", "post_self_attn_layernorm"),
        POST_ATTENTION_NORM,
        Tensor("blk.{i}.ffn_up.weight", f"{MLP}.gate_up_proj.weight", ("gate_up", "hidden")),
        Tensor("blk.{i}.ffn_down.weight", f"{MLP}.down_proj.weight", ("hidden", "intermediate")),
        norm("post_ffw_norm", "post_mlp_layernorm"),
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")},
    float16=False,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"),
)
