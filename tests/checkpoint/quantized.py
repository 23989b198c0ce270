"""The tiny models of the fixtures with random quantized blocks in place of their matrices."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from migrate.gguf.types import GGMLType
from tests.gguf.test_dequantize import SCALES

Kinds = Callable[[str], GGMLType | None]
"""The type a tensor gets; None leaves it as it is."""


def write_quantized(source: Path, target: Path, kinds: Kinds, seed: int = 3) -> Path:
    """Rewrite the GGUF `source` with other tensors; its metadata stays, byte for byte."""
    import gguf

    tensors = gguf.GGUFReader(source).tensors
    raw = source.read_bytes()
    start = min(int(tensor.field.offset) for tensor in tensors)
    rng = np.random.default_rng(seed)
    infos, data = b"", b""
    for tensor in tensors:
        kind = kinds(tensor.name) if len(tensor.shape) > 1 else None
        content = np.ascontiguousarray(tensor.data).tobytes()
        if kind is not None and int(tensor.shape[0]) % kind.block_size:
            kind = None  # ggml has no such rows either
        if kind is not None:
            content = blocks(kind, int(tensor.n_elements) // kind.block_size, rng)
        name = tensor.name.encode()
        infos += struct.pack("<Q", len(name)) + name
        infos += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *map(int, tensor.shape))
        infos += struct.pack("<IQ", int(tensor.tensor_type if kind is None else kind), len(data))
        data += content + bytes(-len(content) % 32)
    head = raw[:start] + infos
    target.write_bytes(head + bytes(-len(head) % 32) + data)
    return target


def blocks(kind: GGMLType, count: int, rng: np.random.Generator) -> bytes:
    """Any codes; scales such as weights have, of both signs, some of them zero or subnormal."""
    raw = rng.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    if kind is GGMLType.MXFP4:
        raw[:, 0] = rng.integers(110, 125, count)
        return raw.tobytes()
    for at in SCALES[kind.name]:
        scale = (rng.standard_normal(count) * 0.01).astype(np.float16)
        scale[:: max(2, count // 3)] = 0
        scale[1 :: max(2, count // 4)] = np.float16(3e-7)
        raw[:, at : at + 2] = scale[:, None].view(np.uint8)
    return raw.tobytes()
