"""ERNIE 4.5, dense. Rotation is by neighbouring pairs in both worlds, so q and k are not permuted."""

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
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
)
from migrate.architectures.rope import rope_parameters


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {"rope_parameters": rope_parameters(source, result["head_dim"]), "use_bias": False}


ARCHITECTURE = Architecture(
    model_type="ernie4_5",
    class_name="Ernie4_5ForCausalLM",
    gguf_names=("ernie4_5",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        ATTENTION_OUTPUT,
        POST_ATTENTION_NORM,
        *GATED_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=decoder_sizes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
)
