"""A LoRA folded into the weights it adapts: w + scale * b @ a in float32, rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.dense import Dense
from migrate.checkpoint.weights import Scratch, Stretch
from migrate.checkpoint.writer import OutputTensor
from migrate.errors import Refused
from migrate.gguf.dequantize import NonFiniteError, convert
from migrate.gguf.types import DType, GGMLType

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one weight, float32: a [rank, in], b [out, rank], rows in the checkpoint's order.

    `scale` is alpha / rank.
    """

    a: Floats
    b: Floats
    scale: float


@dataclass(frozen=True, slots=True)
class Merged:
    """Unquantized weights of `dtype` with an adapter folded in. `factors` by name of the checkpoint's tensor."""

    dtype: DType
    factors: Mapping[str, Factors]

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        return Dense(self.dtype).outputs(tensor)

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        factors = self.factors[tensor.target]
        plain = scratch.bytes("float32", stretch.rows * stretch.width * 4)
        out = scratch.bytes("out", stretch.rows * stretch.width * self.dtype.itemsize)
        try:
            convert(stretch.raw, stretch.type, plain, DType.FLOAT32, scratch.workspace)
            rows = plain.view(np.float32).reshape(stretch.rows, stretch.width)
            b = factors.b[stretch.first : stretch.first + stretch.rows]
            rows += np.float32(factors.scale) * (b @ factors.a)
            convert(plain, GGMLType.F32, out, self.dtype, scratch.workspace)
        except NonFiniteError:
            raise NonFiniteError("NaN or infinite weights, once the adapter is folded in") from None
        yield tensor.target, stretch.at * self.dtype.itemsize, out.data


def check_mergeable(tensor: MappedTensor) -> None:
    """Raise Refused for a weight whose rows are not those of the GGUF's matrix."""
    if tensor.operation or tensor.columns is not None or any(p.transposed or p.width for p in tensor.pieces):
        raise Refused(f"an adapter of {tensor.target} cannot be folded in: the checkpoint stores it differently")
