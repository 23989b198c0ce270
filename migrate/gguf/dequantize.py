"""GGML blocks to bfloat16, float16 or float32, bit for bit what gguf-py computes, rounded to nearest even.

`convert` works through a buffer in pieces that stay in the CPU's cache, with numpy only: the block formats unpack to a
dozen vectorised passes over such a piece. numpy releases the GIL in every pass, so threads scale; each needs its own
`Workspace`. docs/benchmarks.md has the measurements.

The float32 operations and their order are gguf-py's (`gguf/quants.py`), so that results agree to the last bit.
Formats this module has no kernel for go through gguf-py itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate.errors import GGUFError
from migrate.gguf.types import DType, GGMLType

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PIECE = 1 << 17
"""Weights per piece: 1.1 MB of scratch, which the L2 caches of servers hold. A multiple of every block size."""


class NonFiniteError(ValueError):
    """A scale or weight is NaN or infinite, or does not fit the target dtype."""


class Workspace:
    """Scratch memory of one thread."""

    def __init__(self) -> None:
        self.floats: Floats = np.empty(PIECE, np.float32)
        self.words = np.empty(PIECE, np.uint32)
        self.quants: Bytes = np.empty(PIECE, np.uint8)
        self.bits: Bytes = np.empty(PIECE, np.uint8)


def convert(raw: Bytes, kind: GGMLType, out: Bytes, dtype: DType, work: Workspace) -> None:
    """Convert whole blocks.

    `raw`: contiguous bytes of n blocks of `kind`. `out`: contiguous bytes for their weights as `dtype`
    (n * block_size * itemsize), written in order, little-endian.

    Raises:
        NonFiniteError: a scale or weight is NaN or infinite, or overflows float16.
        GGUFError: `kind` cannot be dequantized.
    """
    if _COPIES.get(kind) is dtype:
        _check_finite(raw, dtype)
        out[:] = raw
        return
    blocks = raw.reshape(-1, kind.block_bytes)
    step = PIECE // kind.block_size
    width = kind.block_size * dtype.itemsize
    kernel = _KERNELS.get(kind)
    for first in range(0, len(blocks), step):
        piece = blocks[first : first + step]
        floats = kernel(piece, work) if kernel else _by_gguf_py(piece, kind)
        _store(floats, out[first * width : (first + len(piece)) * width], dtype, work)


def check_convertible(kind: GGMLType, name: str) -> None:
    """Raise GGUFError when tensors of this type cannot become floats."""
    if kind in _KERNELS or kind in _gguf_py_types():
        return
    raise GGUFError(f"tensor {name!r} is stored as {kind.name}, which cannot be dequantized")


# -- storing -----------------------------------------------------------------------------------------------------------

_COPIES = {GGMLType.F32: DType.FLOAT32, GGMLType.F16: DType.FLOAT16, GGMLType.BF16: DType.BFLOAT16}
_EXPONENT = {DType.BFLOAT16: 0x7F80, DType.FLOAT16: 0x7C00, DType.FLOAT32: 0x7F800000}


def _store(floats: Floats, out: Bytes, dtype: DType, work: Workspace) -> None:
    """Round float32 to `dtype`. May overwrite `floats`."""
    if dtype is DType.FLOAT32:
        out.view(np.float32)[:] = floats
    elif dtype is DType.FLOAT16:
        with np.errstate(over="ignore"):
            np.copyto(out.view(np.float16), floats, casting="same_kind")
        _check_finite(out, dtype)
    else:
        _round_to_bfloat16(floats.view(np.uint32), out.view(np.uint16), work.words[: floats.size])


def _round_to_bfloat16(words: npt.NDArray[np.uint32], out: npt.NDArray[np.uint16], odd: npt.NDArray[np.uint32]) -> None:
    """The upper halves of finite float32 `words`, ties to even: add 0x7fff, and one more if the upper half is odd."""
    np.right_shift(words, 16, out=odd)
    np.bitwise_and(odd, 1, out=odd)
    np.add(words, odd, out=words)
    np.add(words, 0x7FFF, out=words)
    np.copyto(out, words.view(np.uint16)[1::2])


def _check_finite(data: Bytes, dtype: DType) -> None:
    exponent = _EXPONENT[dtype]
    bits: npt.NDArray[Any] = data.view(np.uint32 if dtype is DType.FLOAT32 else np.uint16)
    for first in range(0, bits.size, PIECE):
        if np.any((bits[first : first + PIECE] & exponent) == exponent):
            raise NonFiniteError


# -- kernels: blocks [n, block_bytes] to float32 [n * block_size], in work.floats --------------------------------------


def _scale(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [n, 1]."""
    scale = blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)
    if not np.isfinite(scale).all():
        raise NonFiniteError
    return scale


