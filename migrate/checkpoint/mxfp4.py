"""gpt-oss experts as the family's own checkpoints store them: MXFP4 blocks and scales, moved unchanged.

A block of the GGUF is 17 bytes: the exponent (e8m0) that 32 weights share, then their four-bit codes, weights i and
i + 16 in byte i. A checkpoint keeps `NAME_scales` uint8 [experts, rows, columns / 32] and `NAME_blocks` uint8
[experts, rows, columns / 32, 16] with weights 2i and 2i + 1 in byte i, the first in the low half; codes and exponents
are the same. Rows are those of a matrix that maps columns to rows; the unquantized form is its transpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from migrate.architectures.base import ModelLayout
from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.packing import pair_nibbles
from migrate.checkpoint.weights import Scratch, Stretch
from migrate.checkpoint.writer import OutputTensor, Storage
from migrate.gguf.dequantize import NonFiniteError
from migrate.gguf.types import GGMLType

GROUP = 32
BYTES = 16
"""Of the codes of a group."""
_NOT_A_NUMBER = 0xFF

QUANTIZATION_CONFIG: dict[str, Any] = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}
"""What config.json says of such a checkpoint."""


@dataclass(frozen=True, slots=True)
class NativeMXFP4:
    """Blocks and scales of stacked experts."""

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        experts, columns, rows = tensor.shape
        return [
            OutputTensor(f"{tensor.target}_blocks", Storage.U8, (experts, rows, columns // GROUP, BYTES)),
            OutputTensor(f"{tensor.target}_scales", Storage.U8, (experts, rows, columns // GROUP)),
        ]

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        blocks = stretch.raw.reshape(-1, stretch.type.block_bytes)
        scales = np.ascontiguousarray(blocks[:, 0])
        if (scales == _NOT_A_NUMBER).any():
            raise NonFiniteError("NaN scales")
        codes = scratch.bytes("codes", len(blocks) * BYTES)
        pair_nibbles(blocks[:, 1:], codes, scratch)
        first = stretch.at // GROUP
        yield f"{tensor.target}_blocks", first * BYTES, codes.data
        yield f"{tensor.target}_scales", first, scales.data


def is_native(tensor: MappedTensor) -> bool:
    """Whether a tensor is one of gpt-oss's expert matrices, stored as MXFP4 throughout."""
    return (
        tensor.types == {GGMLType.MXFP4}
        and len(tensor.shape) == 3
        and tensor.shape[1] == tensor.width
        and tensor.operation is None
        and all(piece.transposed for piece in tensor.pieces)
    )


def native_mxfp4(layout: ModelLayout) -> bool:
    """Whether a model is a gpt-oss whose expert matrices are all MXFP4, so that it can stay what it was released as."""
    if layout.architecture.model_type != "gpt_oss":
        return False
    matrices = [tensor for tensor in layout.tensors if len(tensor.shape) == 3]
    return bool(matrices) and all(is_native(tensor) for tensor in matrices)
