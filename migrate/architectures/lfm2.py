"""LFM2: layers of short convolutions, and attention in those that have kv heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Layer, Source
from migrate.architectures.common import (
    ATTENTION,
    EMBEDDING,
    LAYER,
    OUTPUT,
    QKV,
    decoder_config,
    decoder_sizes,
    kv_bytes,
    norm,
    with_kind,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Reshape, Tensor

CONV, FULL = "conv", "full_attention"
ATTENTION_TENSORS = (
    *QKV,
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_layernorm.weight", ("head_dim",)),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_layernorm.weight", ("head_dim",)),
    Tensor("blk.{i}.attn_output.weight", f"{ATTENTION}.out_proj.weight", ("hidden", "q")),
)
CONVOLUTION = (
    Tensor(
        "blk.{i}.shortconv.conv.weight",
        f"{LAYER}.conv.conv.weight",
        ("hidden", "conv_length"),
        Reshape(("hidden", 1, "conv_length")),
    ),
    Tensor("blk.{i}.shortconv.in_proj.weight", f"{LAYER}.conv.in_proj.weight", ("conv_in", "hidden")),
    Tensor("blk.{i}.shortconv.out_proj.weight", f"{LAYER}.conv.out_proj.weight", ("hidden", "hidden")),
)
MLP = (
    Tensor("blk.{i}.ffn_gate.weight", f"{LAYER}.feed_forward.w1.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_up.weight", f"{LAYER}.feed_forward.w3.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_down.weight", f"{LAYER}.feed_forward.w2.weight", ("hidden", "intermediate")),
)


def config(source: Source) -> Config:
    omitted = ("num_key_value_heads", "rms_norm_eps", "hidden_act")
    result = decoder_config(source, head_dim_key=False, omit=omitted)
    heads = source.per_layer("attention.head_count_kv", result["num_hidden_layers"])
    counts = {count for count in heads if count}
    if len(counts) > 1:
        raise source.refuse(f"layers with {sorted(counts)} kv heads; the class has one number")
    if source.integer("attention.sliding_window", 0):
        raise source.refuse("attention with a sliding window; the class has none")
    head_dim = result["hidden_size"] // result["num_attention_heads"]
    return result | {
        "num_key_value_heads": counts.pop() if counts else result["num_attention_heads"],
        "norm_eps": source.number("attention.layer_norm_rms_epsilon"),
        "layer_types": [FULL if count else CONV for count in heads],
        "conv_L_cache": source.integer("shortconv.l_cache"),
        "conv_bias": False,
        "block_auto_adjust_ff_dim": False,
        # vLLM reads these two; the class in transformers does not have them.
        "block_dim": result["hidden_size"],
        "conv_dim": result["hidden_size"],
        "rope_parameters": rope_parameters(source, head_dim),
    }


def layer(config: Mapping[str, Any], index: int) -> Layer:
    return Layer(frozenset({config["layer_types"][index]}))


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return decoder_sizes(config) | {"conv_length": config["conv_L_cache"], "conv_in": 3 * config["hidden_size"]}


ARCHITECTURE = Architecture(
    model_type="lfm2",
    class_name="Lfm2ForCausalLM",
    gguf_names=("lfm2",),
    tensors=(
        EMBEDDING,
        norm("attn_norm", "operator_norm"),
        *with_kind(ATTENTION_TENSORS, FULL),
        *with_kind(CONVOLUTION, CONV),
        norm("ffn_norm", "ffn_norm"),
        *MLP,
        Tensor("token_embd_norm.weight", "model.embedding_norm.weight", ("hidden",)),
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "w1": ("w1", "w3")},
    lora_targets=("q_proj", "k_proj", "v_proj", "out_proj", "w1", "w2", "w3", "in_proj"),
)
