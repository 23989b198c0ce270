"""Ministral 3, text: a llama with YaRN, its queries scaled by position as in Llama 4.

transformers reads that scale in `rope_parameters`, vLLM in `llama_4_scaling`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from migrate.architectures import llama
from migrate.architectures.base import Config, Source
from migrate.architectures.common import check_rotated_whole, decoder_config
from migrate.architectures.rope import rope_parameters


def config(source: Source) -> Config:
    result = decoder_config(source)
    check_rotated_whole(source, result["head_dim"])
    rope = _rope(source, result["head_dim"])
    scaling = {"original_max_position_embeddings": rope["original_max_position_embeddings"]}
    scaling["beta"] = rope["llama_4_scaling_beta"]
    return result | {"rope_parameters": rope, "sliding_window": None, "llama_4_scaling": scaling}


def _rope(source: Source, head_dim: int) -> dict[str, Any]:
    """YaRN with both scales. Unlike DeepSeek's, the multiplier is stored as it is; mscale is taken for 1."""
    return rope_parameters(source, head_dim) | {
        "mscale": 1.0,
        "mscale_all_dim": source.number("rope.scaling.yarn_log_multiplier", 0.0),
        "llama_4_scaling_beta": source.number("attention.temperature_scale", 0.0),
    }


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="ministral3",
    class_name="Ministral3ForCausalLM",
    gguf_names=("mistral3",),
    tensors=tuple(tensor for tensor in llama.TENSORS if "biases" not in tensor.group),
    config=config,
    matches=lambda header: header.field("rope.scaling.type") == "yarn",
)
