"""Any numbers to 8-bit integers in groups of 32 (W8A16): half the size of float16, with an error that is measured.

For types whose blocks fit no container of vLLM's fast kernels: K-quants have minima, or scales for 16 weights. The
scale of a group is its largest magnitude / 127, rounded to the checkpoint's dtype before the integers are chosen, so
that its rounding costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.measured import Measured
from migrate.checkpoint.packing import GROUP, packed_outputs, packed_rows, rounded_to_bfloat16
from migrate.checkpoint.weights import Scratch, Stretch
from migrate.checkpoint.writer import OutputTensor
from migrate.gguf.dequantize import PIECE, NonFiniteError, check_convertible, convert
from migrate.gguf.types import DType

Floats = npt.NDArray[np.float32]

BITS = 8
_LARGEST = np.float32(127)


@dataclass(frozen=True, slots=True)
class Requantized:
    """Symmetric int8 in groups of 32, scales as `dtype`; what it costs goes to `measured`."""

    dtype: DType
    measured: Measured = field(default_factory=Measured)

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        for info in tensor.sources:
            check_convertible(info.type, info.name)
        return packed_outputs(tensor, BITS, self.dtype)

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        count = stretch.rows * stretch.width
        plain = scratch.bytes("float32", count * 4)
        convert(stretch.raw, stretch.type, plain, DType.FLOAT32, scratch.workspace)
        floats = plain.view(np.float32)
        if tensor.columns is not None:
            floats = floats.reshape(stretch.rows, stretch.width)[:, np.asarray(tensor.columns)].reshape(-1)
        packed = scratch.bytes("packed", count)
        scales = scratch.bytes("scales", count // GROUP * 2)
        for first in range(0, count, PIECE):
            last = min(first + PIECE, count)
            self._piece(
                tensor.target, floats[first:last], packed[first:last], scales[first // GROUP * 2 : last // GROUP * 2]
            )
        yield from packed_rows(tensor, stretch, packed, scales, BITS)

    def _piece(self, name: str, floats: Floats, packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.uint8]) -> None:
        """Whole groups that stay in the cache."""
        groups = floats.reshape(-1, GROUP)
        peak = np.maximum(groups.max(axis=1), -groups.min(axis=1))
        scale = _rounded(peak / _LARGEST, self.dtype, scales)[:, None]
        inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
        quants = np.rint(groups * inverse)
        np.clip(quants, -128, 127, out=quants)
        np.copyto(packed.view(np.int8).reshape(groups.shape), quants, casting="unsafe")
        np.bitwise_xor(packed, 128, out=packed)
        np.multiply(quants, scale, out=quants)
        np.subtract(quants, groups, out=quants)
        self.measured.add(name, groups, quants)


def _rounded(scale: Floats, dtype: DType, out: npt.NDArray[np.uint8]) -> Floats:
    """Stores scales as `dtype`; returns the values stored. Raises NonFiniteError when float16 cannot hold them."""
    if dtype is DType.FLOAT16:
        halves = out.view(np.float16)
        with np.errstate(over="ignore"):
            np.copyto(halves, scale, casting="same_kind")
        if not np.isfinite(halves).all():
            raise NonFiniteError("weights too large for float16 scales")
        return halves.astype(np.float32)
    bits = rounded_to_bfloat16(scale)
    out.view(np.uint16)[:] = bits
    return (bits.astype(np.uint32) << 16).view(np.float32)
