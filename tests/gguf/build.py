"""A small GGUF writer for tests: written from the format's description, sharing nothing with the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

# value types of the metadata
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
# tensor types used below: id, weights per block, bytes per block
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q8_0": (8, 32, 34), "BF16": (30, 1, 2)}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to write. `shape` is GGUF's ne; `data` None means zeros; `offset` None means the next place."""

    name: str
    shape: tuple[int, ...]
    type: str | int = "F32"
    data: bytes | None = None
    offset: int | None = None

    @property
    def type_id(self) -> int:
        return self.type if isinstance(self.type, int) else TYPES[self.type][0]

    @property
    def nbytes(self) -> int:
        if isinstance(self.type, int):
            return 0
        _, block, size = TYPES[self.type]
        return prod(self.shape) // block * size


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(item: Any) -> bytes:
    """Type id and bytes of a Python value; an already encoded `bytes` passes through."""
    if isinstance(item, bytes):
        return item
    if isinstance(item, bool):
        return struct.pack("<IB", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + string(item)
    first = item[0] if item else ""
    if isinstance(first, str):
        return struct.pack("<IIQ", ARRAY, STRING, len(item)) + b"".join(map(string, item))
    kind, code = (F32, "f") if isinstance(first, float) else (I32, "i")
    return struct.pack("<IIQ", ARRAY, kind, len(item)) + struct.pack(f"<{len(item)}{code}", *item)


def build(
    metadata: Mapping[str, Any] | Sequence[tuple[str | bytes, Any]],
    tensors: Sequence[TensorSpec] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    tensor_count: int | None = None,
    metadata_count: int | None = None,
) -> bytes:
    """A whole GGUF. The counts can be forged."""
    pairs = list(metadata.items()) if isinstance(metadata, Mapping) else list(metadata)
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if metadata_count is None else metadata_count,
    )
    out = magic + struct.pack("<IQQ", version, *counts)
    out += b"".join(string(key) + value(item) for key, item in pairs)
    data = b""
    for tensor in tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        out += string(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        out += struct.pack("<IQ", tensor.type_id, offset)
        content = tensor.data if tensor.data is not None else bytes(tensor.nbytes)
        data += content + bytes(-len(content) % alignment)
    return out + bytes(-len(out) % alignment) + data
