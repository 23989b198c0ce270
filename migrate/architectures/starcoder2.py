"""StarCoder2: LayerNorms, biases everywhere, an MLP without a gate. vLLM runs it through transformers' class.

The 3B and 7B were trained with a sliding window of 4096 tokens. No GGUF says so and llama.cpp attends to everything, so
the checkpoint does, too: it computes what Ollama computed.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    INPUT_NORM,
    LAYER,
    MLP,
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
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Tensor

TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    Tensor("blk.{i}.attn_norm.bias", f"{LAYER}.input_layernorm.bias", ("hidden",)),
    *QKV,
    *QKV_BIASES,
    ATTENTION_OUTPUT,
    Tensor("blk.{i}.attn_output.bias", f"{ATTENTION}.o_proj.bias", ("hidden",)),
    POST_ATTENTION_NORM,
    Tensor("blk.{i}.ffn_norm.bias", f"{LAYER}.post_attention_layernorm.bias", ("hidden",)),
    Tensor("blk.{i}.ffn_up.weight", f"{MLP}.c_fc.weight", ("intermediate", "hidden")),
    Tensor("blk.{i}.ffn_up.bias", f"{MLP}.c_fc.bias", ("intermediate",)),
    Tensor("blk.{i}.ffn_down.weight", f"{MLP}.c_proj.weight", ("hidden", "intermediate")),
    Tensor("blk.{i}.ffn_down.bias", f"{MLP}.c_proj.bias", ("hidden",)),
    FINAL_NORM,
    Tensor("output_norm.bias", "model.norm.bias", ("hidden",)),
    OUTPUT,
)


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False, eps="norm_epsilon")
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    return result | {
        "hidden_act": "gelu_pytorch_tanh",
        "rope_parameters": rope_parameters(source, head_dim),
        "sliding_window": None,
        "use_bias": True,
    }


ARCHITECTURE = Architecture(
    model_type="starcoder2",
    class_name="Starcoder2ForCausalLM",
    gguf_names=("starcoder2",),
    tensors=TENSORS,
    config=config,
    dimensions=decoder_sizes,
    kv_bytes_per_token=kv_bytes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
)
