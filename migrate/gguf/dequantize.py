"""GGML blocks to bfloat16, float16 or float32, bit for bit what gguf-py computes, rounded to nearest even.

`convert` works through a buffer in pieces, with numpy only: the block formats unpack to a dozen vectorised passes over
such a piece. numpy releases the GIL in every pass, so threads scale; each needs its own `Workspace`.
docs/benchmarks.md has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate.errors import GGUFError
from migrate.gguf import codebooks, kernels
from migrate.gguf.blocks import PIECE, Bytes, Floats, NonFiniteError, Workspace
from migrate.gguf.types import DType, GGMLType

__all__ = ["PIECE", "Bytes", "Floats", "NonFiniteError", "Workspace", "check_convertible", "convert"]


def convert(raw: Bytes, kind: GGMLType, out: Bytes, dtype: DType, work: Workspace) -> None:
    """Convert whole blocks.

    `raw`: contiguous bytes of n blocks of `kind`. `out`: contiguous bytes for their weights as `dtype`
    (n * block_size * itemsize), written in order, little-endian. A type that is `dtype` already is copied.

    Raises:
        NonFiniteError: a scale or weight is NaN or infinite, or does not fit `dtype`.
        GGUFError: `kind` cannot be dequantized.
    """
    if _COPIES.get(kind) is dtype:
        _check_finite(raw, dtype)
        out[:] = raw
        return
    kernel = _KERNELS.get(kind)
    if kernel is None:
        raise GGUFError(f"{kind.name} cannot be dequantized")
    blocks = raw.reshape(-1, kind.block_bytes)
    step = PIECE // kind.block_size
    width = kind.block_size * dtype.itemsize
    for first in range(0, len(blocks), step):
        piece = blocks[first : first + step]
        _store(kernel(piece, work), out[first * width : (first + len(piece)) * width], dtype, work)
    if kind is GGMLType.F32 and dtype is DType.BFLOAT16:
        _check_finite(out, dtype)  # The largest float32 round up to infinity; no other type has numbers that large.


def check_convertible(kind: GGMLType, name: str) -> None:
    """Raise GGUFError when tensors of this type cannot become floats: gguf-py and llama.cpp have no weights in it."""
    if kind in _KERNELS:
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
    np.right_shift(words, 16, out=words)
    np.copyto(out, words, casting="unsafe")


def _check_finite(data: Bytes, dtype: DType) -> None:
    exponent = _EXPONENT[dtype]
    bits: npt.NDArray[Any] = data.view(np.uint32 if dtype is DType.FLOAT32 else np.uint16)
    for first in range(0, bits.size, PIECE):
        if np.any((bits[first : first + PIECE] & exponent) == exponent):
            raise NonFiniteError


# -- floats ------------------------------------------------------------------------------------------------------------


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
    GGMLType.Q4_0: kernels.q4_0,
    GGMLType.Q4_1: kernels.q4_1,
    GGMLType.Q5_0: kernels.q5_0,
    GGMLType.Q5_1: kernels.q5_1,
    GGMLType.Q8_0: kernels.q8_0,
    GGMLType.Q2_K: kernels.q2_k,
    GGMLType.Q3_K: kernels.q3_k,
    GGMLType.Q4_K: kernels.q4_k,
    GGMLType.Q5_K: kernels.q5_k,
    GGMLType.Q6_K: kernels.q6_k,
    GGMLType.IQ1_S: codebooks.iq1_s,
    GGMLType.IQ1_M: codebooks.iq1_m,
    GGMLType.IQ2_XXS: codebooks.iq2_xxs,
    GGMLType.IQ2_XS: codebooks.iq2_xs,
    GGMLType.IQ2_S: codebooks.iq2_s,
    GGMLType.IQ3_XXS: codebooks.iq3_xxs,
    GGMLType.IQ3_S: codebooks.iq3_s,
    GGMLType.IQ4_NL: codebooks.iq4_nl,
    GGMLType.IQ4_XS: codebooks.iq4_xs,
    GGMLType.TQ1_0: codebooks.tq1_0,
    GGMLType.TQ2_0: codebooks.tq2_0,
    GGMLType.MXFP4: codebooks.mxfp4,
    GGMLType.NVFP4: codebooks.nvfp4,
}
