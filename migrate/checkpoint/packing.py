"""Quantized blocks to compressed-tensors "pack-quantized": the integers and scales of a GGUF, moved and not computed.

Q4_0, Q5_0, Q8_0 and IQ4_NL are symmetric: every 32 weights of a row share one float16 scale d, and a weight is d times
a small integer (of IQ4_NL's codebook, in its case). compressed-tensors stores the same two things in groups of 32, so
nothing is lost as long as scales stay float16.

On disk, for a matrix X.weight of N rows and K columns: `X.weight_packed` int32 [N, K * bits / 32], element i of a row
at bit i * bits (little-endian), stored as q + 2^(bits - 1); `X.weight_scale` [N, K / 32]; `X.weight_shape` (N, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.measured import Measured
from migrate.checkpoint.weights import Scratch, Stretch
from migrate.checkpoint.writer import OutputTensor, Storage
from migrate.gguf.dequantize import Bytes, NonFiniteError
from migrate.gguf.types import DType, GGMLType

GROUP = 32
"""Weights that share a scale."""
BITS: dict[GGMLType, int] = {GGMLType.Q4_0: 4, GGMLType.Q5_0: 8, GGMLType.Q8_0: 8, GGMLType.IQ4_NL: 8}
"""Types that move unchanged, and the smallest container that vLLM has fast kernels for (5-bit has only slow ones)."""

_SUFFIX = ".weight"
_IQ4_NL_PLUS_128 = np.array([1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241], np.uint8)


@dataclass(frozen=True, slots=True)
class PackQuantized:
    """Integers of `bits` (4 or 8) in groups of 32, scales as `dtype`.

    float16 keeps the blob's scales bit for bit; bfloat16 rounds them, and `measured` learns by how much.
    """

    bits: int
    dtype: DType
    measured: Measured = field(default_factory=Measured)

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        return packed_outputs(tensor, self.bits, self.dtype)

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        blocks = stretch.raw.reshape(-1, stretch.type.block_bytes)
        if tensor.columns is not None:
            blocks = _reordered(blocks, stretch, group_order(tensor.columns) or ())
        scales = _scales(blocks)
        packed = scratch.bytes("packed", len(blocks) * GROUP * self.bits // 8)
        _PACKERS[stretch.type, self.bits](blocks, packed, scratch)
        yield from packed_rows(tensor, stretch, packed, self._stored(scales, tensor), self.bits)

    def _stored(self, scales: npt.NDArray[np.float16], tensor: MappedTensor) -> Bytes:
        if self.dtype is DType.FLOAT16:
            return scales.view(np.uint8)
        exact = scales.astype(np.float32)
        bits = rounded_to_bfloat16(exact)
        error = (bits.astype(np.uint32) << 16).view(np.float32) - exact
        self.measured.add(tensor.target, exact, error)
        return bits.view(np.uint8)


def packed_outputs(tensor: MappedTensor, bits: int, dtype: DType) -> list[OutputTensor]:
    """The three tensors a packed matrix is stored as."""
    rows, width = tensor.shape
    module = module_name(tensor)
    return [
        OutputTensor(f"{module}.weight_packed", Storage.I32, (rows, width * bits // 32)),
        OutputTensor(f"{module}.weight_scale", Storage(dtype.safetensors), (rows, width // GROUP)),
        OutputTensor(f"{module}.weight_shape", Storage.I64, (2,)),
    ]


def packed_rows(
    tensor: MappedTensor, stretch: Stretch, packed: Bytes, scales: Bytes, bits: int
) -> Iterable[tuple[str, int, memoryview]]:
    """Where the packed integers and the scales (as bytes) of a stretch go; the shape goes with the first of them."""
    module = module_name(tensor)
    yield f"{module}.weight_packed", stretch.at * bits // 8, packed.data
    yield f"{module}.weight_scale", stretch.at // GROUP * 2, scales.data
    if not stretch.at:
        yield f"{module}.weight_shape", 0, np.array(tensor.shape, np.int64).view(np.uint8).data


def module_name(tensor: MappedTensor) -> str:
    """The module a matrix belongs to: the target without ".weight"."""
    return tensor.target.removesuffix(_SUFFIX)


def packable(tensor: MappedTensor) -> bool:
    """Whether a tensor is a plain matrix with rows in groups of 32. Says nothing of its type."""
    return (
        len(tensor.shape) == 2
        and tensor.shape[1] == tensor.width
        and tensor.width % GROUP == 0
        and tensor.target.endswith(_SUFFIX)
        and tensor.operation is None
        and not tensor.float32
        and not any(piece.transposed or piece.width not in (0, tensor.width) for piece in tensor.pieces)
    )


def group_order(columns: Iterable[int]) -> tuple[int, ...] | None:
    """For every group of 32 columns of the checkpoint the group of the GGUF it is; None when groups are broken up."""
    moved = np.fromiter(columns, np.int64).reshape(-1, GROUP)
    if (moved[:, 0] % GROUP).any() or not np.array_equal(moved, moved[:, :1] + np.arange(GROUP)):
        return None
    return tuple(int(group) for group in moved[:, 0] // GROUP)


def rounded_to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of finite float32 values as bfloat16, ties to even."""
    words = values.view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def _reordered(blocks: Bytes, stretch: Stretch, order: tuple[int, ...]) -> Bytes:
    rows = blocks.reshape(stretch.rows, -1, blocks.shape[1])
    return rows[:, list(order)].reshape(blocks.shape)


