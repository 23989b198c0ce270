"""Kernels for the formats whose weights are scale * integer (+ minimum): Q4_0 to Q8_0 and the K-quants.

The float32 operations and their order are gguf-py's (`gguf/quants.py`), so that results agree to the last bit.
"""

from __future__ import annotations

import numpy as np

from migrate.gguf.blocks import Bytes, Floats, Workspace, affine, float16_at, unpack


def q4_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    unpack(blocks[:, 2:], 4, 16, quants, work)
    np.subtract(quants, 8, out=quants)
    return affine(quants.view(np.int8), float16_at(blocks, 0), None, work)


def q4_1(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    unpack(blocks[:, 4:], 4, 16, quants, work)
    return affine(quants, float16_at(blocks, 0), float16_at(blocks, 2), work)


def _five_bits(blocks: Bytes, high_at: int, work: Workspace) -> Bytes:
    """The 32 five-bit numbers of each Q5_0 or Q5_1 block: nibbles after four bytes of fifth bits."""
    quants = work.quants[: len(blocks) * 32]
    unpack(blocks[:, high_at + 4 :], 4, 16, quants, work)
    fifth = np.unpackbits(blocks[:, high_at : high_at + 4].copy().reshape(-1), bitorder="little")
    np.left_shift(fifth, 4, out=fifth)
    np.bitwise_or(quants, fifth, out=quants)
    return quants


def q5_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = _five_bits(blocks, 2, work)
    np.subtract(quants, 16, out=quants)
    return affine(quants.view(np.int8), float16_at(blocks, 0), None, work)


def q5_1(blocks: Bytes, work: Workspace) -> Floats:
    return affine(_five_bits(blocks, 4, work), float16_at(blocks, 0), float16_at(blocks, 2), work)


def q8_0(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 32]
    np.copyto(quants.reshape(-1, 32), blocks[:, 2:])
    return affine(quants.view(np.int8), float16_at(blocks, 0), None, work)


def q2_k(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 256]
    unpack(blocks[:, 16:80], 2, 32, quants, work)
    packed = blocks[:, :16]
    scale = float16_at(blocks, 80) * (packed & 15)
    minimum = float16_at(blocks, 82) * (packed >> 4)
    return affine(quants, scale, np.negative(minimum, out=minimum), work)


def q3_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    unpack(blocks[:, 32:96], 2, 32, quants, work)
    unpack(blocks[:, :32], 1, 32, high, work)
    # A set bit means no offset, a clear one means minus four.
    np.left_shift(high, 2, out=high)
    np.add(quants, high, out=quants)
    np.subtract(quants, 4, out=quants)
    lower, upper = np.empty(n * 16, np.uint8), np.empty(n * 16, np.uint8)
    unpack(blocks[:, 96:104], 4, 8, lower, work)
    unpack(blocks[:, 104:108], 2, 4, upper, work)
    six_bits = (lower | upper << 4) - np.uint8(32)
    scale = float16_at(blocks, 108) * six_bits.view(np.int8).reshape(n, 16)
    return affine(quants.view(np.int8), scale, None, work)


def _scales_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """The eight scales and (negated) minima of Q4_K and Q5_K blocks, float32 [n, 8]: six bits each, in 12 bytes."""
    n = len(blocks)
    low, middle, upper = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale, minimum = np.empty((n, 8), np.float32), np.empty((n, 8), np.float32)
    scale[:, :4] = low & 0x3F
    scale[:, 4:] = (upper & 0x0F) | ((low >> 2) & 0x30)
    minimum[:, :4] = middle & 0x3F
    minimum[:, 4:] = (upper >> 4) | ((middle >> 2) & 0x30)
    scale *= float16_at(blocks, 0)
    minimum *= -float16_at(blocks, 2)
    return scale, minimum


def q4_k(blocks: Bytes, work: Workspace) -> Floats:
    quants = work.quants[: len(blocks) * 256]
    unpack(blocks[:, 16:], 4, 32, quants, work)
    return affine(quants, *_scales_and_minima(blocks), work)


def q5_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    unpack(blocks[:, 48:], 4, 32, quants, work)
    unpack(blocks[:, 16:48], 1, 32, high, work)
    np.left_shift(high, 4, out=high)
    np.bitwise_or(quants, high, out=quants)
    return affine(quants, *_scales_and_minima(blocks), work)


def q6_k(blocks: Bytes, work: Workspace) -> Floats:
    n = len(blocks)
    quants, high = work.quants[: n * 256], work.bits[: n * 256]
    unpack(blocks[:, :128], 4, 64, quants, work)
    unpack(blocks[:, 128:192], 2, 32, high, work)
    np.left_shift(high, 4, out=high)
    np.bitwise_or(quants, high, out=quants)
    np.subtract(quants, 32, out=quants)
    scale = float16_at(blocks, 208) * blocks[:, 192:208].view(np.int8)
    return affine(quants.view(np.int8), scale, None, work)
