"""Qwen3.5, dense: three layers of linear attention (gated delta rule) for every one of full attention, gated.

Norms are stored plus one, the delta rule's own excepted. Where there are more value heads than key heads, llama.cpp
stores the value heads of all key heads in turn (head j of key 0, head j of key 1, ...); the checkpoint stores those of
one key head together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migrate.architectures.base import Architecture, Config, Layer, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    GATED_MLP,
    LAYER,
    OUTPUT,
    decoder_config,
    decoder_sizes,
    kv_bytes,
    norm,
    with_kind,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import MINUS_ONE, Columns, Dimensions, Operation, Rows, Tensor

LINEAR = f"{LAYER}.linear_attn"


def value_heads(width: str, first: str = "") -> Callable[[Dimensions], Sequence[int]]:
    """Rows in the checkpoint's order of value heads, each `width` rows, after `first` rows that stay."""

    def order(sizes: Dimensions) -> Sequence[int]:
        keys, values = sizes["linear_k_heads"], sizes["linear_v_heads"]
        rows, skip = sizes[width], sizes[first] if first else 0
        if keys == values:
            return range(skip + values * rows)
        heads = [j * keys + key for key in range(keys) for j in range(values // keys)]
        return [*range(skip), *(skip + head * rows + row for head in heads for row in range(rows))]

    return order


_ONE, _HEAD, _QKV = value_heads("one"), value_heads("linear_v_dim"), value_heads("linear_v_dim", "linear_qk")
LINEAR_ATTENTION = (
    Tensor("blk.{i}.ssm_a", f"{LINEAR}.A_log", ("linear_v_heads",), Rows(_ONE, operation=Operation.LOG_NEGATIVE)),
    Tensor(
        "blk.{i}.ssm_conv1d.weight",
        f"{LINEAR}.conv1d.weight",
        ("linear_qkv", "conv_kernel"),
        Rows(_QKV, ("linear_qkv", 1, "conv_kernel")),
    ),
    Tensor("blk.{i}.ssm_dt.bias", f"{LINEAR}.dt_bias", ("linear_v_heads",), Rows(_ONE)),
    Tensor("blk.{i}.ssm_alpha.weight", f"{LINEAR}.in_proj_a.weight", ("linear_v_heads", "hidden"), Rows(_ONE)),
    Tensor("blk.{i}.ssm_beta.weight", f"{LINEAR}.in_proj_b.weight", ("linear_v_heads", "hidden"), Rows(_ONE)),
    Tensor("blk.{i}.attn_qkv.weight", f"{LINEAR}.in_proj_qkv.weight", ("linear_qkv", "hidden"), Rows(_QKV)),
    Tensor("blk.{i}.attn_gate.weight", f"{LINEAR}.in_proj_z.weight", ("linear_v", "hidden"), Rows(_HEAD)),
    Tensor("blk.{i}.ssm_norm.weight", f"{LINEAR}.norm.weight", ("linear_v_dim",)),
    Tensor("blk.{i}.ssm_out.weight", f"{LINEAR}.out_proj.weight", ("hidden", "linear_v"), Columns(_HEAD)),
)
FULL_ATTENTION = (
    Tensor("blk.{i}.attn_q.weight", f"{ATTENTION}.q_proj.weight", ("gated_q", "hidden")),
    Tensor("blk.{i}.attn_k.weight", f"{ATTENTION}.k_proj.weight", ("kv", "hidden")),
    Tensor("blk.{i}.attn_v.weight", f"{ATTENTION}.v_proj.weight", ("kv", "hidden")),
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("head_dim",), MINUS_ONE),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("head_dim",), MINUS_ONE),
    ATTENTION_OUTPUT,
)
NORMS = (
    norm("attn_norm", "input_layernorm", transform=MINUS_ONE),
    norm("post_attention_norm", "post_attention_layernorm", transform=MINUS_ONE),
)
FINAL_NORM = Tensor("output_norm.weight", "model.norm.weight", ("hidden",), MINUS_ONE)


def config(source: Source) -> Config:
    result = decoder_config(source) | linear_attention(source)
    return result | {"rope_parameters": rope(source, result["head_dim"]), "attention_bias": False}


def linear_attention(source: Source) -> Config:
    """Sizes of the linear layers, and which layers they are."""
    layers, value_heads = source.layers(), source.integer("ssm.time_step_rank")
    inner = source.integer("ssm.inner_size")
    if not value_heads or inner % value_heads:
        raise source.refuse(f"{inner} values in {value_heads} heads of linear attention")
    return {
        "linear_conv_kernel_dim": source.integer("ssm.conv_kernel"),
        "linear_key_head_dim": source.integer("ssm.state_size"),
        "linear_num_key_heads": source.integer("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": inner // value_heads,
        "layer_types": _layer_types(source, layers),
    }


def _layer_types(source: Source, layers: int) -> list[str]:
    interval = source.integer("full_attention_interval", 4)
    if source.get("attention.recurrent_layers") is None:
        linear = [bool((i + 1) % interval) if interval else True for i in range(layers)]
    else:
        linear = source.flags("attention.recurrent_layers", layers)
    return ["linear_attention" if value else "full_attention" for value in linear]


def rope(source: Source, head_dim: int) -> dict[str, Any]:
    rotated = source.integer("rope.dimension_count", head_dim // 4)
    sections = list(source.get("rope.dimension_sections", (11, 11, 10)))[:3]
    return rope_parameters(source, rotated, default_theta=10_000_000.0) | {
        "partial_rotary_factor": shortest_float(rotated / head_dim),
        "mrope_interleaved": True,
        "mrope_section": sections,
    }


def layer(config: Mapping[str, Any], index: int) -> Layer:
    return Layer(frozenset({config["layer_types"][index]}))


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    plain = decoder_sizes(config)
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
    return plain | {
        "one": 1,
        "gated_q": 2 * plain["q"],
        "linear_k_heads": config["linear_num_key_heads"],
        "linear_v_heads": config["linear_num_value_heads"],
        "linear_v_dim": config["linear_value_head_dim"],
        "linear_v": values,
        "linear_qk": 2 * keys,
        "linear_qkv": 2 * keys + values,
        "conv_kernel": config["linear_conv_kernel_dim"],
    }


ARCHITECTURE = Architecture(
    model_type="qwen3_5_text",
    class_name="Qwen3_5ForCausalLM",
    gguf_names=("qwen35",),
    tensors=(
        EMBEDDING,
        *NORMS,
        *with_kind(LINEAR_ATTENTION, "linear_attention"),
        *with_kind(FULL_ATTENTION, "full_attention"),
        *GATED_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
        "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
        "in_proj_ba": ("in_proj_b", "in_proj_a"),
    },
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