def _scales(blocks: Bytes) -> npt.NDArray[np.float16]:
    """The float16 every block begins with; the same bits."""
    scales = blocks[:, :2].copy().view(np.float16).reshape(-1)
    if not np.isfinite(scales).all():
        raise NonFiniteError("NaN or infinite scales")
    return scales


# -- integers: blocks [n, block_bytes] to n * 32 of them in `out`, plus 2^(bits - 1) -----------------------------------


def pair_nibbles(packed: Bytes, out: Bytes, scratch: Scratch) -> None:
    """From codes i and i + 16 in byte i of [n, 16] to codes 2i and 2i + 1 in byte i of n * 16, low half first."""
    count = len(packed)
    pairs = scratch.bytes("pairs", count * 16)
    np.copyto(pairs.reshape(-1, 16), packed)
    words = pairs.view(np.uint16).reshape(-1, 8)
    spare = scratch.bytes("spare", pairs.size).view(np.uint16).reshape(-1, 8)
    halves = out.reshape(-1, 2, 8)
    for half in range(2):
        # 0x0b0a, a word of two codes, becomes the byte 0xba
        np.right_shift(words, 4 * half, out=spare)
        np.bitwise_and(spare, 0x0F0F, out=spare)
        np.copyto(halves[:, half], spare | spare >> 4, casting="unsafe")


def _q4_0_to_4(blocks: Bytes, out: Bytes, scratch: Scratch) -> None:
    """Both formats store q + 8."""
    pair_nibbles(blocks[:, 2:], out, scratch)


def _nibbles(packed: Bytes, out: Bytes) -> None:
    """Unpack bytes [n, 16] to [n, 2, 16]: low halves, then high halves."""
    np.bitwise_and(packed, 15, out=out[:, 0])
    np.right_shift(packed, 4, out=out[:, 1])


def _q4_0_to_8(blocks: Bytes, out: Bytes, scratch: Scratch) -> None:
    _nibbles(blocks[:, 2:], out.reshape(-1, 2, 16))
    np.add(out, 128 - 8, out=out)


def _q5_0_to_8(blocks: Bytes, out: Bytes, scratch: Scratch) -> None:
    _nibbles(blocks[:, 6:], out.reshape(-1, 2, 16))
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little").reshape(-1)
    np.left_shift(fifth, 4, out=fifth)
    np.bitwise_or(out, fifth, out=out)
    np.add(out, 128 - 16, out=out)


def _q8_0_to_8(blocks: Bytes, out: Bytes, scratch: Scratch) -> None:
    np.bitwise_xor(blocks[:, 2:], 128, out=out.reshape(-1, 32))


def _iq4_nl_to_8(blocks: Bytes, out: Bytes, scratch: Scratch) -> None:
    codes = scratch.bytes("codes", out.size)
    _nibbles(blocks[:, 2:], codes.reshape(-1, 2, 16))
    np.take(_IQ4_NL_PLUS_128, codes, out=out, mode="clip")


_PACKERS: dict[tuple[GGMLType, int], Callable[[Bytes, Bytes, Scratch], None]] = {
    (GGMLType.Q4_0, 4): _q4_0_to_4,
    (GGMLType.Q4_0, 8): _q4_0_to_8,
    (GGMLType.Q5_0, 8): _q5_0_to_8,
    (GGMLType.Q8_0, 8): _q8_0_to_8,
    (GGMLType.IQ4_NL, 8): _iq4_nl_to_8,
}
