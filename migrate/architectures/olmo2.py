"""OLMo 2: norms behind attention and MLP instead of before them, and over all heads of q and k at once.

vLLM runs it through transformers' class. A file with a sliding window is an `olmo3` (see there).
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    FUSED,
    GATED_MLP,
    LORA_TARGETS,
    OUTPUT,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    head_size,
    kv_bytes,
    norm,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor

TENSORS = (
    EMBEDDING,
    *QKV,
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("q",)),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("kv",)),
    ATTENTION_OUTPUT,
    norm("post_attention_norm", "post_attention_layernorm"),
    *GATED_MLP,
    norm("post_ffw_norm", "post_feedforward_layernorm"),
    FINAL_NORM,
    OUTPUT,
)


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return result | {"rope_parameters": rope_parameters(source, head_dim), "attention_bias": False}


ARCHITECTURE = Architecture(
    model_type="olmo2",
    class_name="Olmo2ForCausalLM",
    gguf_names=("olmo2", "olmo3"),
    tensors=TENSORS,
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
)
