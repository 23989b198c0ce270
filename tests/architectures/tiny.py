"""A complete Llama of a few thousand random weights, as a GGUF, to be varied by tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from migrate.gguf.header import GGUFHeader, read_header
from tests.gguf.build import TensorSpec, build

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, LAYERS = 32, 4, 2, 8, 64, 40, 2

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": LAYERS,
    "llama.context_length": 512,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INTERMEDIATE,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *"▁abcdefghijklmnopqrstuvwxyz0123456789"],
    "tokenizer.ggml.scores": [0.0] * VOCAB,
    "tokenizer.ggml.token_type": [2, 3, 3] + [1] * (VOCAB - 3),
}

SHAPES: dict[str, tuple[int, ...]] = {
    "token_embd.weight": (HIDDEN, VOCAB),
    "output_norm.weight": (HIDDEN,),
    "output.weight": (HIDDEN, VOCAB),
    **{
        f"blk.{i}.{name}.weight": shape
        for i in range(LAYERS)
        for name, shape in {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HEADS * HEAD_DIM),
            "attn_k": (HIDDEN, KV_HEADS * HEAD_DIM),
            "attn_v": (HIDDEN, KV_HEADS * HEAD_DIM),
            "attn_output": (HEADS * HEAD_DIM, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (HIDDEN, INTERMEDIATE),
            "ffn_up": (HIDDEN, INTERMEDIATE),
            "ffn_down": (INTERMEDIATE, HIDDEN),
        }.items()
    },
}

BIASES: dict[str, tuple[int, ...]] = {
    f"blk.{i}.{name}.bias": (size,)
    for i in range(LAYERS)
    for name, size in (
        ("attn_q", HEADS * HEAD_DIM),
        ("attn_k", KV_HEADS * HEAD_DIM),
        ("attn_v", KV_HEADS * HEAD_DIM),
        ("attn_output", HIDDEN),
    )
}


def tiny_llama(
    directory: Path,
    metadata: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[int, ...] | None] | None = None,
    data: Mapping[str, bytes] | None = None,
) -> GGUFHeader:
    """Write and read one. `metadata` and `tensors` add and replace; a value of None takes away."""
    merged = {k: v for k, v in {**METADATA, **(metadata or {})}.items() if v is not None}
    shapes = {k: v for k, v in {**SHAPES, **(tensors or {})}.items() if v is not None}
    rng = np.random.default_rng(3)
    specs = [
        TensorSpec(name, shape, "F32", (data or {}).get(name, rng.standard_normal(shape).astype(np.float32).tobytes()))
        for name, shape in shapes.items()
    ]
    path = directory / "tiny.gguf"
    path.write_bytes(build(merged, specs))
    return read_header(path)
