"""SmolLM3: a llama of which every fourth layer does not rotate (a constant of llama.cpp's code, not of the file)."""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import llama
from migrate.architectures.base import Config, Source
from migrate.architectures.common import check_rotated_whole, decoder_config, head_size
from migrate.architectures.rope import rope_parameters

_INTERVAL = 4


def config(source: Source) -> Config:
    result = decoder_config(source, head_dim_key=None)
    head_dim = head_size(source, result["hidden_size"], result["num_attention_heads"])
    check_rotated_whole(source, head_dim)
    layers = result["num_hidden_layers"]
    return result | {
        "rope_parameters": rope_parameters(source, head_dim),
        "attention_bias": source.has("attention biases"),
        "mlp_bias": source.has("MLP biases"),
        "no_rope_layer_interval": _INTERVAL,
        "no_rope_layers": [int(bool((i + 1) % _INTERVAL)) for i in range(layers)],
        "use_sliding_window": False,
    }


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="smollm3",
    class_name="SmolLM3ForCausalLM",
    gguf_names=("smollm3",),
    config=config,
)
