"""BERT and RoBERTa embedding models: all-MiniLM, mxbai-embed, snowflake-arctic-embed, bge, e5.

The pooler and the head are not in a GGUF; what makes a sentence's vector out of its tokens' is `pooling_type`, which
sentence-transformers and vLLM read from `modules.json`. llama.cpp leaves out the two unused rows in front of the
positions of a RoBERTa; without them it is a BERT with another tokenizer, and is written as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import vocab_size
from migrate.architectures.tensors import Tensor
from migrate.gguf.header import GGUFHeader

LAYER = "encoder.layer.{i}"
POOLING_MODES = {1: "mean_tokens", 2: "cls_token", 3: "lasttoken"}
"""`pooling_type` of llama.cpp: 0 none, 1 mean, 2 CLS, 3 last, 4 rank."""


def linear(source: str, target: str, rows: str, columns: str) -> tuple[Tensor, Tensor]:
    """Weight and bias."""
    return (
        Tensor(f"{source}.weight", f"{target}.weight", (rows, columns)),
        Tensor(f"{source}.bias", f"{target}.bias", (rows,)),
    )


def layer_norm(source: str, target: str) -> tuple[Tensor, Tensor]:
    return (
        Tensor(f"{source}.weight", f"{target}.weight", ("hidden",)),
        Tensor(f"{source}.bias", f"{target}.bias", ("hidden",)),
    )


def config(source: Source) -> Config:
    hidden, heads = source.integer("embedding_length"), source.integer("attention.head_count")
    if source.boolean("attention.causal", False):
        raise source.refuse("a BERT with causal attention")
    pooling_modes(source.header)
    for key in ("pooling_type", "normalize_embeddings", "context_length", "attention.key_length"):
        source.get(key)
    types, positions = source.shape("token_types.weight"), source.shape("position_embd.weight")
    return {
        "vocab_size": vocab_size(source),
        "hidden_size": hidden,
        "intermediate_size": source.integer("feed_forward_length"),
        "num_hidden_layers": source.layers(),
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "max_position_embeddings": positions[0] if positions else source.integer("context_length"),
        "type_vocab_size": types[0] if types else 1,
        "layer_norm_eps": source.number("attention.layer_norm_epsilon"),
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return {
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "intermediate": config["intermediate_size"],
        "positions": config["max_position_embeddings"],
        "types": config["type_vocab_size"],
    }


def pooling_modes(header: GGUFHeader) -> str:
    """The name sentence-transformers has for how a vector is made of the tokens'. Raises Refused for other ways."""
    kind = header.field("pooling_type", 1)
    if kind not in POOLING_MODES:
        source = Source(header, frozenset())
        raise source.refuse(f"pooling_type {kind}; known are {', '.join(POOLING_MODES.values())}")
    return POOLING_MODES[kind]


def pooling_files(header: GGUFHeader) -> dict[str, str]:
    """`modules.json` and the pooling's configuration, by name. Ollama scales every vector to length 1; so does this."""
    width = header.field("embedding_length")
    mode = pooling_modes(header)
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    pooling = {"word_embedding_dimension": width} | {f"pooling_mode_{name}": name == mode for name in names}
    package = "sentence_transformers.models"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{package}.{name}"}
        for i, (path, name) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
    ]
    return {
        "modules.json": json.dumps(modules, indent=2) + "\n",
        "1_Pooling/config.json": json.dumps(pooling, indent=2) + "\n",
    }


_SELF, _OUT = f"{LAYER}.attention.self", f"{LAYER}.attention.output"
ARCHITECTURE = Architecture(
    model_type="bert",
    class_name="BertModel",
    gguf_names=("bert",),
    tensors=(
        Tensor("token_embd.weight", "embeddings.word_embeddings.weight", ("vocab", "hidden")),
        Tensor("position_embd.weight", "embeddings.position_embeddings.weight", ("positions", "hidden")),
        Tensor("token_types.weight", "embeddings.token_type_embeddings.weight", ("types", "hidden"), group="types"),
        *layer_norm("token_embd_norm", "embeddings.LayerNorm"),
        *linear("blk.{i}.attn_q", f"{_SELF}.query", "hidden", "hidden"),
        *linear("blk.{i}.attn_k", f"{_SELF}.key", "hidden", "hidden"),
        *linear("blk.{i}.attn_v", f"{_SELF}.value", "hidden", "hidden"),
        *linear("blk.{i}.attn_output", f"{_OUT}.dense", "hidden", "hidden"),
        *layer_norm("blk.{i}.attn_output_norm", f"{_OUT}.LayerNorm"),
        *linear("blk.{i}.ffn_up", f"{LAYER}.intermediate.dense", "intermediate", "hidden"),
        *linear("blk.{i}.ffn_down", f"{LAYER}.output.dense", "hidden", "intermediate"),
        *layer_norm("blk.{i}.layer_output_norm", f"{LAYER}.output.LayerNorm"),
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=lambda config, cache_bytes: 0,
    pooling=True,
    more_files=pooling_files,
)
