"""Mixtral: a llama with experts, which llama.cpp keeps under architecture "llama".

Old files have one tensor per expert (`ffn_gate.0.weight`) instead of a stack; llama.cpp no longer reads them either.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    INPUT_NORM,
    LAYER,
    OUTPUT,
    POST_ATTENTION_NORM,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    experts,
)
from migrate.architectures.llama import PERMUTED_QKV
from migrate.architectures.rope import ROPE_FREQS, rope_parameters
from migrate.architectures.tensors import Tensor

MOE = "block_sparse_moe"
TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    *PERMUTED_QKV,
    ATTENTION_OUTPUT,
    POST_ATTENTION_NORM,
    Tensor("blk.{i}.ffn_gate_inp.weight", f"{LAYER}.{MOE}.gate.weight", ("experts", "hidden")),
    *experts(f"{MOE}.experts", "w1", "w3", "w2"),
    FINAL_NORM,
    OUTPUT,
)


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    return result | {
        "rope_parameters": rope_parameters(source, result["head_dim"]),
        "num_local_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "sliding_window": source.get("attention.sliding_window"),
    }


def sizes(config: Config) -> dict[str, int]:
    return decoder_sizes(config) | {"moe_intermediate": config["intermediate_size"]}


ARCHITECTURE = Architecture(
    model_type="mixtral",
    class_name="MixtralForCausalLM",
    gguf_names=("llama",),
    tensors=TENSORS,
    config=config,
    dimensions=sizes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "experts": ("w1", "w2", "w3")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    consumed=(ROPE_FREQS,),
    matches=lambda header: bool(header.field("expert_count")),
)
