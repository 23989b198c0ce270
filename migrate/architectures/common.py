"""What most decoders share: lines of the tensor table, keys of config.json, sizes. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from migrate.architectures.base import Config, Source
from migrate.architectures.tensors import Tensor, Transform, Unstack

LAYER = "model.layers.{i}"
ATTENTION, MLP = f"{LAYER}.self_attn", f"{LAYER}.mlp"

EMBEDDING = Tensor("token_embd.weight", "model.embed_tokens.weight", ("vocab", "hidden"))
FINAL_NORM = Tensor("output_norm.weight", "model.norm.weight", ("hidden",))
OUTPUT = Tensor("output.weight", "lm_head.weight", ("vocab", "hidden"), group="output")
INPUT_NORM = Tensor("blk.{i}.attn_norm.weight", f"{LAYER}.input_layernorm.weight", ("hidden",))
POST_ATTENTION_NORM = Tensor("blk.{i}.ffn_norm.weight", f"{LAYER}.post_attention_layernorm.weight", ("hidden",))
QKV = (
    Tensor("blk.{i}.attn_q.weight", f"{ATTENTION}.q_proj.weight", ("q", "hidden")),
    Tensor("blk.{i}.attn_k.weight", f"{ATTENTION}.k_proj.weight", ("kv", "hidden")),
    Tensor("blk.{i}.attn_v.weight", f"{ATTENTION}.v_proj.weight", ("kv", "hidden")),
)
ATTENTION_OUTPUT = Tensor("blk.{i}.attn_output.weight", f"{ATTENTION}.o_proj.weight", ("hidden", "q"))
QKV_BIASES = (
    Tensor("blk.{i}.attn_q.bias", f"{ATTENTION}.q_proj.bias", ("q",)),
    Tensor("blk.{i}.attn_k.bias", f"{ATTENTION}.k_proj.bias", ("kv",)),
    Tensor("blk.{i}.attn_v.bias", f"{ATTENTION}.v_proj.bias", ("kv",)),
)
QK_NORMS = (
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("head_dim",)),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("head_dim",)),
)
GATED_MLP = (
    Tensor("blk.{i}.ffn_gate.weight", f"{MLP}.gate_proj.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_up.weight", f"{MLP}.up_proj.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_down.weight", f"{MLP}.down_proj.weight", ("hidden", "intermediate")),
)
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def with_kind(tensors: Sequence[Tensor], kind: str, group: str = "") -> tuple[Tensor, ...]:
    """The same lines, for layers of one kind only."""
    return tuple(Tensor(t.source, t.target, t.shape, t.transform, group or t.group, kind) for t in tensors)


def with_transform(tensor: Tensor, transform: Transform) -> Tensor:
    return Tensor(tensor.source, tensor.target, tensor.shape, transform, tensor.group, tensor.kind)


def optional(tensors: Sequence[Tensor], group: str) -> tuple[Tensor, ...]:
    """The same lines, as a group that a file has or has not."""
    return tuple(Tensor(t.source, t.target, t.shape, t.transform, group, t.kind) for t in tensors)


def norm(source: str, target: str, size: str = "hidden", transform: Transform | None = None) -> Tensor:
    """A norm's weight in every layer: `norm("attn_norm", "input_layernorm")`."""
    return Tensor(f"blk.{{i}}.{source}.weight", f"{LAYER}.{target}.weight", (size,), transform)


def experts(target: str, gate: str, up: str, down: str, kind: str = "") -> tuple[Tensor, ...]:
    """Stacked experts as one matrix each: `experts("mlp.experts", "gate_proj", "up_proj", "down_proj")`."""
    wide, tall = ("experts", "moe_intermediate", "hidden"), ("experts", "hidden", "moe_intermediate")
    names = (("gate", gate, wide), ("up", up, wide), ("down", down, tall))
    return tuple(
        Tensor(f"blk.{{i}}.ffn_{s}_exps.weight", f"{LAYER}.{target}.{{e}}.{t}.weight", shape, Unstack(), kind=kind)
        for s, t, shape in names
    )


