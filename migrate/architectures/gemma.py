"""Gemma 1, CodeGemma included: norms of 1 + w, embeddings scaled by sqrt(width), always tied.

The converter of llama.cpp writes no rotary frequency for it and its loader takes 10000, which is the only one there is.
Old files' activation needs no word: all of the family use the tanh approximation of GELU, whatever their first
config.json said.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FUSED,
    GATED_MLP,
    LORA_TARGETS,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    kv_bytes,
    norm,
)
from migrate.architectures.gemma2 import FINAL_NORM
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import MINUS_ONE

NORMS = (
    norm("attn_norm", "input_layernorm", transform=MINUS_ONE),
    norm("ffn_norm", "post_attention_layernorm", transform=MINUS_ONE),
)


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "attention_bias": False,
    }


ARCHITECTURE = Architecture(
    model_type="gemma",
    class_name="GemmaForCausalLM",
    gguf_names=("gemma",),
    tensors=(EMBEDDING, *NORMS, *QKV, ATTENTION_OUTPUT, *GATED_MLP, FINAL_NORM),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
)
