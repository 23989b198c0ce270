"""OLMo 3: OLMo 2 with a sliding window in three layers of four, and YaRN in the layers that see everything.

llama.cpp keeps architecture "olmo2"; Ollama's older files say "olmo3". YaRN's attention factor is transformers' own in
both: llama.cpp's converter writes it under a name its loader does not read, Ollama's under one that multiplies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from migrate.architectures import olmo2
from migrate.architectures.base import Config, Source
from migrate.architectures.cohere2 import windows
from migrate.findings import Status

ATTENTION_FACTOR = "rope.scaling.attn_factor"


def config(source: Source) -> Config:
    result = olmo2.config(source)
    return result | {
        "rope_parameters": by_layer_type(source, result["rope_parameters"]),
        "sliding_window": source.integer("attention.sliding_window"),
        "layer_types": windows(source, result["num_hidden_layers"]),
    }


def by_layer_type(source: Source, full: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters` by kind of layer: layers with a window are never scaled."""
    named = source.number(ATTENTION_FACTOR, 1.0)
    if full["rope_type"] == "yarn" and named != 1.0:
        computed = named * (1.0 + 0.1 * math.log(full["factor"]))
        reason = f"Ollama computes with {computed:.4f} in the layers that see everything; the model was made with this"
        source.ledger.add(ATTENTION_FACTOR, Status.APPROXIMATE, named, f'"attention_factor": {named:g}', reason)
        full = full | {"attention_factor": named}
    return {
        "full_attention": full,
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": source.number("rope.freq_base_swa", full["rope_theta"]),
        },
    }


ARCHITECTURE = replace(
    olmo2.ARCHITECTURE,
    model_type="olmo3",
    class_name="Olmo3ForCausalLM",
    gguf_names=("olmo2", "olmo3"),
    config=config,
    matches=lambda header: bool(header.field("attention.sliding_window")),
)
