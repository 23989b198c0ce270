"""Could these quantized blocks have been made from these weights?

Three answers, by what a type tells. Types without a search (F16, BF16, Q8_0, Q4_0, Q5_0, ...) are made again by gguf-py
and compared byte for byte. Otherwise every weight must lie in the cell of its code: the numbers that are nearer to it
than to the neighbouring codes, under the block's own scales. True originals leave a few in a hundred thousand outside
(docs/original.md has the measurements); a change of a hundredth of a step, which any fine-tuning is, moves one weight
in a hundred out. The codebooks of IQ1 to IQ3 and the ternary types have no such cells: only the size of the error is
compared, which cannot tell a fine-tune from its base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate.gguf.dequantize import Bytes, Floats, Workspace, convert
from migrate.gguf.types import DType, GGMLType

_REMADE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""gguf-py and llama.cpp quantize these to the same bytes, when no importance matrix is used."""

_CODES: dict[str, tuple[int, int, int]] = {
    "Q4_0": (2, 18, 16),
    "Q4_1": (4, 20, 16),
    "Q5_0": (2, 22, 32),
    "Q5_1": (4, 24, 32),
    "Q2_K": (16, 80, 4),
    "Q3_K": (0, 96, 8),
    "Q4_K": (16, 144, 16),
    "Q5_K": (16, 176, 32),
    "Q6_K": (0, 192, 64),
}
"""Evenly spaced codes: first and last byte of them in a block, and how many there are. All bits clear is the first
code, all bits set the last (ggml-common.h)."""

_NIBBLES = {"IQ4_NL": (2, 18), "IQ4_XS": (8, 136), "MXFP4": (1, 17)}
"""Codes of four bits that stand for unevenly spaced numbers: first and last byte of them in a block."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Weights beside the blocks they should be in.

    `remade`: the blocks are byte for byte what the weights give. `outside`: weights that are not in their code's cell;
    None when the type has no cells. `squared_error` and `squared_norm`: of the differences, and of the weights.
    """

    weights: int
    remade: bool
    outside: int | None
    squared_error: float
    squared_norm: float

    @property
    def error(self) -> float:
        """RMS of the differences as a share of the weights' RMS."""
        return float(np.sqrt(self.squared_error / self.squared_norm)) if self.squared_norm else 0.0

    def __add__(self, other: Comparison) -> Comparison:
        outside = None if self.outside is None or other.outside is None else self.outside + other.outside
        return Comparison(
            self.weights + other.weights,
            self.remade and other.remade,
            outside,
            self.squared_error + other.squared_error,
            self.squared_norm + other.squared_norm,
        )


def compare(weights: Floats, raw: Bytes, kind: GGMLType, *, tolerance: float = 0.0) -> Comparison:
    """`weights` float32, flat; `raw` the blocks of the same rows, flat. `tolerance`, relative, is for numbers that
    went through a function (exp) before they were stored."""
    stored = _floats(raw, kind)
    difference = np.abs(weights - stored)
    squared = float(np.square(difference, dtype=np.float64).sum())
    norm = float(np.square(weights, dtype=np.float64).sum())
    if not kind.is_quantized:
        same = _is_float(weights, raw, kind) or bool((difference <= tolerance * np.abs(stored)).all())
        outside = 0 if same else int((difference > _precision(kind) * np.abs(stored)).sum())
        return Comparison(weights.size, same, outside, squared, norm)
    if kind.name in _REMADE and _is_remade(weights, raw, kind):
        return Comparison(weights.size, True, 0, squared, norm)
    half = _half_cell(weights, stored, raw, kind)
    count = None if half is None else int((difference > half * 1.002 + np.abs(weights) * 2**-10 + 2**-24).sum())
    return Comparison(weights.size, False, count, squared, norm)


def _is_float(weights: Floats, raw: Bytes, kind: GGMLType) -> bool:
    if kind is GGMLType.F32:
        return bool(np.array_equal(weights, raw.view(np.float32)))
    if kind is GGMLType.F16:
        with np.errstate(over="ignore"):
            return bool(np.array_equal(weights.astype(np.float16), raw.view(np.float16)))
    bits = weights.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return bool(np.array_equal(nearest, raw.view(np.uint16)))


def _precision(kind: GGMLType) -> float:
    return {GGMLType.F16: 2.0**-11, GGMLType.BF16: 2.0**-8}.get(kind, 2.0**-24)


def _is_remade(weights: Floats, raw: Bytes, kind: GGMLType) -> bool:
    """From the weights as they are, or as the float16 a first conversion often makes of them."""
    import gguf

    quantization = gguf.GGMLQuantizationType(int(kind))
    with np.errstate(over="ignore", invalid="ignore"):
        for source in (weights, weights.astype(np.float16).astype(np.float32)):
            blocks: npt.NDArray[Any] = gguf.quantize(source.reshape(-1, kind.block_size), quantization)
            if np.array_equal(blocks.reshape(-1), raw):
                return True
    return False


def _half_cell(weights: Floats, stored: Floats, raw: Bytes, kind: GGMLType) -> Floats | None:
    """How far each weight may be from its code's number; None for types without cells."""
    if kind is GGMLType.Q8_0:
        lowest, highest = _with_codes(raw, kind, 2, 34, 0), _with_codes(raw, kind, 2, 34, 127)
        return np.asarray(np.abs(highest - lowest) / 254, np.float32)
    if kind.name in _CODES:
        begin, end, levels = _CODES[kind.name]
        one, other = _with_codes(raw, kind, begin, end, 0x00), _with_codes(raw, kind, begin, end, 0xFF)
        half = np.abs(other - one) / (2 * (levels - 1))
        beyond = (weights > np.maximum(one, other)) | (weights < np.minimum(one, other))
        # The last code takes what lies beyond it, as far as the search for the best scale left it there.
        half[beyond] = np.maximum(half, 0.25 * np.abs(stored))[beyond] * 2
        return np.asarray(half, np.float32)
    if kind.name in _NIBBLES:
        begin, end = _NIBBLES[kind.name]
        nearest = np.full(weights.shape, np.inf, np.float32)
        for code in range(16):
            np.minimum(nearest, np.abs(weights - _with_codes(raw, kind, begin, end, code * 0x11)), out=nearest)
        return nearest
    return None


def _with_codes(raw: Bytes, kind: GGMLType, begin: int, end: int, byte: int) -> Floats:
    """The blocks' weights if every code were the same."""
    blocks = raw.reshape(-1, kind.block_bytes).copy()
    blocks[:, begin:end] = byte
    return _floats(blocks.reshape(-1), kind)


def _floats(raw: Bytes, kind: GGMLType) -> Floats:
    out = np.empty(raw.size // kind.block_bytes * kind.block_size * 4, np.uint8)
    convert(np.ascontiguousarray(raw), kind, out, DType.FLOAT32, Workspace())
    return out.view(np.float32)
