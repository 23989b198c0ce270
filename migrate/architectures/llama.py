"""Llama, and what is built like it: Llama 1 to 3.x, Mistral, Yi, Vicuna, SmolLM, TinyLlama and their fine-tunes.

llama.cpp converts Mistral as architecture "llama" and a GGUF does not say which it was. Without a sliding window the
two compute the same thing, so such files stay model_type "llama"; only a sliding-window key makes one a `mistral` (see
there), and experts make one a `mixtral`.
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
    MLP,
    OUTPUT,
    POST_ATTENTION_NORM,
    QKV,
    QKV_BIASES,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    optional,
    with_transform,
)
from migrate.architectures.rope import ROPE_FREQS, rope_parameters
from migrate.architectures.tensors import Tensor, Unpermute

_Q, _K, _V = QKV
_Q_BIAS, _K_BIAS, _V_BIAS = QKV_BIASES
PERMUTED_QKV = (with_transform(_Q, Unpermute("heads")), with_transform(_K, Unpermute("kv_heads")), _V)
ATTENTION_BIASES = optional(
    (
        with_transform(_Q_BIAS, Unpermute("heads")),
        with_transform(_K_BIAS, Unpermute("kv_heads")),
        _V_BIAS,
        Tensor("blk.{i}.attn_output.bias", f"{ATTENTION}.o_proj.bias", ("hidden",)),
    ),
    "attention biases",
)
MLP_BIASES = optional(
    (
        Tensor("blk.{i}.ffn_gate.bias", f"{MLP}.gate_proj.bias", ("intermediate",)),
        Tensor("blk.{i}.ffn_up.bias", f"{MLP}.up_proj.bias", ("intermediate",)),
        Tensor("blk.{i}.ffn_down.bias", f"{MLP}.down_proj.bias", ("hidden",)),
    ),
    "MLP biases",
)
TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    *PERMUTED_QKV,
    ATTENTION_OUTPUT,
    *ATTENTION_BIASES,
    POST_ATTENTION_NORM,
    *GATED_MLP,
    *MLP_BIASES,
    FINAL_NORM,
    OUTPUT,
)


def config(source: Source) -> Config:
    """`config.json` of a llama. Raises Refused for what the class LlamaForCausalLM cannot compute."""
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "attention_bias": source.has("attention biases"),
        "mlp_bias": source.has("MLP biases"),
    }


ARCHITECTURE = Architecture(
    model_type="llama",
    class_name="LlamaForCausalLM",
    gguf_names=("llama",),
    tensors=TENSORS,
    config=config,
    dimensions=decoder_sizes,
    fused=FUSED,
    lora_targets=LORA_TARGETS,
    consumed=(ROPE_FREQS,),
)
