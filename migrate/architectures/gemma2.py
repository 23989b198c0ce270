"""Gemma 2: norms of 1 + w around both halves of a layer, soft caps, a sliding window in every other layer."""

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
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import MINUS_ONE, Tensor

NORMS = (
    norm("attn_norm", "input_layernorm", transform=MINUS_ONE),
    norm("post_attention_norm", "post_attention_layernorm", transform=MINUS_ONE),
    norm("ffn_norm", "pre_feedforward_layernorm", transform=MINUS_ONE),
    norm("post_ffw_norm", "post_feedforward_layernorm", transform=MINUS_ONE),
)
FINAL_NORM = Tensor("output_norm.weight", "model.norm.weight", ("hidden",), MINUS_ONE)
_LAYERS_27B = 46


def config(source: Source) -> Config:
    result = decoder_config(source)
    head_dim, layers = result["head_dim"], result["num_hidden_layers"]
    check_rotated_whole(source, head_dim)
    result["hidden_activation"] = "gelu_pytorch_tanh"
    del result["hidden_act"]
    return result | {
        "tie_word_embeddings": True,
        "rope_parameters": rope_parameters(source, head_dim),
        "sliding_window": source.integer("attention.sliding_window", 4096),
        "layer_types": layer_types(source, layers, 2),
        # Not in the file: llama.cpp knows the 27B by its layers and takes the head's size for all others.
        "query_pre_attn_scalar": (
            result["hidden_size"] // result["num_attention_heads"] if layers == _LAYERS_27B else head_dim
        ),
        "attn_logit_softcapping": source.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": source.number("final_logit_softcapping", 30.0),
        "attention_bias": False,
    }


def layer_types(source: Source, layers: int, default_period: int) -> list[str]:
    """Which layers see a window: an array of truth values, or every layer but each `period`-th."""
    pattern = source.get("attention.sliding_window_pattern", default_period)
    if isinstance(pattern, int) and not isinstance(pattern, bool):
        sliding = [not pattern or bool((i + 1) % pattern) for i in range(layers)]
    else:
        sliding = source.flags("attention.sliding_window_pattern", layers)
    return ["sliding_attention" if window else "full_attention" for window in sliding]


ARCHITECTURE = Architecture(
    model_type="gemma2",
    class_name="Gemma2ForCausalLM",
    gguf_names=("gemma2",),
    tensors=(EMBEDDING, *NORMS, *QKV, ATTENTION_OUTPUT, *GATED_MLP, FINAL_NORM),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    float16=False,
    lora_targets=LORA_TARGETS,
)
