"""Qwen1.5-MoE and Qwen2-57B-A14B: Qwen2 with experts in every layer and one shared expert behind a gate.

llama.cpp does not normalise the weights of the chosen experts here, and neither did the two models of the family. Files
from before the experts had keys of their own share `feed_forward_length` among the experts in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures import qwen2
from migrate.architectures.base import Architecture, Config, Source
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
    decoder_sizes,
    experts,
    kv_bytes,
)
from migrate.architectures.qwen3_moe import ROUTER, expert_size
from migrate.architectures.rope import ROPE_FREQS
from migrate.architectures.tensors import Reshape, Tensor

SHARED = f"{MLP}.shared_expert"
SHARED_EXPERT = (
    # One row; old files have it as a vector.
    Tensor("blk.{i}.ffn_gate_inp_shexp.weight", f"{SHARED}_gate.weight", (1, "hidden"), Reshape((1, "hidden"))),
    Tensor("blk.{i}.ffn_gate_shexp.weight", f"{SHARED}.gate_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_up_shexp.weight", f"{SHARED}.up_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_down_shexp.weight", f"{SHARED}.down_proj.weight", ("hidden", "shared")),
)
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "experts": ("gate_proj", "up_proj", "down_proj"),
}


def config(source: Source) -> Config:
    return qwen2.config(source) | sparse(source) | {"norm_topk_prob": False, "qkv_bias": True}


def sparse(source: Source) -> Config:
    """Experts in every layer, and a shared one."""
    return {
        "num_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "moe_intermediate_size": expert_size(source),
        "shared_expert_intermediate_size": source.integer(
            "expert_shared_feed_forward_length", source.integer("feed_forward_length", 0)
        ),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return decoder_sizes(config) | {"shared": config["shared_expert_intermediate_size"]}


ARCHITECTURE = Architecture(
    model_type="qwen2_moe",
    class_name="Qwen2MoeForCausalLM",
    gguf_names=("qwen2moe",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        *QKV_BIASES,
        ATTENTION_OUTPUT,
        POST_ATTENTION_NORM,
        ROUTER,
        *experts("mlp.experts", "gate_proj", "up_proj", "down_proj"),
        *SHARED_EXPERT,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    consumed=(ROPE_FREQS,),
)
