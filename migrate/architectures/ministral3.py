"""Ministral 3 and Mistral Small 3, text: a llama with YaRN, its queries scaled by position as in Llama 4."""

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
    return result | {"rope_parameters": _rope(source, result["head_dim"]), "sliding_window": None}


def _rope(source: Source, head_dim: int) -> dict[str, Any]:
    """YaRN with both scales. Unlike DeepSeek's, the multiplier is stored as it is; mscale is taken for 1."""
    parameters = rope_parameters(source, head_dim)
    if parameters["rope_type"] == "yarn":
        parameters |= {"mscale": 1.0, "mscale_all_dim": source.number("rope.scaling.yarn_log_multiplier", 0.0)}
        if beta := source.number("attention.temperature_scale", 0.0):
            parameters["llama_4_scaling_beta"] = beta
    return parameters


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="ministral3",
    class_name="Ministral3ForCausalLM",
    gguf_names=("mistral3",),
    tensors=tuple(tensor for tensor in llama.TENSORS if "biases" not in tensor.group),
    config=config,
)
