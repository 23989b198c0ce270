"""DeepSeek V2 and its relatives: latent attention (MLA), leading dense layers, shared and routed experts.

llama.cpp keeps the up-projection of the latent vector in two parts, the key part transposed (`attn_k_b`, `attn_v_b`);
files made before April 2025 have it whole (`attn_kv_b`) and no `*_mla` keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Layer, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    GATED_MLP,
    INPUT_NORM,
    MLP,
    OUTPUT,
    POST_ATTENTION_NORM,
    experts,
    optional,
    vocab_size,
    with_kind,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Dimensions, MappedTensor, Piece, Tensor
from migrate.errors import GGUFError
from migrate.findings import Status
from migrate.gguf.header import GGUFHeader, TensorInfo

SOFTMAX, SIGMOID = 1, 2
"""Values of `expert_gating_func`."""


def merged_kv_b(target: str, sources: tuple[TensorInfo, ...], sizes: Dimensions) -> MappedTensor:
    """kv_b_proj: head by head the key part, transposed back, then the value part."""
    k_b, v_b = sources
    heads, nope, value, rank = sizes["heads"], sizes["nope"], sizes["v_head"], sizes["kv_rank"]
    pieces: list[Piece] = []
    for head in range(heads):
        pieces.append(Piece((k_b,), range(head * rank, (head + 1) * rank), transposed=True, width=nope))
        pieces.append(Piece((v_b,), range(head * value, (head + 1) * value)))
    return MappedTensor(target, (heads * (nope + value), rank), rank, tuple(pieces))


QUERY = (
    *optional((Tensor("blk.{i}.attn_q.weight", f"{ATTENTION}.q_proj.weight", ("q", "hidden")),), "q"),
    *optional(
        (
            Tensor("blk.{i}.attn_q_a.weight", f"{ATTENTION}.q_a_proj.weight", ("q_rank", "hidden")),
            Tensor("blk.{i}.attn_q_a_norm.weight", f"{ATTENTION}.q_a_layernorm.weight", ("q_rank",)),
            Tensor("blk.{i}.attn_q_b.weight", f"{ATTENTION}.q_b_proj.weight", ("q", "q_rank")),
        ),
        "q_a",
    ),
)
LATENT = (
    Tensor("blk.{i}.attn_kv_a_mqa.weight", f"{ATTENTION}.kv_a_proj_with_mqa.weight", ("kv_a", "hidden")),
    Tensor("blk.{i}.attn_kv_a_norm.weight", f"{ATTENTION}.kv_a_layernorm.weight", ("kv_rank",)),
    Tensor("blk.{i}.attn_kv_b.weight", f"{ATTENTION}.kv_b_proj.weight", ("kv_b", "kv_rank"), group="kv_b"),
    Tensor(
        (
            ("blk.{i}.attn_k_b.weight", ("heads", "kv_rank", "nope")),
            ("blk.{i}.attn_v_b.weight", ("heads", "v_head", "kv_rank")),
        ),
        f"{ATTENTION}.kv_b_proj.weight",
        transform=merged_kv_b,
        group="k_b",
    ),
    Tensor("blk.{i}.attn_output.weight", f"{ATTENTION}.o_proj.weight", ("hidden", "v")),
)
SHARED_EXPERTS = (
    Tensor("blk.{i}.ffn_gate_shexp.weight", f"{MLP}.shared_experts.gate_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_up_shexp.weight", f"{MLP}.shared_experts.up_proj.weight", ("shared", "hidden")),
    Tensor("blk.{i}.ffn_down_shexp.weight", f"{MLP}.shared_experts.down_proj.weight", ("hidden", "shared")),
)
EXPERTS = (
    Tensor("blk.{i}.ffn_gate_inp.weight", f"{MLP}.gate.weight", ("experts", "hidden"), kind="moe"),
    *experts("mlp.experts", "gate_proj", "up_proj", "down_proj", kind="moe"),
    *with_kind(SHARED_EXPERTS, "moe", group="shared experts"),
)
TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    *QUERY,
    *LATENT,
    POST_ATTENTION_NORM,
    *with_kind(GATED_MLP, "dense"),
    *EXPERTS,
    FINAL_NORM,
    OUTPUT,
)


def config(source: Source) -> Config:
    return decoder(source) | {
        "topk_method": "greedy" if source.integer("expert_group_count", 1) == 1 else "group_limited_greedy",
        "scoring_func": "softmax",
    }


def decoder(source: Source) -> Config:
    """What V2 and V3 have in common."""
    if not (source.has("kv_b") or source.has("k_b")):
        raise GGUFError(f"{source.header.path.name}: tensor 'blk.0.attn_kv_b.weight' is missing, and its two parts too")
    heads, rope = source.integer("attention.head_count"), source.integer("rope.dimension_count")
    key = source.integer("attention.key_length_mla", source.integer("attention.key_length", 0))
    value = source.integer("attention.value_length_mla", source.integer("attention.value_length", 0))
    source.integer("attention.head_count_kv", 1)
    return {
        "vocab_size": vocab_size(source),
        "hidden_size": source.integer("embedding_length"),
        "intermediate_size": source.integer("feed_forward_length"),
        "moe_intermediate_size": source.integer("expert_feed_forward_length"),
        "num_hidden_layers": source.layers(),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": "silu",
        "max_position_embeddings": source.integer("context_length"),
        "rms_norm_eps": source.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": not source.has("output"),
        "rope_parameters": _rope(source, rope),
        "attention_bias": False,
        "q_lora_rank": source.integer("attention.q_lora_rank") if source.has("q_a") else None,
        "kv_lora_rank": source.integer("attention.kv_lora_rank"),
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": key - rope,
        "qk_head_dim": key,
        "v_head_dim": value,
        "head_dim": rope,
        "first_k_dense_replace": source.integer("leading_dense_block_count", 0),
        "moe_layer_freq": 1,
        "n_routed_experts": source.integer("expert_count"),
        "n_shared_experts": source.integer("expert_shared_count", 0) or None,
        "num_experts_per_tok": source.integer("expert_used_count"),
        "routed_scaling_factor": source.number("expert_weights_scale", 0.0) or 1.0,
        "norm_topk_prob": source.boolean("expert_weights_norm", False),
        "n_group": source.integer("expert_group_count", 1) or 1,
        "topk_group": source.integer("expert_group_used_count", 1) or 1,
    }


def _rope(source: Source, rotated: int) -> dict[str, Any]:
    """YaRN with DeepSeek's two scales. llama.cpp stores a tenth of one and takes the other for equal."""
    parameters = rope_parameters(source, rotated)
    stored = source.number("rope.scaling.yarn_log_multiplier", 0.0)
    if stored and parameters["rope_type"] == "yarn":
        scale = shortest_float(round(stored * 10, 6))
        parameters |= {"mscale": scale, "mscale_all_dim": scale}
        reason = (
            "mscale is not in the file; llama.cpp takes it for equal to mscale_all_dim, as DeepSeek's models have it"
        )
        key = "rope.scaling.yarn_log_multiplier"
        source.ledger.add(key, Status.EQUIVALENT, stored, f"mscale, mscale_all_dim {scale:g}", reason)
    return parameters


