"""EXAONE 4: norms after each half of a layer and on q and k. The 32B sees a window in three of four layers.

llama.cpp applies the window to models of 64 layers only; the class does where the file has one. Layers that see
everything do not rotate in the 32B, which both know from the window.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    LORA_TARGETS,
    OUTPUT,
    QK_NORMS,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    kv_bytes,
    norm,
)
from migrate.architectures.gemma2 import layer_types
from migrate.architectures.rope import ROPE_FREQS, rope_parameters

FULL = "full_attention"
_DEFAULT_PERIOD, _LAYERS_32B, _WINDOW_32B = 4, 64, 4096


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    layers = result["num_hidden_layers"]
    window = source.integer("attention.sliding_window", _WINDOW_32B if layers == _LAYERS_32B else 0) or None
    kinds = layer_types(source, layers, _DEFAULT_PERIOD) if window else [FULL] * layers
    return result | {
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "sliding_window": window,
        "layer_types": kinds,
        "sliding_window_pattern": kinds.index(FULL) + 1 if window and FULL in kinds else 0,
    }


ARCHITECTURE = Architecture(
    model_type="exaone4",
    class_name="Exaone4ForCausalLM",
    gguf_names=("exaone4",),
    tensors=(
        EMBEDDING,
        *QKV,
        *QK_NORMS,
        ATTENTION_OUTPUT,
        norm("post_attention_norm", "post_attention_layernorm"),
        *GATED_MLP,
        norm("post_ffw_norm", "post_feedforward_layernorm"),
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
