"""Qwen2 and Qwen2.5, with biases on q, k and v; and the distillates built on them."""

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
    QKV,
    QKV_BIASES,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    head_size,
    kv_bytes,
)
from migrate.architectures.rope import ROPE_FREQS, rope_parameters


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return result | {"rope_parameters": rope_parameters(source, head_dim), "use_sliding_window": False}


ARCHITECTURE = Architecture(
    model_type="qwen2",
    class_name="Qwen2ForCausalLM",
    gguf_names=("qwen2",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        *QKV_BIASES,
        ATTENTION_OUTPUT,
        POST_ATTENTION_NORM,
        *GATED_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
    consumed=(ROPE_FREQS,),
)
