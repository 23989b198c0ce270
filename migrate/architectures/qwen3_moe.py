"""Qwen3 with experts in every layer. llama.cpp always normalises the weights of the chosen experts."""

from __future__ import annotations

from migrate.architectures import qwen3
from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import EMBEDDING, FINAL_NORM, MLP, OUTPUT, decoder_sizes, experts, kv_bytes
from migrate.architectures.rope import ROPE_FREQS
from migrate.architectures.tensors import Tensor

ROUTER = Tensor("blk.{i}.ffn_gate_inp.weight", f"{MLP}.gate.weight", ("experts", "hidden"))


def config(source: Source) -> Config:
    return qwen3.config(source) | {
        "num_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "moe_intermediate_size": expert_size(source),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def expert_size(source: Source) -> int:
    """`expert_feed_forward_length`; files without it share the width of the dense layers among the experts in use."""
    used = source.integer("expert_used_count", 1) or 1
    return source.integer("expert_feed_forward_length", source.integer("feed_forward_length", 0) // used)


ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    class_name="Qwen3MoeForCausalLM",
    gguf_names=("qwen3moe",),
    tensors=(
        EMBEDDING,
        *qwen3.ATTENTION_TENSORS,
        ROUTER,
        *experts("mlp.experts", "gate_proj", "up_proj", "down_proj"),
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "experts": ("gate_proj", "up_proj", "down_proj")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    consumed=(ROPE_FREQS,),
)
