"""Command R7B and Command A: as Cohere, with a sliding window in three layers of four.

The layers that see everything are not rotated at all, in llama.cpp as in transformers and vLLM. A window of n tokens is
n in llama.cpp and transformers; vLLM's class takes n + 1, which it says is how the models were trained.
"""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import cohere
from migrate.architectures.base import Config, Source
from migrate.architectures.common import EMBEDDING, FINAL_NORM, decoder_sizes
from migrate.architectures.gemma2 import layer_types
from migrate.findings import Status

PATTERN = "attention.sliding_window_pattern"
PERIOD = 4


def config(source: Source) -> Config:
    result = cohere.config(source)
    del result["use_qk_norm"]
    window = source.integer("attention.sliding_window")
    reason = f"layers with a window see {window + 1} tokens in vLLM, {window} in llama.cpp; shorter contexts agree"
    source.ledger.add("attention.sliding_window", Status.EQUIVALENT, window, f'"sliding_window": {window}', reason)
    return result | {
        "head_dim": decoder_sizes(result)["head_dim"],
        "sliding_window": window,
        "layer_types": windows(source, result["num_hidden_layers"]),
    }


def windows(source: Source, layers: int) -> list[str]:
    """`layer_types`: the window's layers as the file lists them, or three of four.

    Older llama.cpp takes a number of `PATTERN` for the period and overlooks a list; a list that is not its period is
    what the model was trained with all the same, and what newer llama.cpp follows.
    """
    types = layer_types(source, layers, PERIOD)
    period = ["sliding_attention" if (i + 1) % PERIOD else "full_attention" for i in range(layers)]
    if not isinstance(source.get(PATTERN, PERIOD), int) and types != period:
        reason = "as the model was made; older llama.cpp overlooks the list for this architecture: three of four"
        shown = f"{types.count('sliding_attention')} of {layers} layers"
        source.ledger.add(PATTERN, Status.APPROXIMATE, shown, "layer_types", reason)
    return types


ARCHITECTURE = replace(
    cohere.ARCHITECTURE,
    model_type="cohere2",
    class_name="Cohere2ForCausalLM",
    gguf_names=("cohere2",),
    tensors=(EMBEDDING, *cohere.BLOCK, FINAL_NORM),
    config=config,
    ignored_keys=("vocab_size",),
)
