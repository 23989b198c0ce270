"""gpt-oss: experts in MXFP4 with interleaved gate and up rows, attention sinks, YaRN.

The family's own checkpoints store the experts as MXFP4 blocks and scales; `checkpoint/mxfp4.py` writes those. The
tensor table describes the unquantized form, in which every expert's matrix is transposed.
"""

from __future__ import annotations

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    ATTENTION,
    ATTENTION_OUTPUT,
    EMBEDDING,
    FINAL_NORM,
    INPUT_NORM,
    MLP,
    OUTPUT,
    QKV,
    QKV_BIASES,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    kv_bytes,
    norm,
)
from migrate.architectures.rope import rope_parameters
from migrate.architectures.tensors import Interleave, Tensor

_E, _I, _H = "experts", "intermediate", "hidden"
EXPERTS = (
    Tensor(
        (("blk.{i}.ffn_gate_exps.weight", (_E, _I, _H)), ("blk.{i}.ffn_up_exps.weight", (_E, _I, _H))),
        f"{MLP}.experts.gate_up_proj",
        transform=Interleave((_E, _H, "gate_up"), transposed=True),
    ),
    Tensor(
        (("blk.{i}.ffn_gate_exps.bias", (_E, _I)), ("blk.{i}.ffn_up_exps.bias", (_E, _I))),
        f"{MLP}.experts.gate_up_proj_bias",
        transform=Interleave((_E, "gate_up")),
    ),
    Tensor(
        (("blk.{i}.ffn_down_exps.weight", (_E, _H, _I)),),
        f"{MLP}.experts.down_proj",
        transform=Interleave((_E, _I, _H), transposed=True),
    ),
    Tensor("blk.{i}.ffn_down_exps.bias", f"{MLP}.experts.down_proj_bias", (_E, _H)),
)


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    rope = rope_parameters(source, result["head_dim"], default_theta=150_000.0)
    if rope["rope_type"] == "yarn":
        rope["truncate"] = False
    window = source.integer("attention.sliding_window", 128)
    layers = result["num_hidden_layers"]
    return result | {
        "intermediate_size": source.integer("expert_feed_forward_length", result["intermediate_size"]),
        "rope_parameters": rope,
        "num_local_experts": source.integer("expert_count"),
        "num_experts_per_tok": source.integer("expert_used_count"),
        "sliding_window": window,
        "layer_types": ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)],
        "attention_bias": True,
        # Constants of llama.cpp's swiglu_oai, and the defaults of the class.
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    }


def sizes(config: Config) -> dict[str, int]:
    return decoder_sizes(config) | {"gate_up": 2 * config["intermediate_size"]}


ARCHITECTURE = Architecture(
    model_type="gpt_oss",
    class_name="GptOssForCausalLM",
    gguf_names=("gpt-oss",),
    tensors=(
        EMBEDDING,
        INPUT_NORM,
        *QKV,
        *QKV_BIASES,
        ATTENTION_OUTPUT,
        Tensor("blk.{i}.attn_output.bias", f"{ATTENTION}.o_proj.bias", ("hidden",)),
        Tensor("blk.{i}.attn_sinks.weight", f"{ATTENTION}.sinks", ("heads",)),
        norm("post_attention_norm", "post_attention_layernorm"),
        Tensor("blk.{i}.ffn_gate_inp.weight", f"{MLP}.router.weight", ("experts", "hidden")),
        Tensor("blk.{i}.ffn_gate_inp.bias", f"{MLP}.router.bias", ("experts",)),
        *EXPERTS,
        FINAL_NORM,
        OUTPUT,
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=kv_bytes,
    fused={"qkv_proj": ("q_proj", "k_proj", "v_proj")},
    float16=False,
    lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
)
