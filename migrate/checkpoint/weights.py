"""Weights: from the blocks of a GGUF to the safetensors of a checkpoint, streamed through a few threads.

Each thread takes stretches of about a million weights: reads their rows, converts them in its own buffers, writes them
to their place. Memory is a few MB per thread whatever the size of the model.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from migrate.architectures.base import MappedTensor
from migrate.checkpoint.writer import CheckpointWriter, OutputTensor
from migrate.errors import GGUFError
from migrate.gguf.dequantize import NonFiniteError, Workspace, check_convertible, convert
from migrate.gguf.header import GGUFHeader
from migrate.gguf.tensors import TensorReader, stored_bytes
from migrate.gguf.types import DType

STRETCH = 1 << 20
"""Weights a thread takes at a time."""
MAX_DEFAULT_THREADS = 8

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all)."""


@dataclass(frozen=True, slots=True)
class _Job:
    tensor: MappedTensor
    first: int
    last: int


def output_tensors(tensors: Sequence[MappedTensor], dtype: DType) -> list[OutputTensor]:
    """What will be written, in order."""
    for tensor in tensors:
        check_convertible(tensor.source.type, tensor.source.name)
    return [OutputTensor(tensor.target, dtype, tensor.shape) for tensor in tensors]


def write_weights(
    header: GGUFHeader,
    tensors: Sequence[MappedTensor],
    dtype: DType,
    writer: CheckpointWriter,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Convert all `tensors` and hand their bytes to `writer`.

    Raises:
        GGUFError: NaN or infinite weights, a value too large for float16, a file that shrinks; names the tensor.
    """
    total = sum(tensor.source.parameters for tensor in tensors) * dtype.itemsize
    jobs = _locked(_jobs(tensors))
    done: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stop = threading.Event()
    count = threads or default_threads()
    with TensorReader(header) as reader, ThreadPoolExecutor(count) as pool:

        def work() -> None:
            try:
                convert_stretch = _Converter(reader, writer, dtype, header.path.name)
                for job in jobs:
                    if stop.is_set():
                        return
                    done.put(convert_stretch(job))
            except BaseException:
                stop.set()
                raise
            finally:
                done.put(None)

        futures = [pool.submit(work) for _ in range(count)]
        try:
            _report(done, count, total, progress)
        finally:
            stop.set()
        for future in futures:
            future.result()


def default_threads() -> int:
    """The cores this process may use, within reason: beyond a few, the disk decides."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_DEFAULT_THREADS))


def _report(done: queue.SimpleQueue[int | None], workers: int, total: int, progress: Progress | None) -> None:
    written = 0
    while workers:
        count = done.get()
        if count is None:
            workers -= 1
            continue
        written += count
        if progress:
            progress(written, total)


def _jobs(tensors: Sequence[MappedTensor]) -> Iterator[_Job]:
    for tensor in tensors:
        rows = tensor.source.parameters // tensor.row_weights
        step = max(1, STRETCH // tensor.row_weights)
        for first in range(0, rows, step):
            yield _Job(tensor, first, min(first + step, rows))


class _Converter:
    """One thread's buffers, and what it does with a job."""

    def __init__(self, reader: TensorReader, writer: CheckpointWriter, dtype: DType, file_name: str) -> None:
        self.reader, self.writer, self.dtype, self.file_name = reader, writer, dtype, file_name
        self.workspace = Workspace()
        self.raw = np.empty(0, np.uint8)
        self.out = np.empty(0, np.uint8)

    def __call__(self, job: _Job) -> int:
        """Bytes written."""
        source, order, width = job.tensor.source, job.tensor.row_order, job.tensor.row_weights
        rows, row_size = job.last - job.first, width * self.dtype.itemsize
        self._reserve(rows * stored_bytes(source, width), rows * row_size)
        if order is None:
            raw = self.reader.rows(source, width, job.first, job.last, self.raw)
        else:
            raw = self.reader.rows_in_order(source, width, order[job.first : job.last], self.raw)
        out = self.out[: rows * row_size]
        try:
            convert(raw, source.type, out, self.dtype, self.workspace)
        except NonFiniteError:
            raise GGUFError(
                f"{self.file_name}: tensor {source.name!r} has NaN or infinite weights"
                + (" in float16" if self.dtype is DType.FLOAT16 else ""),
                hint="--dtype bfloat16, if the values are only too large for float16; otherwise the file is damaged.",
            ) from None
        self.writer.write(job.tensor.target, job.first * row_size, out.data)
        return rows * row_size

    def _reserve(self, raw: int, out: int) -> None:
        if self.raw.size < raw:
            self.raw = np.empty(raw, np.uint8)
        if self.out.size < out:
            self.out = np.empty(out, np.uint8)


class _locked(Iterator[_Job]):  # noqa: N801 - reads as a verb at its use
    """One iterator shared by threads."""

    def __init__(self, jobs: Iterator[_Job]) -> None:
        self._jobs, self._lock = jobs, threading.Lock()

    def __next__(self) -> _Job:
        with self._lock:
            return next(self._jobs)
