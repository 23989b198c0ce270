"""Kernels for the formats whose weights come from a table: IQ*, MXFP4, NVFP4; and the ternary TQ*.

The tables are gguf-py's own, asked for when the first such tensor is read. A block stores indices: of one of 16 values,
or of a group of four or eight weights at once; then the table's rows are 64-bit words, and a negated group is
(group ^ mask) - mask. The scales are exact products of a float16 and a few bits, so the order of operations, which is
not everywhere gguf-py's, does not change a bit of the result.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate.gguf.blocks import Bytes, Floats, Workspace, affine, finite, float16_at, unpack

Words = npt.NDArray[np.uint64]
_BITS = np.arange(8, dtype=np.uint8)
_SHIFTS_7 = np.array([0, 7, 14, 21], np.uint32)
_SHIFTS_3 = np.array([0, 3, 6, 9], np.uint16)
_SHIFTS_2 = np.array([0, 2, 4, 6], np.uint8)
_SHIFTS_4 = np.array([0, 4], np.uint8)

# -- one of 16 values per weight ---------------------------------------------------------------------------------------


def iq4_nl(blocks: Bytes, work: Workspace) -> Floats:
    return affine(_of_sixteen(blocks[:, 2:], "IQ4_NL", 16, work), float16_at(blocks, 0), None, work)


def iq4_xs(blocks: Bytes, work: Workspace) -> Floats:
    upper = blocks[:, 2:4].copy().view(np.uint16) >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    six_bits = (_nibbles(blocks[:, 4:8]) | upper.astype(np.uint8) << 4) - np.uint8(32)
    scale = float16_at(blocks, 0) * six_bits.view(np.int8)
    return affine(_of_sixteen(blocks[:, 8:], "IQ4_NL", 16, work), scale, None, work)


def mxfp4(blocks: Bytes, work: Workspace) -> Floats:
    """Raises NonFiniteError when a weight is infinite: the largest scales times the largest values are."""
    scale = _scales("MXFP4", "e8m0_to_fp32_half")[blocks[:, 0]]
    with np.errstate(over="ignore"):
        floats = affine(_of_sixteen(blocks[:, 1:], "MXFP4", 16, work), scale, None, work)
    return finite(floats) if scale.max() > 2.0**124 else floats


def nvfp4(blocks: Bytes, work: Workspace) -> Floats:
    """A scale of 0x7F, elsewhere a NaN, is zero, as in ggml."""
    scale = _scales("NVFP4", "ue4m3_to_fp32")[blocks[:, :4]]
    return affine(_of_sixteen(blocks[:, 4:], "NVFP4", 8, work), scale, None, work)


def _of_sixteen(packed: Bytes, name: str, run: int, work: Workspace) -> npt.NDArray[np.int8]:
    """The values of nibbles: in runs of `run` bytes the low halves, then the high halves. int8, flat."""
    values = np.take(_pairs(name), packed.reshape(-1), mode="clip")
    out, half = work.quants[: 2 * values.size], work.field[: values.size]
    places = out.view(f"V{run}").reshape(-1, 2)
    for index in range(2):
        np.copyto(half, values, casting="unsafe")
        places[:, index] = half.view(f"V{run}")
        np.right_shift(values, 8, out=values)
    return out.view(np.int8)


@cache
def _pairs(name: str) -> npt.NDArray[np.uint16]:
    """Byte -> the values of its two nibbles, the low one in the low byte."""
    values = np.array(_gguf_py(name).kvalues, np.int8).view(np.uint8).astype(np.uint16)
    return (values[:, None] << 8 | values).reshape(-1).astype(np.uint16)


@cache
def _scales(name: str, function: str) -> Floats:
    """Byte -> float32, for scales of one byte."""
    decode = getattr(_gguf_py(name), function)
    return np.asarray(decode(np.arange(256, dtype=np.uint8)), np.float32)


# -- groups of weights from a grid, with signs -------------------------------------------------------------------------


def iq2_xxs(blocks: Bytes, work: Workspace) -> Floats:
    pairs = blocks[:, 2:].copy().view(np.uint32).reshape(len(blocks), 8, 2)
    indices, rest = pairs[:, :, 0].copy().view(np.uint8), pairs[:, :, 1]
    scale = float16_at(blocks, 0) * ((rest >> 28).astype(np.float32) + np.float32(0.5)) * np.float32(0.25)
    return affine(_signed("IQ2_XXS", indices, _sevens(rest), work), scale, None, work)


def iq2_xs(blocks: Bytes, work: Workspace) -> Floats:
    words = blocks[:, 2:66].copy().view(np.uint16)
    scale = _quarters(blocks, 66)
    return affine(_signed("IQ2_XS", words & 511, _even_signs()[words >> 9], work), scale, None, work)


def iq2_s(blocks: Bytes, work: Workspace) -> Floats:
    upper = _fields(blocks[:, 66:74], _SHIFTS_2, 3)
    indices = blocks[:, 2:34] | upper.astype(np.uint16) << 8
    return affine(_signed("IQ2_S", indices, blocks[:, 34:66], work), _quarters(blocks, 74), None, work)


def iq3_xxs(blocks: Bytes, work: Workspace) -> Floats:
    rest = blocks[:, 66:].copy().view(np.uint32)
    scale = float16_at(blocks, 0) * ((rest >> 28).astype(np.float32) + np.float32(0.5)) * np.float32(0.5)
    return affine(_signed("IQ3_XXS", blocks[:, 2:66], _sevens(rest), work), scale, None, work)


def iq3_s(blocks: Bytes, work: Workspace) -> Floats:
    upper = _fields(blocks[:, 66:74], _BITS, 1)
    indices = blocks[:, 2:66] | upper.astype(np.uint16) << 8
    scale = float16_at(blocks, 0) * (_nibbles(blocks[:, 106:]) * 2 + 1)
    return affine(_signed("IQ3_S", indices, blocks[:, 74:106], work), scale, None, work)


def _quarters(blocks: Bytes, at: int) -> Floats:
    """Scales of four bits s, from byte `at` on, as d * (s + 1/2) / 4."""
    return float16_at(blocks, 0) * (_nibbles(blocks[:, at : at + 8]) + np.float32(0.5)) * np.float32(0.25)


def _sevens(words: npt.NDArray[np.uint32]) -> Bytes:
    """The signs of four groups of eight weights, in the low 28 bits of each word. One bit a weight."""
    signs: Bytes = _even_signs()[words[..., None] >> _SHIFTS_7 & 127]
    return signs


@cache
def _even_signs() -> Bytes:
    """Seven bits -> signs of eight weights: the last makes their number even."""
    return np.frombuffer(_gguf_py("IQ2_XXS").ksigns, np.uint8)


def _signed(name: str, indices: npt.NDArray[Any], signs: Bytes, work: Workspace) -> npt.NDArray[np.int8]:
    """Rows of a grid, negated where a bit of `signs` (a byte for eight weights) is set. int8, flat."""
    grid = _grid(name)
    quants = work.quants[: signs.size * 8]
    masks = work.bits[: signs.size * 8]
    np.take(grid, indices.reshape(-1), out=quants.view(grid.dtype), mode="clip")
    np.take(_masks(), signs.reshape(-1), out=masks.view(np.uint64), mode="clip")
    np.bitwise_xor(quants, masks, out=quants)
    np.subtract(quants, masks, out=quants)
    return quants.view(np.int8)


@cache
def _masks() -> Words:
    """Eight bits -> eight bytes, 0xFF for a set bit."""
    bits = np.arange(256, dtype=np.uint8)[:, None] >> _BITS & 1
    masks: Words = np.negative(bits).view(np.uint64).reshape(-1)
    return masks


@cache
def _grid(name: str) -> npt.NDArray[Any]:
    """A codebook of gguf-py: its groups of four or eight int8, each group one word."""
    values = _grid_values(name).astype(np.int8)
    return values.view(f"u{values.shape[1]}").reshape(-1)


def _grid_values(name: str) -> Floats:
    format_class = _gguf_py(name)
    format_class.init_grid()
    return np.asarray(format_class.grid, np.float32).reshape(format_class.grid_shape)


# -- groups from a ternary grid, shifted by an eighth ------------------------------------------------------------------


def iq1_s(blocks: Bytes, work: Workspace) -> Floats:
    high = blocks[:, 34:].copy().view(np.uint16)
    upper = high[..., None] >> _SHIFTS_3 & 7 | (high >> 12 & 8)[..., None]
    scale = float16_at(blocks, 0) * (2 * (high >> 12 & 7) + 1)
    return _in_eighths(blocks[:, 2:34], upper.reshape(len(blocks), 32), scale, work)


def iq1_m(blocks: Bytes, work: Workspace) -> Floats:
    words = blocks[:, 48:].copy().view(np.uint16)
    # The float16 is in the upper four bits of four words, which otherwise hold four scales each.
    half = words[:, 0] >> 12 | words[:, 1] >> 8 & 0xF0 | words[:, 2] >> 4 & 0xF00 | words[:, 3] & 0xF000
    scales = (words[..., None] >> _SHIFTS_3 & 7).reshape(len(blocks), 16)
    scale = finite(half.view(np.float16).astype(np.float32))[:, None] * (2 * scales + 1)
    return _in_eighths(blocks[:, :32], _nibbles(blocks[:, 32:48]).astype(np.uint16), scale, work)


def _in_eighths(lower: Bytes, upper: npt.NDArray[Any], scale: Floats, work: Workspace) -> Floats:
    """`upper` has three bits of the group's index, and in the fourth the direction of the shift."""
    quants = work.quants[: lower.size * 8]
    indices = lower | upper << 8
    np.take(_shifted_grid(), indices.reshape(-1), out=quants.view(np.uint64), mode="clip")
    return affine(quants.view(np.int8), scale * np.float32(0.125), None, work)


