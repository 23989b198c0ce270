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
    """An open GGUF, with all its parts. Safe to use from several threads: every read names its position.

    Raises GGUFError when a file cannot be opened or read.
    """

    def __init__(self, header: GGUFHeader) -> None:
        self._names = tuple(path.name for path in header.files)
        self._fds: list[int] = []
        try:
            for path in header.files:
                self._fds.append(os.open(path, os.O_RDONLY))
        except OSError as error:
            self.close()
            raise GGUFError(f"{path}: cannot be read: {error.strerror or error}") from error

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def rows(self, tensor: TensorInfo, width: int, first: int, last: int, buffer: Bytes) -> Bytes:
        """Rows [first, last) of `width` weights as stored, flat, in `buffer` (which must be large enough)."""
        size = stored_bytes(tensor, width)
        wanted = buffer[: (last - first) * size]
        self._read(tensor, tensor.offset + first * size, wanted)
        return wanted

    def rows_in_order(self, tensor: TensorInfo, width: int, order: Sequence[int], buffer: Bytes) -> Bytes:
        """The rows `order` names, in that order, flat. Reads the whole stretch between the first and last of them."""
        first, last = min(order), max(order) + 1
        size = stored_bytes(tensor, width)
        stretch = np.empty((last - first) * size, np.uint8)
        self._read(tensor, tensor.offset + first * size, stretch)
        wanted = buffer[: len(order) * size]
        np.take(stretch.reshape(-1, size), np.asarray(order) - first, axis=0, out=wanted.reshape(-1, size))
        return wanted

    def _read(self, tensor: TensorInfo, offset: int, into: Bytes) -> None:
        fd, view = self._fds[tensor.file], into.data
        while view:
            try:
                count = os.preadv(fd, [view], offset)
            except OSError as error:
                name = self._names[tensor.file]
                raise GGUFError(f"{name}: tensor {tensor.name!r} cannot be read: {error.strerror or error}") from error
            if not count:
                raise GGUFError(f"{self._names[tensor.file]}: the file ends inside tensor {tensor.name!r}")
            view, offset = view[count:], offset + count


def stored_bytes(tensor: TensorInfo, weights: int) -> int:
    """Bytes that many consecutive weights take. Raises GGUFError when they are not whole blocks."""
    if weights % tensor.type.block_size:
        raise GGUFError(f"tensor {tensor.name!r}: {weights} weights are not whole {tensor.type.name} blocks")
    return weights // tensor.type.block_size * tensor.type.block_bytes
