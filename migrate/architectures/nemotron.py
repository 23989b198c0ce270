"""Nemotron 3 and 4, Minitron: LayerNorms of 1 + w, an MLP without gate and squared ReLU, part of each head rotated."""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    LAYER,
    MLP,
    OUTPUT,
    QKV,
    QKV_BIASES,
    decoder_config,
    decoder_sizes,
    norm,
    optional,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import MINUS_ONE, Tensor


def config(source: Source) -> Config:
    result = decoder_config(source, eps="norm_eps")
    source.get("attention.layer_norm_rms_epsilon")  # the converter writes the same number twice
    head_dim = result["head_dim"]
    rotated = source.integer("rope.dimension_count", head_dim)
    part = shortest_float(rotated / head_dim)
    return result | {
        "hidden_act": "relu2",
        "rope_parameters": rope_parameters(source, rotated) | {"partial_rotary_factor": part},
        "partial_rotary_factor": part,
        "attention_bias": source.has("attention biases"),
        "mlp_bias": source.has("MLP biases"),
    }


ARCHITECTURE = Architecture(
    model_type="nemotron",
    class_name="NemotronForCausalLM",
    gguf_names=("nemotron",),
    tensors=(
        EMBEDDING,
        norm("attn_norm", "input_layernorm", transform=MINUS_ONE),
        Tensor("blk.{i}.attn_norm.bias", f"{LAYER}.input_layernorm.bias", ("hidden",)),
        *QKV,
        *optional(QKV_BIASES, "attention biases"),
        ATTENTION_OUTPUT,
        Tensor("blk.{i}.attn_output.bias", f"{ATTENTION}.o_proj.bias", ("hidden",), group="attention biases"),
        norm("ffn_norm", "post_attention_layernorm", transform=MINUS_ONE),
        Tensor("blk.{i}.ffn_norm.bias", f"{LAYER}.post_attention_layernorm.bias", ("hidden",)),
        Tensor("blk.{i}.ffn_up.weight", f"{MLP}.up_proj.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_up.bias", f"{MLP}.up_proj.bias", ("intermediate",), group="MLP biases"),
        Tensor("blk.{i}.ffn_down.weight", f"{MLP}.down_proj.weight", ("hidden", "intermediate")),
        Tensor("blk.{i}.ffn_down.bias", f"{MLP}.down_proj.bias", ("hidden",), group="MLP biases"),
        Tensor("output_norm.weight", "model.norm.weight", ("hidden",), MINUS_ONE),
        Tensor("output_norm.bias", "model.norm.bias", ("hidden",)),
        OUTPUT,
    ),
    config=config,
    dimensions=decoder_sizes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"),
)
