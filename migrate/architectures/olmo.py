"""OLMo 1: a llama whose norms have no weights at all, with values of q, k and v clipped in some.

vLLM runs it through transformers' class, whose epsilon is fixed at 1e-05.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FUSED,
    GATED_MLP,
    LORA_TARGETS,
    OUTPUT,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    head_size,
    kv_bytes,
)
from migrate.architectures.llama import PERMUTED_QKV
from migrate.architectures.rope import rope_parameters

EPSILON = 1e-5


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False, eps="layer_norm_eps")
    if (eps := result.pop("layer_norm_eps")) != EPSILON:
        raise source.refuse(f"norms with an epsilon of {eps:g}; the class has {EPSILON:g}")
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return result | {
        "rope_parameters": rope_parameters(source, head_dim),
        "clip_qkv": source.number("attention.clamp_kqv", 0.0) or None,
        "attention_bias": False,
    }


ARCHITECTURE = Architecture(
    model_type="olmo",
    class_name="OlmoForCausalLM",
    gguf_names=("olmo",),
    tensors=(EMBEDDING, *PERMUTED_QKV, ATTENTION_OUTPUT, *GATED_MLP, OUTPUT),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
    ignored_keys=("vocab_size", "attention.layer_norm_rms_epsilon"),
)