def layer(config: Mapping[str, Any], index: int) -> Layer:
    return Layer(frozenset({"dense" if index < config["first_k_dense_replace"] else "moe"}))


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    heads, nope, value = config["num_attention_heads"], config["qk_nope_head_dim"], config["v_head_dim"]
    return {
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "intermediate": config["intermediate_size"],
        "heads": heads,
        "nope": nope,
        "v_head": value,
        "q": heads * config["qk_head_dim"],
        "v": heads * value,
        "q_rank": config["q_lora_rank"] or 0,
        "kv_rank": config["kv_lora_rank"],
        "kv_a": config["kv_lora_rank"] + config["qk_rope_head_dim"],
        "kv_b": heads * (nope + value),
        "experts": config["n_routed_experts"],
        "moe_intermediate": config["moe_intermediate_size"],
        "shared": (config["n_shared_experts"] or 0) * config["moe_intermediate_size"],
    }


def kv_bytes(config: Mapping[str, Any], cache_bytes: int) -> int:
    """The latent vector and the rotary part, once for all heads."""
    per_layer = int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])
    return int(config["num_hidden_layers"]) * per_layer * cache_bytes


def is_v3(header: GGUFHeader) -> bool:
    """V3 scores experts with a sigmoid and a correction bias; V2 with a softmax."""
    return header.field("expert_gating_func") == SIGMOID or any("exp_probs_b" in name for name in header.tensors)


ARCHITECTURE = Architecture(
    model_type="deepseek_v2",
    class_name="DeepseekV2ForCausalLM",
    gguf_names=("deepseek2",),
    tensors=TENSORS,
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    fused={
        "gate_up_proj": ("gate_proj", "up_proj"),
        "fused_qkv_a_proj": ("q_a_proj", "kv_a_proj_with_mqa"),
        "experts": ("gate_proj", "up_proj", "down_proj"),
    },
    lora_targets=(
        *("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ),
    ignored_keys=("vocab_size", "expert_gating_func", "attention.key_length", "attention.value_length"),
)