def vocab_size(source: Source) -> int:
    """Rows of the embedding: the only count that is always right (metadata and token list may be longer or shorter)."""
    shape = source.shape("token_embd.weight")
    return shape[0] if shape else source.integer("vocab_size")


def decoder_config(
    source: Source,
    *,
    head_dim_key: bool | None = True,
    eps: str = "rms_norm_eps",
    omit: Collection[str] = (),
) -> Config:
    """The keys every decoder with rotary attention has.

    `head_dim_key`: the class knows `head_dim`; None: it takes one that is not the usual width / heads, and no config of
    its family has it otherwise. `eps`: its name for the norms' epsilon, which is a LayerNorm's unless the name says
    RMS. `omit`: keys the caller sees to (because they differ between layers, say).
    """
    hidden, heads = source.integer("embedding_length"), source.integer("attention.head_count")
    epsilon = "attention.layer_norm_rms_epsilon" if "rms" in eps else "attention.layer_norm_epsilon"
    readers: dict[str, Callable[[], Any]] = {
        "vocab_size": lambda: vocab_size(source),
        "hidden_size": lambda: hidden,
        "intermediate_size": lambda: source.integer("feed_forward_length"),
        "num_hidden_layers": source.layers,
        "num_attention_heads": lambda: heads,
        "num_key_value_heads": lambda: source.integer("attention.head_count_kv", heads),
        "head_dim": lambda: head_size(source, hidden, heads),
        "hidden_act": lambda: "silu",
        "max_position_embeddings": lambda: source.integer("context_length"),
        eps: lambda: source.number(epsilon),
        "tie_word_embeddings": lambda: not source.has("output"),
    }
    config: Config = {key: read() for key, read in readers.items() if key not in omit}
    if not head_dim_key:
        head_dim = config.pop("head_dim")
        if head_dim_key is None and heads * head_dim != hidden:
            config["head_dim"] = head_dim
        elif heads * head_dim != hidden:
            raise source.refuse(
                f"{heads} heads of {head_dim} values for a width of {hidden}; the class has no head_dim"
            )
    return config


def head_size(source: Source, hidden: int, heads: int) -> int:
    """Values per head. Raises Refused when keys and values differ or cannot be rotated in pairs."""
    head_dim = source.integer("attention.key_length", hidden // heads if heads else 0)
    if head_dim < 2 or head_dim % 2:
        raise source.refuse(f"heads of {head_dim} values cannot be rotated in pairs")
    if (value_length := source.integer("attention.value_length", head_dim)) != head_dim:
        raise source.refuse(f"keys of {head_dim} and values of {value_length} per head; the class has one size")
    return head_dim


def check_rotated_whole(source: Source, head_dim: int) -> None:
    if (rotated := source.integer("rope.dimension_count", head_dim)) != head_dim:
        raise source.refuse(f"{rotated} of {head_dim} values per head are rotated; the class rotates all")


def decoder_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes for the lines of this module."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    sizes = {
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "intermediate": config.get("intermediate_size") or 0,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "q": heads * head_dim,
        "kv": kv_heads * head_dim,
    }
    for key, name in (
        ("num_experts", "experts"),
        ("num_local_experts", "experts"),
        ("n_routed_experts", "experts"),
        ("moe_intermediate_size", "moe_intermediate"),
    ):
        if config.get(key) is not None:
            sizes[name] = config[key]
    return sizes


def kv_bytes(config: Mapping[str, Any], cache_bytes: int = 2) -> int:
    """Bytes one more token takes in the cache at long context: layers with a sliding window stop growing.

    Layers of full attention keep keys and values of every kv head; sliding and linear ones have a bounded state.
    """
    layers = config.get("layer_types") or ["full_attention"] * int(config["num_hidden_layers"])
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    growing = sum(kind == "full_attention" for kind in layers)
    return int(growing) * 2 * int(config["num_key_value_heads"]) * int(head_dim) * cache_bytes
