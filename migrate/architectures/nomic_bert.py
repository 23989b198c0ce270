"""nomic-embed-text: a BERT with rotary positions and a gated MLP, no biases but the norms'.

The checkpoint is in the layout of the model's own repository, which vLLM reads; config.json has both that
repository's names for its keys and transformers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.bert import layer_norm, pooling_files, pooling_modes
from migrate.architectures.common import vocab_size
from migrate.architectures.tensors import Tensor

LAYER = "encoder.layers.{i}"


def config(source: Source) -> Config:
    hidden, heads = source.integer("embedding_length"), source.integer("attention.head_count")
    layers, inner = source.layers(), source.integer("feed_forward_length")
    length = source.integer("context_length")
    if source.boolean("attention.causal", False):
        raise source.refuse("a BERT with causal attention")
    if source.integer("moe_every_n_layers", 0):
        raise source.refuse("experts (nomic-embed-text-v2-moe); not described yet")
    pooling_modes(source.header)
    for key in ("pooling_type", "normalize_embeddings", "attention.key_length", "attention.value_length"):
        source.get(key)
    eps, theta = source.number("attention.layer_norm_epsilon"), source.number("rope.freq_base", 10_000.0)
    types = source.shape("token_types.weight")
    theirs = {
        "activation_function": "swiglu",
        "n_embd": hidden,
        "n_head": heads,
        "n_inner": inner,
        "n_layer": layers,
        "n_positions": length,
        "max_trained_positions": length,
        "layer_norm_epsilon": eps,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
        "prenorm": False,
        "causal": False,
        "rotary_emb_base": theta,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "rotary_scaling_factor": None,
    }
    return theirs | {
        "vocab_size": vocab_size(source),
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": length,
        "type_vocab_size": types[0] if types else 0,
        "layer_norm_eps": eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": True,
        "pad_token_id": 0,  # the class insists on one; the tokenizer's own takes its place
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return {
        "vocab": config["vocab_size"],
        "hidden": config["hidden_size"],
        "intermediate": config["intermediate_size"],
        "types": config["type_vocab_size"],
        "qkv": 3 * config["hidden_size"],
    }


ARCHITECTURE = Architecture(
    model_type="nomic_bert",
    class_name="NomicBertModel",
    gguf_names=("nomic-bert",),
    tensors=(
        Tensor("token_embd.weight", "embeddings.word_embeddings.weight", ("vocab", "hidden")),
        Tensor("token_types.weight", "embeddings.token_type_embeddings.weight", ("types", "hidden"), group="types"),
        *layer_norm("token_embd_norm", "emb_ln"),
        Tensor("blk.{i}.attn_qkv.weight", f"{LAYER}.attn.Wqkv.weight", ("qkv", "hidden")),
        Tensor("blk.{i}.attn_output.weight", f"{LAYER}.attn.out_proj.weight", ("hidden", "hidden")),
        *layer_norm("blk.{i}.attn_output_norm", f"{LAYER}.norm1"),
        Tensor("blk.{i}.ffn_up.weight", f"{LAYER}.mlp.fc11.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_gate.weight", f"{LAYER}.mlp.fc12.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_down.weight", f"{LAYER}.mlp.fc2.weight", ("hidden", "intermediate")),
        *layer_norm("blk.{i}.layer_output_norm", f"{LAYER}.norm2"),
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=lambda config, cache_bytes: 0,
    pooling=True,
    more_files=pooling_files,
)