@cache
def _shifted_grid() -> Words:
    """Index -> eight times the group plus one; from 2048 on, minus one."""
    values = 8 * _grid_values("IQ1_S")
    return np.concatenate([values + 1, values - 1]).astype(np.int8).view(np.uint64).reshape(-1)


# -- three values per weight -------------------------------------------------------------------------------------------


def tq1_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 256]
    rows = quants.reshape(-1, 256)
    _trits(blocks[:, :32], 5, rows[:, :160], work)
    _trits(blocks[:, 32:48], 5, rows[:, 160:240], work)
    _trits(blocks[:, 48:52], 4, rows[:, 240:], work)
    np.subtract(quants, 1, out=quants)
    return affine(quants.view(np.int8), float16_at(blocks, 52), None, work)


def _trits(packed: Bytes, count: int, out: Bytes, work: Workspace) -> None:
    """Base-three digits: bytes [n, k], read as fractions of 256, to `out` [n, count * k]; first digits first."""
    run = np.dtype(f"V{packed.shape[1]}")
    fraction, digit = work.packed[: packed.size], work.field[: packed.size]
    np.copyto(fraction.reshape(packed.shape), packed)
    places = out.view(run)
    for index in range(count):
        # floor(3 * fraction / 256)
        np.add((fraction > 85).view(np.uint8), (fraction > 170).view(np.uint8), out=digit)
        places[:, index] = digit.view(run)
        np.multiply(fraction, 3, out=fraction)


def tq2_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 256]
    unpack(blocks[:, :64], 2, 32, quants, work)
    np.subtract(quants, 1, out=quants)
    return affine(quants.view(np.int8), float16_at(blocks, 64), None, work)


# -- small things ------------------------------------------------------------------------------------------------------


def _fields(packed: Bytes, shifts: Bytes, mask: int) -> Bytes:
    """Fields of each byte, side by side: [n, k] to [n, k * len(shifts)]."""
    fields: Bytes = packed[..., None] >> shifts & np.uint8(mask)
    return fields.reshape(len(packed), -1)


def _nibbles(packed: Bytes) -> Bytes:
    return _fields(packed, _SHIFTS_4, 15)


def _gguf_py(name: str) -> Any:
    """gguf-py's class for a format."""
    from gguf import quants

    return getattr(quants, name)
