"""Falcon 7B, 40B and 11B (Falcon 2): attention and MLP in parallel, q, k and v of a kv group together in one matrix.

llama.cpp's converter sorts that matrix into all queries, all keys, all values. It does not write the context's length
(always 2048) nor the frequency of the rotation. The 7B has one head of keys and one norm per layer, the 40B several
heads and two norms, the 11B several heads and one norm. Falcon 3 is a llama, and named so in its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.architectures.base import Architecture, Config, Layer, Source
from migrate.architectures.common import vocab_size, with_kind
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Dimensions, Rows, Tensor

LAYER = "transformer.h.{i}"
TWO_NORMS, ONE_NORM = "two norms", "one norm"


def by_group(sizes: Dimensions) -> Sequence[int]:
    """For every row of query_key_value, the row of the GGUF: [queries of group 0, key 0, value 0, group 1, ...]."""
    heads, groups, dim = sizes["heads"], sizes["kv_heads"], sizes["head_dim"]
    per_group = heads // groups
    blocks = []
    for group in range(groups):
        blocks += [*range(group * per_group, (group + 1) * per_group), heads + group, heads + groups + group]
    return [block * dim + row for block in blocks for row in range(dim)]


def _norm(source: str, target: str) -> tuple[Tensor, Tensor]:
    return (
        Tensor(f"{source}.weight", f"{target}.weight", ("hidden",)),
        Tensor(f"{source}.bias", f"{target}.bias", ("hidden",)),
    )


def config(source: Source) -> Config:
    hidden, heads = source.integer("embedding_length"), source.integer("attention.head_count")
    kv_heads = source.integer("attention.head_count_kv", 1)
    head_dim = hidden // heads if heads else 0
    if head_dim < 2 or head_dim * heads != hidden or not kv_heads or heads % kv_heads:
        raise source.refuse(f"{heads} heads, {kv_heads} of keys, for a width of {hidden}")
    if (layout := source.get("tensor_data_layout", "jploski")) != "jploski":
        raise source.refuse(f"queries, keys and values laid out as {layout!r}; llama.cpp knows 'jploski'")
    norms = 2 if "blk.0.attn_norm_2.weight" in source.header.tensors else 1
    new = norms == 2 or kv_heads > 1
    return {
        "vocab_size": vocab_size(source),
        "hidden_size": hidden,
        "num_hidden_layers": source.layers(),
        "num_attention_heads": heads,
        "num_kv_heads": kv_heads,
        "num_key_value_heads": kv_heads,
        "ffn_hidden_size": source.integer("feed_forward_length"),
        "activation": "gelu",
        "layer_norm_epsilon": source.number("attention.layer_norm_epsilon"),
        "max_position_embeddings": source.integer("context_length"),
        "rope_parameters": rope_parameters(source, head_dim),
        "multi_query": True,
        "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": norms if new else None,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
        "tie_word_embeddings": not source.has("output"),
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_kv_heads"]
    head_dim = hidden // heads
    return {
        "vocab": config["vocab_size"],
        "hidden": hidden,
        "intermediate": config["ffn_hidden_size"],
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "qkv": (heads + 2 * kv_heads) * head_dim,
    }


def layer(config: Mapping[str, Any], index: int) -> Layer:
    return Layer(frozenset({TWO_NORMS if config["num_ln_in_parallel_attn"] == 2 else ONE_NORM}))


def kv_bytes(config: Mapping[str, Any], cache_bytes: int) -> int:
    head_dim = int(config["hidden_size"]) // int(config["num_attention_heads"])
    return int(config["num_hidden_layers"]) * 2 * int(config["num_kv_heads"]) * head_dim * cache_bytes


_ATTENTION, _MLP = f"{LAYER}.self_attention", f"{LAYER}.mlp"
ARCHITECTURE = Architecture(
    model_type="falcon",
    class_name="FalconForCausalLM",
    gguf_names=("falcon",),
    tensors=(
        Tensor("token_embd.weight", "transformer.word_embeddings.weight", ("vocab", "hidden")),
        *with_kind(_norm("blk.{i}.attn_norm_2", f"{LAYER}.ln_attn"), TWO_NORMS),
        *with_kind(_norm("blk.{i}.attn_norm", f"{LAYER}.ln_mlp"), TWO_NORMS),
        *with_kind(_norm("blk.{i}.attn_norm", f"{LAYER}.input_layernorm"), ONE_NORM),
        Tensor("blk.{i}.attn_qkv.weight", f"{_ATTENTION}.query_key_value.weight", ("qkv", "hidden"), Rows(by_group)),
        Tensor("blk.{i}.attn_output.weight", f"{_ATTENTION}.dense.weight", ("hidden", "hidden")),
        Tensor("blk.{i}.ffn_up.weight", f"{_MLP}.dense_h_to_4h.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_down.weight", f"{_MLP}.dense_4h_to_h.weight", ("hidden", "intermediate")),
        *_norm("output_norm", "transformer.ln_f"),
        Tensor("output.weight", "lm_head.weight", ("vocab", "hidden"), group="output"),
    ),
    config=config,
    dimensions=sizes,
    layer=layer,
    kv_bytes_per_token=kv_bytes,
    lora_targets=("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
)
