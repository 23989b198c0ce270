"""What the kernels share: scratch memory, unpacking of bit fields, scaling. numpy only.

A kernel turns blocks, uint8 [n, block_bytes], into float32 [n * block_size] in `work.floats`. What costs time is
numpy's inner loop being short, so fields are unpacked from one contiguous run and put in their places as whole items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PIECE = 1 << 18
"""Weights per piece: 3 MB of scratch. Smaller ones would fit the L2 cache but keep threads waiting for each other: the
interpreter's lock changes hands in every pass. A multiple of every block size."""


class NonFiniteError(ValueError):
    """A scale or weight is NaN or infinite, or does not fit the target dtype."""


class Workspace:
    """Scratch memory of one thread."""

    def __init__(self) -> None:
        self.floats: Floats = np.empty(PIECE, np.float32)
        self.words = np.empty(PIECE, np.uint32)
        self.quants: Bytes = np.empty(PIECE, np.uint8)
        self.bits: Bytes = np.empty(PIECE, np.uint8)
        self.packed: Bytes = np.empty(PIECE, np.uint8)
        self.field: Bytes = np.empty(PIECE, np.uint8)


def float16_at(blocks: Bytes, at: int) -> Floats:
    """The float16 at byte `at` of every block, as float32 [n, 1]. Raises NonFiniteError."""
    return finite(blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32))


def finite(scale: Floats) -> Floats:
    """`scale` itself. Raises NonFiniteError when one is NaN or infinite."""
    if not np.isfinite(scale).all():
        raise NonFiniteError
    return scale


def unpack(packed: Bytes, width: int, run: int, out: Bytes, work: Workspace) -> None:
    """Fields of `width` bits, the lowest first, to bytes.

    `packed` [n, k] has runs of `run` bytes; `out`, flat, gets [n, k / run, 8 / width, run]: the lowest field of every
    byte of the run, then the next.
    """
    flat = _contiguous(packed, work)
    field = work.field[: flat.size]
    item = np.dtype(f"V{run}")
    places = out.view(item).reshape(-1, 8 // width)
    for index in range(8 // width):
        np.right_shift(flat, width * index, out=field)
        np.bitwise_and(field, (1 << width) - 1, out=field)
        places[:, index] = field.view(item)


def _contiguous(packed: Bytes, work: Workspace) -> Bytes:
    flat = work.packed[: packed.size]
    np.copyto(flat.reshape(packed.shape), packed)
    return flat


def affine(quants: npt.NDArray[Any], scale: Floats, minimum: Floats | None, work: Workspace) -> Floats:
    """quants * scale + minimum, each scale for as many consecutive quants as there are per scale."""
    floats = work.floats[: quants.size]
    np.copyto(floats, quants.reshape(-1))
    groups = floats.reshape(scale.size, -1)
    np.multiply(groups, scale.reshape(-1, 1), out=groups)
    if minimum is not None:
        np.add(groups, minimum.reshape(-1, 1), out=groups)
    return floats
