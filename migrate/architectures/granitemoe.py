"""Granite 3 MoE: Granite with experts in every layer, whose gate and up matrices the checkpoint keeps in one.

Names are those of IBM's checkpoints, which transformers and vLLM both rename on loading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    head_size,
    kv_bytes,
)
from migrate.architectures.granite import multipliers
from migrate.architectures.llama import PERMUTED_QKV
from migrate.architectures.rope import ROPE_FREQS, rope_parameters
from migrate.architectures.tensors import Fuse, Tensor

MOE = f"{LAYER}.block_sparse_moe"
_WIDE = ("experts", "intermediate", "hidden")
TENSORS = (
    EMBEDDING,
    INPUT_NORM,
    *PERMUTED_QKV,
    ATTENTION_OUTPUT,
    POST_ATTENTION_NORM,
    Tensor("blk.{i}.ffn_gate_inp.weight", f"{MOE}.router.layer.weight", ("experts", "hidden")),
    Tensor(
        (("blk.{i}.ffn_gate_exps.weight", _WIDE), ("blk.{i}.ffn_up_exps.weight", _WIDE)),
        f"{MOE}.input_linear.weight",
        transform=Fuse("experts", ("experts", "gate_up", "hidden")),
    ),
    Tensor("blk.{i}.ffn_down_exps.weight", f"{MOE}.output_linear.weight", ("experts", "hidden", "intermediate")),
    FINAL_NORM,
    OUTPUT,
)


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    if not source.boolean("rope.scaling.finetuned", True):
        raise source.refuse("heads that are not rotated at all; the class rotates them")
    return (
        result
        | multipliers(source, head_dim)
        | {
            "rope_parameters": rope_parameters(source, head_dim),
            "num_local_experts": source.integer("expert_count"),
            "num_experts_per_tok": source.integer("expert_used_count"),
            "attention_bias": False,
        }
    )


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return decoder_sizes(config) | {"gate_up": 2 * config["intermediate_size"]}


ARCHITECTURE = Architecture(
    model_type="granitemoe",
    class_name="GraniteMoeForCausalLM",
    gguf_names=("granitemoe",),
    tensors=TENSORS,
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=kv_bytes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "experts": ("input_linear", "output_linear")},
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    consumed=(ROPE_FREQS,),
)
