"""Mistral with a sliding window, and the text of Mistral Small 3: a llama, otherwise.

llama.cpp keeps architecture "llama" for the first and attends to the whole context; transformers and vLLM do what the
model was trained with, and see only the last `sliding_window` tokens. Up to the window's length the two agree. Files of
Mistral Small 3, Magistral and Devstral say "mistral3", as those of Ministral 3 do, but have no YaRN.
"""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import llama
from migrate.architectures.base import Config, Source
from migrate.errors import Refused
from migrate.findings import Status


def config(source: Source) -> Config:
    result = llama.config(source)
    if result.pop("attention_bias") or result.pop("mlp_bias"):
        raise Refused(f"{source.header.path.name}: a sliding window and biases: neither a llama nor a mistral")
    if source.number("attention.temperature_scale", 0.0):
        raise source.refuse("queries scaled by position, and no YaRN: neither a Mistral Small nor a Ministral 3")
    window = source.integer("attention.sliding_window", 0)
    if not window:
        return result | {"sliding_window": None}
    reason = "llama.cpp ignores it for this architecture: beyond that many tokens of context the answers differ"
    source.ledger.add("attention.sliding_window", Status.APPROXIMATE, window, f'"sliding_window": {window}', reason)
    return result | {"sliding_window": window}


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="mistral",
    class_name="MistralForCausalLM",
    gguf_names=("llama", "mistral3"),
    tensors=tuple(tensor for tensor in llama.TENSORS if "biases" not in tensor.group),
    config=config,
    matches=lambda header: header.architecture == "mistral3" or bool(header.field("attention.sliding_window")),
)
