"""Is a written checkpoint what the GGUF says? Judged by gguf-py, another implementation than the one that wrote it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate.architectures.base import ModelLayout
from migrate.architectures.tensors import MappedTensor, Operation
from migrate.errors import BadInput
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.types import DType

Array = npt.NDArray[Any]
_UNSIGNED: dict[str, Any] = {
    "F32": np.uint32,
    "F16": np.uint16,
    "BF16": np.uint16,
    "U8": np.uint8,
    "I32": np.uint32,
    "I64": np.uint64,
}


def verify_weights(header: GGUFHeader, layout: ModelLayout, model_dir: Path) -> int:
    """Compares every tensor bit for bit with gguf-py's float32 values rounded to nearest even; returns their number.

    One tensor is in memory at a time. Raises BadInput naming the first tensor that differs.
    """
    judge, written = Judge(header), WrittenCheckpoint(model_dir)
    for tensor in layout.tensors:
        if not judge.is_rounded(tensor, written):
            names = ", ".join(info.name for info in tensor.sources)
            raise BadInput(f"{model_dir}: {tensor.target} is not {names} of {header.path.name}")
    return len(layout.tensors)


class Judge:
    """A GGUF as gguf-py reads it."""

    def __init__(self, header: GGUFHeader) -> None:
        import gguf

        self._entries = {
            (number, int(tensor.data_offset)): tensor
            for number, path in enumerate(header.files)
            for tensor in gguf.GGUFReader(path).tensors
        }

    def floats(self, info: TensorInfo) -> Array:
        """The weights, float32."""
        import gguf

        entry = self._entries[info.file, info.offset]
        return np.asarray(gguf.dequantize(entry.data, entry.tensor_type), dtype=np.float32)

    def scales(self, info: TensorInfo, per_row: int) -> Array:
        """The float16 that every block of 32 weights begins with, float32 [rows, per_row]."""
        blocks = np.ascontiguousarray(self._entries[info.file, info.offset].data).reshape(-1, info.type.block_bytes)
        return np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32).reshape(-1, per_row)

    def integers(self, info: TensorInfo) -> Array:
        """The integers of such blocks, float32: what gguf-py gives when every scale is 1."""
        import gguf

        entry = self._entries[info.file, info.offset]
        blocks = np.array(entry.data).reshape(-1, info.type.block_bytes)
        blocks[:, :2] = np.array([1], np.float16).view(np.uint8)
        return np.asarray(gguf.dequantize(blocks.reshape(entry.data.shape), entry.tensor_type), dtype=np.float32)

    def is_rounded(self, tensor: MappedTensor, written: WrittenCheckpoint) -> bool:
        dtype, found = written.bits(tensor.target)
        expected = rounded(assembled(tensor, self.floats), dtype)
        return expected.shape == found.shape and bool(np.array_equal(expected, found))


def assembled(tensor: MappedTensor, floats: Callable[[TensorInfo], Array]) -> Array:
    """The tensor as its description says, all at once."""
    parts = []
    for piece in tensor.pieces:
        width = piece.width or tensor.width
        matrices = [floats(info).reshape(-1, width)[np.asarray(piece.rows)] for info in piece.sources]
        rows = np.stack(matrices, axis=1).reshape(-1, width)
        parts.append((rows.T if piece.transposed else rows).reshape(-1))
    values = np.concatenate(parts).reshape(tensor.shape)
    if tensor.columns is not None:
        values = values[:, np.asarray(tensor.columns)]
    if tensor.operation is Operation.MINUS_ONE:
        return np.asarray(values - np.float32(1.0), np.float32)
    if tensor.operation is Operation.LOG_NEGATIVE:
        return np.asarray(np.log(-values.astype(np.float64)), np.float32)
    return np.ascontiguousarray(values)


def rounded(floats: Array, dtype: DType) -> Array:
    """Bits of float32 values in another dtype, rounded to nearest even."""
    if dtype is DType.FLOAT32:
        return floats.view(np.uint32)
    if dtype is DType.FLOAT16:
        return floats.astype(np.float16).view(np.uint16)
    bits = floats.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class WrittenCheckpoint:
    """The safetensors files of a directory, read tensor by tensor."""

    def __init__(self, directory: Path) -> None:
        import json

        self._where: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                entries = json.loads(file.read(length))
            for name, entry in entries.items():
                if name != "__metadata__":
                    self._where[name] = (path, 8 + length, entry)

    def bits(self, name: str) -> tuple[DType, Array]:
        """Dtype and bit patterns of one tensor, in its shape."""
        data = self.raw(name)
        dtype = {"F32": DType.FLOAT32, "F16": DType.FLOAT16, "BF16": DType.BFLOAT16}[self._where[name][2]["dtype"]]
        return dtype, data

    def raw(self, name: str) -> Array:
        """One tensor in its shape: integers, or the bit patterns of floats."""
        if name not in self._where:
            raise BadInput(f"{name} is missing from the checkpoint")
        path, start, entry = self._where[name]
        begin, end = entry["data_offsets"]
        data = np.fromfile(path, dtype=np.uint8, count=end - begin, offset=start + begin)
        unsigned: Array = data.view(_UNSIGNED[entry["dtype"]])
        return unsigned.reshape(entry["shape"])
