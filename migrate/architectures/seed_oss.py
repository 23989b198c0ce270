"""Seed-OSS: a llama whose q, k and v have biases, and o may have one."""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    INPUT_NORM,
    LORA_TARGETS,
    OUTPUT,
    QKV,
    QKV_BIASES,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    norm,
    optional,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor

O_BIAS = Tensor("blk.{i}.attn_output.bias", f"{ATTENTION}.o_proj.bias", ("hidden",), group="output bias")


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "attention_bias": source.has("qkv biases"),
        "attention_out_bias": source.has("output bias"),
        "mlp_bias": False,
    }


ARCHITECTURE = Architecture(
    model_type="seed_oss",
    class_name="SeedOssForCausalLM",
    gguf_names=("seed_oss",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        *optional(QKV_BIASES, "qkv biases"),
        ATTENTION_OUTPUT,
        O_BIAS,
        norm("post_attention_norm", "post_attention_layernorm"),
        *GATED_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=decoder_sizes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
)
