"""Qwen3.5 with experts: the attention of qwen3_5, and in every layer routed experts beside a gated shared one."""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import qwen3_5
from migrate.architectures.base import Config, Source
from migrate.architectures.common import EMBEDDING, MLP, OUTPUT, decoder_config, experts, optional, with_kind
from migrate.architectures.qwen3_moe import ROUTER, expert_size
from migrate.architectures.tensors import Reshape, Tensor, Unstack
from migrate.errors import GGUFError

GATE, UP, DOWN = experts("mlp.experts", "gate_proj", "up_proj", "down_proj")
_GATE_UP = ("experts", "moe_gate_up", "hidden")
EXPERTS = (
    ROUTER,
    *optional((GATE, UP), "gate and up apart"),
    *optional(
        (
            Tensor("blk.{i}.ffn_gate_up_exps.weight", GATE.target, _GATE_UP, Unstack(0, 2)),
            Tensor("blk.{i}.ffn_gate_up_exps.weight", UP.target, _GATE_UP, Unstack(1, 2)),
        ),
        "gate and up fused",
    ),
    DOWN,
)
SHARED_EXPERT = (
    Tensor("blk.{i}.ffn_gate_shexp.weight", f"{MLP}.shared_expert.gate_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_up_shexp.weight", f"{MLP}.shared_expert.up_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_down_shexp.weight", f"{MLP}.shared_expert.down_proj.weight", ("hidden", "shared")),
    Tensor(
        "blk.{i}.ffn_gate_inp_shexp.weight", f"{MLP}.shared_expert_gate.weight", ("hidden",), Reshape((1, "hidden"))
    ),
)


def config(source: Source) -> Config:
    if source.has("gate and up fused") == source.has("gate and up apart"):
        raise GGUFError(f"{source.header.path.name}: experts' gate and up matrices are missing, or there twice")
    result = decoder_config(source, omit=("intermediate_size",)) | qwen3_5.linear_attention(source)
    source.get("feed_forward_length")
    return result | {
        "rope_parameters": qwen3_5.rope(source, result["head_dim"]),
        "attention_bias": False,
        "num_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "moe_intermediate_size": expert_size(source),
        "shared_expert_intermediate_size": source.integer("expert_shared_feed_forward_length"),
    }


def sizes(config: Config) -> dict[str, int]:
    return qwen3_5.sizes(config) | {
        "moe_gate_up": 2 * config["moe_intermediate_size"],
        "shared": config["shared_expert_intermediate_size"],
    }


ARCHITECTURE = replace(
    qwen3_5.ARCHITECTURE,
    model_type="qwen3_5_moe_text",
    class_name="Qwen3_5MoeForCausalLM",
    gguf_names=("qwen35moe",),
    tensors=(
        EMBEDDING,
        *qwen3_5.NORMS,
        *with_kind(qwen3_5.LINEAR_ATTENTION, "linear_attention"),
        *with_kind(qwen3_5.FULL_ATTENTION, "full_attention"),
        *EXPERTS,
        *SHARED_EXPERT,
        qwen3_5.FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
        "in_proj_ba": ("in_proj_b", "in_proj_a"),
        "experts": ("gate_proj", "up_proj", "down_proj"),
    },
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
)