def _nibbles(packed: Bytes, out: Bytes) -> None:
    """Unpack bytes [..., k] to [..., 2, k]: low halves, then high halves."""
    np.bitwise_and(packed, 15, out=out[..., 0, :])
    np.right_shift(packed, 4, out=out[..., 1, :])


def _fields(packed: Bytes, width: int, out: Bytes) -> None:
    """Unpack bytes [..., k] to [..., 8 / width, k]: fields of `width` bits, the lowest first."""
    for index in range(8 // width):
        np.right_shift(packed, width * index, out=out[..., index, :])
    np.bitwise_and(out, (1 << width) - 1, out=out)


def _affine(quants: npt.NDArray[Any], scale: Floats, minimum: Floats | None, work: Workspace) -> Floats:
    """quants * scale + minimum, each scale for as many consecutive quants as there are per scale."""
    floats = work.floats[: quants.size]
    np.copyto(floats, quants.reshape(-1))
    groups = floats.reshape(scale.size, -1)
    np.multiply(groups, scale.reshape(-1, 1), out=groups)
    if minimum is not None:
        np.add(groups, minimum.reshape(-1, 1), out=groups)
    return floats


def _q4_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    _nibbles(blocks[:, 2:], quants.reshape(-1, 2, 16))
    np.subtract(quants, 8, out=quants)
    return _affine(quants.view(np.int8), _scale(blocks, 0), None, work)


def _q4_1(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    _nibbles(blocks[:, 4:], quants.reshape(-1, 2, 16))
    return _affine(quants, _scale(blocks, 0), _scale(blocks, 2), work)


def _five_bits(blocks: Bytes, high_at: int, work: Workspace) -> Bytes:
    """The 32 five-bit numbers of each Q5_0 or Q5_1 block: nibbles after four bytes of fifth bits."""
    quants = work.quants[: len(blocks) * 32]
    _nibbles(blocks[:, high_at + 4 :], quants.reshape(-1, 2, 16))
    fifth = np.unpackbits(blocks[:, high_at : high_at + 4], axis=1, bitorder="little").reshape(-1)
    np.left_shift(fifth, 4, out=fifth)
    np.bitwise_or(quants, fifth, out=quants)
    return quants


def _q5_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = _five_bits(blocks, 2, work)
    np.subtract(quants, 16, out=quants)
    return _affine(quants.view(np.int8), _scale(blocks, 0), None, work)


def _q5_1(blocks: Bytes, work: Workspace) -> Floats:
    return _affine(_five_bits(blocks, 4, work), _scale(blocks, 0), _scale(blocks, 2), work)


def _q8_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    np.copyto(quants.reshape(-1, 32), blocks[:, 2:])
    return _affine(quants.view(np.int8), _scale(blocks, 0), None, work)


def _q2_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants = work.quants[: n * 256]
    _fields(blocks[:, 16:80].reshape(n, 2, 32), 2, quants.reshape(n, 2, 4, 32))
    packed = blocks[:, :16]
    scale = _scale(blocks, 80) * (packed & 15)
    minimum = _scale(blocks, 82) * (packed >> 4)
    return _affine(quants, scale, np.negative(minimum, out=minimum), work)


def _q3_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    _fields(blocks[:, 32:96].reshape(n, 2, 32), 2, quants.reshape(n, 2, 4, 32))
    _fields(blocks[:, :32], 1, high.reshape(n, 8, 32))
    # A set bit means no offset, a clear one means minus four.
    np.left_shift(high, 2, out=high)
    np.add(quants, high, out=quants)
    np.subtract(quants, 4, out=quants)
    six_bits = np.empty((n, 16), np.uint8)
    _nibbles(blocks[:, 96:104], six_bits.reshape(n, 2, 8))
    upper = np.empty((n, 4, 4), np.uint8)
    _fields(blocks[:, 104:108], 2, upper)
    six_bits |= upper.reshape(n, 16) << 4
    six_bits -= 32
    return _affine(quants.view(np.int8), _scale(blocks, 108) * six_bits.view(np.int8), None, work)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and (negated) minima of Q4_K and Q5_K blocks, float32 [n, 8]: six bits each, in 12 bytes."""
    n = len(blocks)
    low, middle, upper = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale, minimum = np.empty((n, 8), np.float32), np.empty((n, 8), np.float32)
    scale[:, :4] = low & 0x3F
    scale[:, 4:] = (upper & 0x0F) | ((low >> 2) & 0x30)
    minimum[:, :4] = middle & 0x3F
    minimum[:, 4:] = (upper >> 4) | ((middle >> 2) & 0x30)
    scale *= _scale(blocks, 0)
    minimum *= -_scale(blocks, 2)
    return scale, minimum


def _q4_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants = work.quants[: n * 256]
    _nibbles(blocks[:, 16:].reshape(n, 4, 32), quants.reshape(n, 4, 2, 32))
    return _affine(quants, *_scales_and_minima(blocks), work)


def _q5_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    _nibbles(blocks[:, 48:].reshape(n, 4, 32), quants.reshape(n, 4, 2, 32))
    _fields(blocks[:, 16:48], 1, high.reshape(n, 8, 32))
    np.left_shift(high, 4, out=high)
    np.bitwise_or(quants, high, out=quants)
    return _affine(quants, *_scales_and_minima(blocks), work)


def _q6_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    _nibbles(blocks[:, :128].reshape(n, 2, 64), quants.reshape(n, 2, 2, 64))
    _fields(blocks[:, 128:192].reshape(n, 2, 32), 2, high.reshape(n, 2, 4, 32))
    np.left_shift(high, 4, out=high)
    np.bitwise_or(quants, high, out=quants)
    np.subtract(quants, 32, out=quants)
    scale = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return _affine(quants.view(np.int8), scale, None, work)


_IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _iq4_nl(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    _nibbles(blocks[:, 2:], quants.reshape(-1, 2, 16))
    return _affine(_IQ4_VALUES[quants], _scale(blocks, 0), None, work)


def _f32(blocks: Bytes, work: Workspace) -> Floats:
    _check_finite(blocks.reshape(-1), DType.FLOAT32)
    floats = work.floats[: len(blocks)]
    floats[:] = blocks.reshape(-1).view(np.float32)
    return floats


def _f16(blocks: Bytes, work: Workspace) -> Floats:
    _check_finite(blocks.reshape(-1), DType.FLOAT16)
    floats = work.floats[: len(blocks)]
    floats[:] = blocks.reshape(-1).view(np.float16)
    return floats


def _bf16(blocks: Bytes, work: Workspace) -> Floats:
    _check_finite(blocks.reshape(-1), DType.BFLOAT16)
    floats = work.floats[: len(blocks)]
    np.left_shift(blocks.reshape(-1).view(np.uint16), 16, out=floats.view(np.uint32), dtype=np.uint32)
    return floats


_KERNELS: dict[GGMLType, Callable[[Bytes, Workspace], Floats]] = {
    GGMLType.F32: _f32,
    GGMLType.F16: _f16,
    GGMLType.BF16: _bf16,
    GGMLType.Q4_0: _q4_0,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _q8_0,
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
    GGMLType.IQ4_NL: _iq4_nl,
}


def _by_gguf_py(blocks: Bytes, kind: GGMLType) -> Floats:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):
        floats: Floats = dequantize(blocks, GGMLQuantizationType(int(kind))).reshape(-1)
    if not np.isfinite(floats).all():
        raise NonFiniteError
    return np.ascontiguousarray(floats, np.float32)


def _gguf_py_types() -> frozenset[GGMLType]:
    from gguf.quants import _type_traits

    return frozenset(GGMLType(int(kind)) for kind in _type_traits if int(kind) in GGMLType._value2member_map_)
