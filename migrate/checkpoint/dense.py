"""Unquantized weights: every block becomes numbers of the checkpoint's dtype."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from migrate.architectures.tensors import MappedTensor, Operation
from migrate.checkpoint.weights import Scratch, Stretch
from migrate.checkpoint.writer import OutputTensor, Storage
from migrate.gguf.dequantize import Bytes, NonFiniteError, check_convertible, convert
from migrate.gguf.types import DType, GGMLType


@dataclass(frozen=True, slots=True)
class Dense:
    """Numbers as `dtype`: gguf-py's float32 value, rounded to nearest even."""

    dtype: DType

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        for info in tensor.sources:
            check_convertible(info.type, info.name)
        return [OutputTensor(tensor.target, Storage(self.dtype.safetensors), tensor.shape)]

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        dtype = self.dtype
        out = scratch.bytes("out", stretch.rows * stretch.width * dtype.itemsize)
        try:
            if tensor.operation is None:
                convert(stretch.raw, stretch.type, out, dtype, scratch.workspace)
            else:
                _changed(stretch, tensor.operation, out, dtype, scratch)
        except NonFiniteError:
            at = " in float16" if dtype is DType.FLOAT16 else ""
            raise NonFiniteError(f"NaN or infinite weights{at}") from None
        if stretch.transposed or tensor.columns is not None:
            matrix = out.view(f"u{dtype.itemsize}").reshape(stretch.rows, stretch.width)
            matrix = matrix.T if stretch.transposed else matrix[:, np.asarray(tensor.columns)]
            out = np.ascontiguousarray(matrix).reshape(-1).view(np.uint8)
        yield tensor.target, stretch.at * dtype.itemsize, out.data


def _changed(stretch: Stretch, operation: Operation, out: Bytes, dtype: DType, scratch: Scratch) -> None:
    """Through float32, with what the converter did to the numbers undone."""
    plain = scratch.bytes("float32", stretch.rows * stretch.width * 4)
    convert(stretch.raw, stretch.type, plain, DType.FLOAT32, scratch.workspace)
    floats = plain.view(np.float32)
    if operation is Operation.MINUS_ONE:
        np.subtract(floats, np.float32(1.0), out=floats)
    else:
        with np.errstate(all="ignore"):
            floats[:] = np.log(-floats.astype(np.float64))
    convert(plain, GGMLType.F32, out, dtype, scratch.workspace)
