"""Qwen3, dense: a norm on every head's q and k, no biases."""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    INPUT_NORM,
    LORA_TARGETS,
    OUTPUT,
    POST_ATTENTION_NORM,
    QK_NORMS,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    kv_bytes,
)
from migrate.architectures.rope import ROPE_FREQS, rope_parameters

ATTENTION_TENSORS = (INPUT_NORM, *QKV, *QK_NORMS, ATTENTION_OUTPUT, POST_ATTENTION_NORM)


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "attention_bias": False,
        "use_sliding_window": False,
    }


ARCHITECTURE = Architecture(
    model_type="qwen3",
    class_name="Qwen3ForCausalLM",
    gguf_names=("qwen3",),
    tensors=(EMBEDDING, *ATTENTION_TENSORS, *GATED_MLP, FINAL_NORM, OUTPUT),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
    consumed=(ROPE_FREQS,),
)
