"""InternLM2: a llama that keeps q, k and v of every kv group together in one matrix.

transformers has no class for it; the layout is that of the model's own code, which vLLM reads. vLLM still asks
transformers for the config, so the checkpoint brings a class for that along: `auto_map` names it, and
`--trust-remote-code` lets it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.architectures.base import Architecture, Config, Source
from migrate.architectures.common import (
    LAYER,
    check_rotated_whole,
    decoder_config,
    decoder_sizes,
    head_size,
    norm,
)
from migrate.architectures.rope import ROPE_FREQS, rope_parameters
from migrate.architectures.tensors import Dimensions, Fuse, Tensor, unpermuted


def _q(sizes: Dimensions) -> Sequence[int]:
    return unpermuted(sizes["q"], sizes["head_dim"])


def _k(sizes: Dimensions) -> Sequence[int]:
    return unpermuted(sizes["kv"], sizes["head_dim"])


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=False)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    rope = rope_parameters(source, head_dim)
    return result | {
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],
        "bias": False,
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
    }


CONFIG_CODE = '''"""The config of an InternLM2, for which transformers has no class."""

from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"
    keys_to_ignore_at_inference = ["past_key_values"]
'''


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return decoder_sizes(config)


ARCHITECTURE = Architecture(
    model_type="internlm2",
    class_name="InternLM2ForCausalLM",
    gguf_names=("internlm2",),
    tensors=(
        Tensor("token_embd.weight", "model.tok_embeddings.weight", ("vocab", "hidden")),
        norm("attn_norm", "attention_norm"),
        Tensor(
            (
                ("blk.{i}.attn_q.weight", ("q", "hidden")),
                ("blk.{i}.attn_k.weight", ("kv", "hidden")),
                ("blk.{i}.attn_v.weight", ("kv", "hidden")),
            ),
            f"{LAYER}.attention.wqkv.weight",
            transform=Fuse("kv_heads", orders=(_q, _k, None)),
        ),
        Tensor("blk.{i}.attn_output.weight", f"{LAYER}.attention.wo.weight", ("hidden", "q")),
        norm("ffn_norm", "ffn_norm"),
        Tensor("blk.{i}.ffn_gate.weight", f"{LAYER}.feed_forward.w1.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_up.weight", f"{LAYER}.feed_forward.w3.weight", ("intermediate", "hidden")),
        Tensor("blk.{i}.ffn_down.weight", f"{LAYER}.feed_forward.w2.weight", ("hidden", "intermediate")),
        Tensor("output_norm.weight", "model.norm.weight", ("hidden",)),
        Tensor("output.weight", "output.weight", ("vocab", "hidden"), group="output"),
    ),
    config=config,
    dimensions=sizes,
    kv_bytes_per_token=lambda config, cache_bytes: (
        config["num_hidden_layers"] * 2 * decoder_sizes(config)["kv"] * cache_bytes
    ),
    fused={"gate_up_proj": ("w1", "w3")},
    more_files=lambda header: {"configuration_internlm2.py": CONFIG_CODE},
    lora_targets=("wqkv", "wo", "w1", "w2", "w3"),
    consumed=(ROPE_FREQS,),
)
