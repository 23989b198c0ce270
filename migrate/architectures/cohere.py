"""Command R and R+, Aya 23: attention and MLP side by side behind one LayerNorm, scaled logits, always tied.

Both llama.cpp and transformers rotate neighbouring values, so q and k keep their order. Command R+ has norms on q and
k, one row per head. `context_length` is what the model was trained for (128k), not the 8192 of its first config.json.
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
    INPUT_NORM,
    LORA_TARGETS,
    QKV,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    head_size,
    kv_bytes,
    optional,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor

QK_NORMS = (
    Tensor("blk.{i}.attn_q_norm.weight", f"{ATTENTION}.q_norm.weight", ("heads", "head_dim")),
    Tensor("blk.{i}.attn_k_norm.weight", f"{ATTENTION}.k_norm.weight", ("kv_heads", "head_dim")),
)
BLOCK = (INPUT_NORM, *QKV, ATTENTION_OUTPUT, *GATED_MLP)


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=None, eps="layer_norm_eps")
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return result | {
        "rope_parameters": rope_parameters(source, head_dim),
        "logit_scale": source.number("logit_scale", 0.0) or 1.0,  # llama.cpp: 0 or absent, no scaling
        "use_qk_norm": source.has("q and k norms"),
        "attention_bias": False,
    }


ARCHITECTURE = Architecture(
    model_type="cohere",
    class_name="CohereForCausalLM",
    gguf_names=("command-r",),
    tensors=(EMBEDDING, *BLOCK, *optional(QK_NORMS, "q and k norms"), FINAL_NORM),
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
    ignored_keys=("vocab_size", "max_position_embeddings"),
)
