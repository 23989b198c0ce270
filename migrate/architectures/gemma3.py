"""Gemma 3, text: as Gemma 2, with norms on q and k and two rotary frequencies instead of soft caps."""

from __future__ import annotations

from typing import Any

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FUSED,
    GATED_MLP,
    LORA_TARGETS,
    OUTPUT,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    kv_bytes,
)
from migrate.architectures.gemma2 import FINAL_NORM, NORMS, layer_types
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import MINUS_ONE, Tensor

QK_NORMS = (
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("head_dim",), MINUS_ONE),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("head_dim",), MINUS_ONE),
)
_LAYERS_27B = 62


def config(source: Source) -> Config:
    result = decoder_config(source)
    head_dim, layers = result["head_dim"], result["num_hidden_layers"]
    check_rotated_whole(source, head_dim)
    result["hidden_activation"] = "gelu_pytorch_tanh"
    del result["hidden_act"]
    window = source.get("attention.sliding_window")
    cap = source.number("final_logit_softcapping", 0.0)
    return result | {
        "rope_parameters": two_frequencies(source, head_dim),
        "sliding_window": window,
        "layer_types": layer_types(source, layers, 6) if window else ["full_attention"] * layers,
        # Not in the file: llama.cpp knows the 27B by its layers and takes the head's size for all others.
        "query_pre_attn_scalar": (
            result["hidden_size"] // result["num_attention_heads"] if layers == _LAYERS_27B else head_dim
        ),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": cap or None,
        "attention_bias": False,
    }


def two_frequencies(source: Source, head_dim: int) -> dict[str, Any]:
    """`rope_parameters` by kind of layer; scaling concerns the layers that see everything."""
    return {
        "full_attention": rope_parameters(source, head_dim, default_theta=1_000_000.0),
        "sliding_attention": {"rope_type": "default", "rope_theta": source.number("rope.freq_base_swa", 10_000.0)},
    }


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    class_name="Gemma3ForCausalLM",
    gguf_names=("gemma3",),
    tensors=(EMBEDDING, *NORMS, *QKV, *QK_NORMS, ATTENTION_OUTPUT, *GATED_MLP, FINAL_NORM, OUTPUT),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    float16=False,
    lora_targets=LORA_TARGETS,
)
