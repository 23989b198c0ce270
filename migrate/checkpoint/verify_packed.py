"""Are the weights that stayed quantized what the GGUF says? The written files are read again and judged by gguf-py.

A packed weight is its integer times its scale. The integers are asked of gguf-py by giving it the blocks with all
scales set to 1, so that those under a scale of zero are compared, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.mxfp4 import NativeMXFP4
from migrate.checkpoint.packing import GROUP, PackQuantized, group_order, module_name
from migrate.checkpoint.requantize import Requantized
from migrate.checkpoint.verify import Array, Judge, WrittenCheckpoint, assembled, rounded
from migrate.checkpoint.weights import Assignment
from migrate.errors import BadInput
from migrate.gguf.header import GGUFHeader
from migrate.gguf.types import DType

_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""The magnitudes of an FP4 (E2M1) code (OCP Microscaling Formats 1.0); the fourth bit is the sign."""


def verify_assignments(header: GGUFHeader, assignments: Sequence[Assignment], model_dir: Path) -> dict[str, int]:
    """Compares every tensor with the GGUF; the numbers of tensors that are "dense", "packed", "requantized", "mxfp4".

    Dense ones are gguf-py's float32 rounded to nearest even; packed ones have the blob's integers and scales (rounded
    to nearest even where scales are bfloat16); requantized weights are within half a step. One tensor is in memory at
    a time. Raises BadInput naming the first tensor that differs.
    """
    judge, written = Judge(header), WrittenCheckpoint(model_dir)
    counts = {"dense": 0, "packed": 0, "requantized": 0, "mxfp4": 0}
    for tensor, encoding in assignments:
        if isinstance(encoding, PackQuantized):
            kind, right = "packed", _is_packed(tensor, encoding, judge, written)
        elif isinstance(encoding, Requantized):
            kind, right = "requantized", _is_near(tensor, encoding, judge, written)
        elif isinstance(encoding, NativeMXFP4):
            kind, right = "mxfp4", _is_mxfp4(tensor, judge, written)
        else:
            kind, right = "dense", judge.is_rounded(tensor, written)
        if not right:
            names = ", ".join(info.name for info in tensor.sources)
            raise BadInput(f"{model_dir}: {tensor.target} is not {names} of {header.path.name}")
        counts[kind] += 1
    return counts


def _is_packed(tensor: MappedTensor, encoding: PackQuantized, judge: Judge, written: WrittenCheckpoint) -> bool:
    scales = _blob_scales(tensor, judge)
    stored = written.bits(f"{module_name(tensor)}.weight_scale")[1]
    if not np.array_equal(rounded(scales, encoding.dtype), stored):
        return False
    return bool(np.array_equal(_integers(tensor, encoding.bits, written), assembled(tensor, judge.integers)))


def _is_near(tensor: MappedTensor, encoding: Requantized, judge: Judge, written: WrittenCheckpoint) -> bool:
    dtype, bits = written.bits(f"{module_name(tensor)}.weight_scale")
    steps = np.repeat(_floats(bits, dtype), GROUP, axis=1)
    error = np.abs(_integers(tensor, 8, written) * steps - assembled(tensor, judge.floats))
    return bool((error <= steps * np.float32(0.501)).all())


def _is_mxfp4(tensor: MappedTensor, judge: Judge, written: WrittenCheckpoint) -> bool:
    codes = written.raw(f"{tensor.target}_blocks")
    scales = written.raw(f"{tensor.target}_scales").astype(np.int32)
    pairs = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], GROUP)
    values = np.where(pairs & 8, -_FP4[pairs & 7], _FP4[pairs & 7])
    weights = np.ldexp(values, scales[..., None] - 127)
    rows = weights.reshape(*weights.shape[:2], -1).transpose(0, 2, 1)
    return bool(np.array_equal(rows, assembled(tensor, judge.floats)))


def _integers(tensor: MappedTensor, bits: int, written: WrittenCheckpoint) -> Array:
    """The packed integers of a matrix, float32 [rows, columns]."""
    words = written.raw(f"{module_name(tensor)}.weight_packed").view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    stored = (words[..., None] >> shifts & np.uint32((1 << bits) - 1)).reshape(tensor.shape)
    shape = written.raw(f"{module_name(tensor)}.weight_shape")
    if tuple(shape) != tensor.shape:
        raise BadInput(f"{module_name(tensor)}.weight_shape is {tuple(shape)}, not {tensor.shape}")
    return stored.astype(np.float32) - np.float32(1 << (bits - 1))


def _blob_scales(tensor: MappedTensor, judge: Judge) -> Array:
    """The float16 at the front of every block, float32 [rows, columns / 32], rows in the checkpoint's order."""
    parts = []
    for piece in tensor.pieces:
        matrices = [judge.scales(info, tensor.width // GROUP)[np.asarray(piece.rows)] for info in piece.sources]
        parts.append(np.stack(matrices, axis=1).reshape(-1, tensor.width // GROUP))
    scales = np.concatenate(parts)
    if tensor.columns is not None:
        scales = scales[:, list(group_order(tensor.columns) or ())]
    return np.ascontiguousarray(scales)


def _floats(bits: Array, dtype: DType) -> Array:
    if dtype is DType.FLOAT16:
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)
