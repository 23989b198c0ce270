"""Reading the data of a GGUF's tensors: raw rows by position, without mapping the file.

Reads go through the page cache into small buffers. A mapping would do the same work, but every page of it that was
touched counts as the process's memory until it ends.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from migrate.errors import GGUFError
from migrate.gguf.dequantize import Bytes
from migrate.gguf.header import GGUFHeader, TensorInfo


class TensorReader:
    """An open GGUF. Safe to use from several threads: every read names its position."""

    def __init__(self, header: GGUFHeader) -> None:
        self._name = header.path.name
        self._fd = os.open(header.path, os.O_RDONLY)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)

    def rows(self, tensor: TensorInfo, first: int, last: int, buffer: Bytes) -> Bytes:
        """Rows [first, last) as stored, flat, in `buffer` (which must be large enough).

        A row is one run along the contiguous dimension; all other dimensions are counted through.
        """
        width = row_bytes(tensor)
        wanted = buffer[: (last - first) * width]
        self._read(tensor, tensor.offset + first * width, wanted)
        return wanted

    def rows_in_order(self, tensor: TensorInfo, order: Sequence[int], buffer: Bytes) -> Bytes:
        """The rows `order` names, in that order, flat. Reads the whole stretch between the first and last of them."""
        first, last = min(order), max(order) + 1
        width = row_bytes(tensor)
        stretch = np.empty((last - first) * width, np.uint8)
        self._read(tensor, tensor.offset + first * width, stretch)
        wanted = buffer[: len(order) * width]
        np.take(stretch.reshape(-1, width), np.asarray(order) - first, axis=0, out=wanted.reshape(-1, width))
        return wanted

    def _read(self, tensor: TensorInfo, offset: int, into: Bytes) -> None:
        view = into.data
        while view:
            count = os.preadv(self._fd, [view], offset)
            if not count:
                raise GGUFError(f"{self._name}: the file ends inside tensor {tensor.name!r}")
            view, offset = view[count:], offset + count


def row_bytes(tensor: TensorInfo) -> int:
    """Bytes of one row (the contiguous dimension)."""
    return tensor.shape[0] // tensor.type.block_size * tensor.type.block_bytes


def row_count(tensor: TensorInfo) -> int:
    """Number of rows, over all dimensions but the contiguous one."""
    return tensor.parameters // tensor.shape[0]
