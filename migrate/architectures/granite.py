"""Granite 3: a llama with four multipliers."""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import llama
from migrate.architectures.base import Config, Source, shortest_float
from migrate.architectures.common import check_rotated_whole, decoder_config, head_size
from migrate.architectures.rope import rope_parameters


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return (
        result
        | multipliers(source, head_dim)
        | {
            "rope_parameters": rope_parameters(source, head_dim),
            "attention_bias": source.has("attention biases"),
            "mlp_bias": source.has("MLP biases"),
        }
    )


def multipliers(source: Source, head_dim: int) -> Config:
    """What Granite multiplies with. llama.cpp takes an absent one for 1, an absent attention scale for 1/sqrt(d)."""
    return {
        "attention_multiplier": source.number("attention.scale", 0.0) or shortest_float(head_dim**-0.5),
        "embedding_multiplier": source.number("embedding_scale", 0.0) or 1.0,
        "residual_multiplier": source.number("residual_scale", 0.0) or 1.0,
        "logits_scaling": source.number("logit_scale"),
    }


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="granite",
    class_name="GraniteForCausalLM",
    gguf_names=("granite",),
    config=config,
)
