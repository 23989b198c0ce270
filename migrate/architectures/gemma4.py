"""Gemma 4, text: two sizes of heads, layers that borrow the keys and values of earlier ones, embeddings per layer.

Every kind of layer has its own head size and number of kv heads; with `attention_k_eq_v` full layers have no values of
their own. The larger models have experts beside the dense block. Norms are stored as they are. The tensor `rope_freqs`
says which part of a full layer's head is rotated: frequencies that are divided by 1e30 stand still.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Layer, Source, shortest_float
from migrate.architectures.common import (
    ATTENTION,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    LAYER,
    LORA_TARGETS,
    OUTPUT,
    decoder_config,
    decoder_sizes,
    norm,
    optional,
    with_kind,
)
from migrate.architectures.gemma2 import layer_types
from migrate.architectures.rope import ROPE_FREQS
from migrate.architectures.tensors import Fuse, Tensor
from migrate.errors import GGUFError

FULL, SLIDING = "full_attention", "sliding_attention"
_STILL = 1e20
"""A frequency divided by more than this does not rotate within any context."""

NORMS = (
    norm("attn_norm", "input_layernorm"),
    norm("post_attention_norm", "post_attention_layernorm"),
    norm("ffn_norm", "pre_feedforward_layernorm"),
    norm("post_ffw_norm", "post_feedforward_layernorm"),
)
QUERY = (
    Tensor("blk.{i}.attn_q.weight", f"{ATTENTION}.q_proj.weight", ("q", "hidden")),
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("head_dim",)),
    Tensor("blk.{i}.attn_output.weight", f"{ATTENTION}.o_proj.weight", ("hidden", "q")),
)
KEY = (
    Tensor("blk.{i}.attn_k.weight", f"{ATTENTION}.k_proj.weight", ("kv", "hidden")),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("head_dim",)),
)
VALUE = (Tensor("blk.{i}.attn_v.weight", f"{ATTENTION}.v_proj.weight", ("kv", "hidden")),)
PER_LAYER_INPUT = (
    Tensor("blk.{i}.inp_gate.weight", f"{LAYER}.per_layer_input_gate.weight", ("per_layer", "hidden")),
    Tensor("blk.{i}.proj.weight", f"{LAYER}.per_layer_projection.weight", ("hidden", "per_layer")),
    norm("post_norm", "post_per_layer_input_norm"),
)
PER_LAYER_EMBEDDING = (
    Tensor("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight", ("vocab_per_layer", "per_layers")),
    Tensor("per_layer_model_proj.weight", "model.per_layer_model_projection.weight", ("per_layers", "hidden")),
    Tensor("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight", ("per_layer",)),
)
_WIDE, _TALL = ("experts", "moe_intermediate", "hidden"), ("experts", "hidden", "moe_intermediate")
MOE = (
    Tensor("blk.{i}.ffn_gate_inp.weight", f"{LAYER}.router.proj.weight", ("experts", "hidden"), group="experts"),
    Tensor("blk.{i}.ffn_gate_inp.scale", f"{LAYER}.router.scale", ("hidden",), group="experts"),
    Tensor("blk.{i}.ffn_down_exps.scale", f"{LAYER}.router.per_expert_scale", ("experts",), group="experts"),
    Tensor(
        "blk.{i}.ffn_gate_up_exps.weight",
        f"{LAYER}.experts.gate_up_proj",
        ("experts", "moe_gate_up", "hidden"),
        group="gate and up fused",
    ),
    Tensor(
        (("blk.{i}.ffn_gate_exps.weight", _WIDE), ("blk.{i}.ffn_up_exps.weight", _WIDE)),
        f"{LAYER}.experts.gate_up_proj",
        transform=Fuse("experts", ("experts", "moe_gate_up", "hidden")),
        group="gate and up apart",
    ),
    Tensor("blk.{i}.ffn_down_exps.weight", f"{LAYER}.experts.down_proj", _TALL, group="experts"),
    *optional(
        (
            norm("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
            norm("post_ffw_norm_1", "post_feedforward_layernorm_1"),
            norm("post_ffw_norm_2", "post_feedforward_layernorm_2"),
        ),
        "experts",
    ),
)


def config(source: Source) -> Config:
    layers = source.layers()
    kinds = layer_types(source, layers, 6)
    feed_forward = source.per_layer("feed_forward_length", layers)
    result = decoder_config(source, omit=("head_dim", "num_key_value_heads", "intermediate_size", "hidden_act"))
    global_head, head = source.integer("attention.key_length"), source.integer("attention.key_length_swa")
    source.integer("attention.value_length"), source.integer("attention.value_length_swa", head)
    _check_sliding_rotation(source, head)
    per_layer_width = source.integer("embedding_length_per_layer_input", 0)
    cap = source.number("final_logit_softcapping", 0.0)
    return (
        result
        | _kv_heads(source, kinds)
        | _experts(source)
        | {
            "intermediate_size": feed_forward[0],
            "head_dim": head,
            "global_head_dim": global_head,
            "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": kinds,
            "sliding_window": source.integer("attention.sliding_window"),
            "rope_parameters": {
                FULL: {
                    "rope_type": "proportional",
                    "rope_theta": source.number("rope.freq_base", 1_000_000.0),
                    "partial_rotary_factor": _rotated_part(source, global_head),
                },
                SLIDING: {"rope_type": "default", "rope_theta": source.number("rope.freq_base_swa", 10_000.0)},
            },
            "final_logit_softcapping": cap or None,
            "num_kv_shared_layers": source.integer("attention.shared_kv_layers", 0),
            "use_double_wide_mlp": _double_wide(source, feed_forward),
            "hidden_size_per_layer_input": per_layer_width,
            "vocab_size_per_layer_input": (source.shape("per_layer_token_embd.weight") or (result["vocab_size"],))[0],
            "attention_bias": False,
        }
    )


def _kv_heads(source: Source, kinds: list[str]) -> Config:
    """Heads by kind of layer; full layers without values of their own share them with the keys."""
    heads = source.per_layer("attention.head_count_kv", len(kinds))
    by_kind = {kind: {n for k, n in zip(kinds, heads, strict=True) if k == kind} for kind in (FULL, SLIDING)}
    if any(len(counts) > 1 for counts in by_kind.values()):
        raise source.refuse(f"layers of one kind with different numbers of kv heads: {by_kind}")
    full = next(iter(by_kind[FULL]), heads[0])
    sliding = next(iter(by_kind[SLIDING]), full)
    own = [i for i, kind in enumerate(kinds) if kind == FULL and f"blk.{i}.attn_k.weight" in source.header.tensors]
    shared = bool(own) and not any(f"blk.{i}.attn_v.weight" in source.header.tensors for i in own)
    if full != sliding and not shared:
        raise source.refuse(f"{full} kv heads in full and {sliding} in sliding layers, which have values of their own")
    return {
        "num_key_value_heads": sliding,
        "num_global_key_value_heads": full if shared else None,
        "attention_k_eq_v": shared,
    }


def _experts(source: Source) -> Config:
    if not source.has("experts"):
        return {"enable_moe_block": False, "num_experts": None, "top_k_experts": None, "moe_intermediate_size": None}
    if source.has("gate and up fused") == source.has("gate and up apart"):
        raise GGUFError(f"{source.header.path.name}: experts' gate and up matrices are missing, or there twice")
    return {
        "enable_moe_block": True,
        "num_experts": source.integer("expert_count"),
        "top_k_experts": source.integer("expert_used_count"),
        "moe_intermediate_size": source.integer("expert_feed_forward_length"),
    }


def _double_wide(source: Source, feed_forward: list[int]) -> bool:
    """Whether the layers that borrow keys and values have an MLP of twice the width."""
    shared = source.integer("attention.shared_kv_layers", 0)
    first = len(feed_forward) - shared
    own, borrowing = set(feed_forward[:first]), set(feed_forward[first:])
    if len(own) != 1 or len(borrowing) > 1 or borrowing - {feed_forward[0], 2 * feed_forward[0]}:
        raise source.refuse(f"layers of widths {feed_forward}; the class has one, doubled in layers that share values")
    return bool(borrowing) and borrowing != own


def _rotated_part(source: Source, head_dim: int) -> float:
    factors = source.floats(ROPE_FREQS)
    if factors is None:
        return 1.0
    moving = sum(factor < _STILL for factor in factors)
    if any(factor != 1.0 for factor in factors[:moving]) or len(factors) != head_dim // 2:
        raise source.refuse(f"{ROPE_FREQS} is not Gemma 4's: a head's first part rotates, the rest stands still")
    source.integer("rope.dimension_count", head_dim)
    return shortest_float(moving / len(factors))


def _check_sliding_rotation(source: Source, head_dim: int) -> None:
    if (rotated := source.integer("rope.dimension_count_swa", head_dim)) != head_dim:
        raise source.refuse(f"{rotated} of {head_dim} values per head are rotated in sliding layers; expected all")


def layer(config: Mapping[str, Any], index: int) -> Layer:
    kind = config["layer_types"][index]
    full = kind == FULL
    borrows = index >= config["num_hidden_layers"] - config["num_kv_shared_layers"]
    head_dim = config["global_head_dim"] if full else config["head_dim"]
    kv_heads = config["num_key_value_heads"]
    if full and config["attention_k_eq_v"]:
        kv_heads = config["num_global_key_value_heads"] or kv_heads
    kinds = {kind} if borrows else {kind, "keys"}
    if not borrows and not (full and config["attention_k_eq_v"]):
        kinds.add("values")
    wide = 2 if borrows and config["use_double_wide_mlp"] else 1
    return Layer(
        frozenset(kinds),
        {
            "head_dim": head_dim,
            "q": config["num_attention_heads"] * head_dim,
            "kv": kv_heads * head_dim,
            "intermediate": config["intermediate_size"] * wide,
        },
    )


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    moe, width = config["moe_intermediate_size"] or 0, config["hidden_size_per_layer_input"]
    return decoder_sizes(config) | {
        "vocab_per_layer": config["vocab_size_per_layer_input"],
        "per_layer": width,
        "per_layers": width * config["num_hidden_layers"],
        "moe_intermediate": moe,
        "moe_gate_up": 2 * moe,
        "experts": config["num_experts"] or 0,
    }


def kv_bytes(config: Mapping[str, Any], cache_bytes: int) -> int:
    """Full layers with keys of their own; sliding layers stop growing, borrowing ones keep nothing."""
    own = range(config["num_hidden_layers"] - config["num_kv_shared_layers"])
    full = [i for i in own if config["layer_types"][i] == FULL]
    return sum(2 * layer(config, i).sizes["kv"] for i in full) * cache_bytes


ARCHITECTURE = Architecture(
    model_type="gemma4_text",
    class_name="Gemma4ForCausalLM",
    gguf_names=("gemma4",),
    tensors=(
        EMBEDDING,
        *optional(PER_LAYER_EMBEDDING, "per-layer embeddings"),
        *NORMS,
        *QUERY,
        *with_kind(KEY, "keys"),
        *with_kind(VALUE, "values"),
        *GATED_MLP,
        Tensor("blk.{i}.layer_output_scale.weight", f"{LAYER}.layer_scalar", (1,), group="layer scale"),
        *optional(PER_LAYER_INPUT, "per-layer inputs"),
        *MOE,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    float16=False,
    lora_targets=LORA_TARGETS,
    consumed=(ROPE_FREQS,),
    left_out=(
        (
            r"blk\.\d+\.attn_(k|v|k_norm)\.weight",
            "the layer borrows keys and values of an earlier one; nothing uses these",
        ),
    ),
)
