"""Qwen3-Next: the mixed attention of Qwen3.5 with experts in every layer and a shared one behind a gate.

The checkpoint projects q, k, v and z of linear attention with one matrix, key head by key head; llama.cpp separates q,
k and v of all heads from z. Files of the architecture's first weeks have the matrix as it was (`ssm_in`). Value heads
keep their order here, unlike Qwen3.5's. llama.cpp always normalises the weights of the chosen experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    EMBEDDING,
    OUTPUT,
    decoder_config,
    experts,
    kv_bytes,
    with_kind,
)
from migrate.architectures.qwen2_moe import FUSED, SHARED_EXPERT, sparse
from migrate.architectures.qwen3_5 import FINAL_NORM, FULL_ATTENTION, LINEAR, NORMS, layer, linear_attention
from migrate.architectures.qwen3_5 import sizes as mixed_sizes
from migrate.architectures.qwen3_moe import ROUTER
from migrate.architectures.stablelm import partial_rope
from migrate.architectures.tensors import Change, Dimensions, MappedTensor, Operation, Piece, Reshape, Tensor
from migrate.gguf.header import TensorInfo


def by_key_head(target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
    """Per key head: its rows of q and of k, then the rows of v and of z of its value heads."""
    qkv, z = sources
    heads, key = sizes["linear_k_heads"], sizes["linear_qk"] // sizes["linear_k_heads"] // 2
    value = sizes["linear_v"] // heads
    pieces = []
    for head in range(heads):
        q, k, v = head * key, (heads + head) * key, 2 * heads * key + head * value
        pieces += [Piece((qkv,), range(first, first + rows)) for first, rows in ((q, key), (k, key), (v, value))]
        pieces.append(Piece((z,), range(head * value, (head + 1) * value)))
    return MappedTensor(target, (sizes["linear_qkvz"], sizes["hidden"]), sizes["hidden"], tuple(pieces))


LINEAR_ATTENTION = (
    Tensor("blk.{i}.ssm_a", f"{LINEAR}.A_log", ("linear_v_heads",), Change(Operation.LOG_NEGATIVE)),
    Tensor(
        "blk.{i}.ssm_conv1d.weight",
        f"{LINEAR}.conv1d.weight",
        ("linear_qkv", "conv_kernel"),
        Reshape(("linear_qkv", 1, "conv_kernel")),
    ),
    Tensor("blk.{i}.ssm_dt.bias", f"{LINEAR}.dt_bias", ("linear_v_heads",)),
    Tensor("blk.{i}.ssm_ba.weight", f"{LINEAR}.in_proj_ba.weight", ("linear_ba", "hidden")),
    Tensor(
        (("blk.{i}.attn_qkv.weight", ("linear_qkv", "hidden")), ("blk.{i}.attn_gate.weight", ("linear_v", "hidden"))),
        f"{LINEAR}.in_proj_qkvz.weight",
        transform=by_key_head,
        group="separate z",
    ),
    Tensor("blk.{i}.ssm_in.weight", f"{LINEAR}.in_proj_qkvz.weight", ("linear_qkvz", "hidden"), group="joint z"),
    Tensor("blk.{i}.ssm_norm.weight", f"{LINEAR}.norm.weight", ("linear_v_dim",)),
    Tensor("blk.{i}.ssm_out.weight", f"{LINEAR}.out_proj.weight", ("hidden", "linear_v")),
)


def config(source: Source) -> Config:
    if not source.has("separate z") and not source.has("joint z"):
        raise source.refuse("no layers of linear attention")
    result = decoder_config(source) | linear_attention(source) | sparse(source)
    keys, values = result["linear_num_key_heads"], result["linear_num_value_heads"]
    if keys < 1 or values % keys:
        raise source.refuse(f"{values} value heads for {keys} key heads of linear attention")
    return result | {
        "rope_parameters": partial_rope(source, result["head_dim"]),
        "norm_topk_prob": True,
        "attention_bias": False,
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    mixed = mixed_sizes(config)
    return mixed | {
        "linear_ba": 2 * mixed["linear_v_heads"],
        "linear_qkvz": mixed["linear_qkv"] + mixed["linear_v"],
        "shared": config["shared_expert_intermediate_size"],
    }


ARCHITECTURE = Architecture(
    model_type="qwen3_next",
    class_name="Qwen3NextForCausalLM",
    gguf_names=("qwen3next",),
    tensors=(
        EMBEDDING,
        *NORMS,
        *with_kind(LINEAR_ATTENTION, "linear_attention"),
        *with_kind(FULL_ATTENTION, "full_attention"),
        ROUTER,
        *experts("mlp.experts", "gate_proj", "up_proj", "down_proj"),
        *SHARED_EXPERT,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
)
