"""Mistral with a sliding window: a llama whose layers see only the last `sliding_window` tokens.

llama.cpp keeps architecture "llama" for it and attends to the whole context; transformers and vLLM do what the model
was trained with. Up to the window's length the two agree.
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
    window = source.integer("attention.sliding_window")
    reason = "llama.cpp ignores it for this architecture: beyond that many tokens of context the answers differ"
    source.ledger.add("attention.sliding_window", Status.APPROXIMATE, window, f'"sliding_window": {window}', reason)
    return result | {"sliding_window": window}


ARCHITECTURE = replace(
    llama.ARCHITECTURE,
    model_type="mistral",
    class_name="MistralForCausalLM",
    tensors=tuple(tensor for tensor in llama.TENSORS if "biases" not in tensor.group),
    config=config,
    matches=lambda header: bool(header.field("attention.sliding_window")),
)
