"""Weights: from the blocks of a GGUF to the safetensors of a checkpoint, streamed through a few threads.

Each thread takes stretches of about a million weights: reads their rows, encodes them in its own buffers, writes them
to their place. Memory is a few MB per thread whatever the size of the model; only a matrix that is written transposed
(experts of some families, one at a time) is held whole.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from migrate.architectures.tensors import MappedTensor, Piece
from migrate.checkpoint.writer import CheckpointWriter, OutputTensor
from migrate.errors import GGUFError
from migrate.gguf.dequantize import Bytes, NonFiniteError, Workspace, convert
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.tensors import TensorReader, stored_bytes
from migrate.gguf.types import DType, GGMLType

STRETCH = 1 << 20
"""Weights a thread takes at a time."""
MAX_DEFAULT_THREADS = 8

Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all)."""


class Scratch:
    """Buffers of one thread; they grow to what is asked of them and stay."""

    def __init__(self) -> None:
        self.workspace = Workspace()
        self._buffers: dict[str, Bytes] = {}

    def bytes(self, name: str, size: int) -> Bytes:
        """`size` bytes of undefined content, reused at the next call with the same name."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, np.uint8)
        return buffer[:size]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Rows as the GGUF stores them: `raw` holds `rows` rows of `width` weights of one type, in the order wanted.

    They are the tensor's weights from `at` on, row after row; or, `transposed`, column after column.
    """

    raw: Bytes
    type: GGMLType
    width: int
    rows: int
    at: int
    transposed: bool

    @property
    def first(self) -> int:
        """The number of the first row, in a tensor whose rows are all of this width."""
        return self.at // self.width


class Encoding(Protocol):
    """A way to store a tensor in the checkpoint. One object serves all threads."""

    def outputs(self, tensor: MappedTensor) -> list[OutputTensor]:
        """What is written for a tensor."""
        ...

    def encode(self, tensor: MappedTensor, stretch: Stretch, scratch: Scratch) -> Iterable[tuple[str, int, memoryview]]:
        """(name of an output, byte in it, bytes) for some rows. Raises NonFiniteError."""
        ...


Assignment = tuple[MappedTensor, Encoding]


def output_tensors(assignments: Sequence[Assignment]) -> list[OutputTensor]:
    """What will be written, in order."""
    return [output for tensor, encoding in assignments for output in encoding.outputs(tensor)]


@dataclass(frozen=True, slots=True)
class _Job:
    tensor: MappedTensor
    encoding: Encoding
    piece: Piece
    width: int
    begin: int
    end: int
    at: int


def write_weights(
    header: GGUFHeader,
    assignments: Sequence[Assignment],
    writer: CheckpointWriter,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Encode all tensors and hand their bytes to `writer`.

    Raises:
        GGUFError: NaN or infinite weights, a value too large for float16, a file that shrinks; names the tensor.
    """
    total = sum(output.nbytes for output in output_tensors(assignments))
    jobs = _locked(_jobs(assignments))
    done: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stop = threading.Event()
    count = threads or default_threads()
    with TensorReader(header) as reader, ThreadPoolExecutor(count) as pool:

        def work() -> None:
            try:
                worker = _Worker(reader, writer, header.path.name)
                for job in jobs:
                    if stop.is_set():
                        return
                    done.put(worker(job))
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


def _jobs(assignments: Sequence[Assignment]) -> Iterator[_Job]:
    for tensor, encoding in assignments:
        at = 0
        for piece in tensor.pieces:
            width = piece.width or tensor.width
            step = len(piece.rows) if piece.transposed else max(1, STRETCH // (width * len(piece.sources)))
            for begin in range(0, len(piece.rows), max(1, step)):
                end = min(begin + step, len(piece.rows))
                yield _Job(tensor, encoding, piece, width, begin, end, at)
                at += (end - begin) * len(piece.sources) * width


class _Worker:
    """One thread's buffers, and what it does with a job."""

    def __init__(self, reader: TensorReader, writer: CheckpointWriter, file_name: str) -> None:
        self.reader, self.writer, self.file_name = reader, writer, file_name
        self.scratch = Scratch()

    def __call__(self, job: _Job) -> int:
        """Bytes written."""
        written = 0
        try:
            stretch = self._read(job)
            for name, at, data in job.encoding.encode(job.tensor, stretch, self.scratch):
                self.writer.write(name, at, data)
                written += data.nbytes
        except NonFiniteError as error:
            raise GGUFError(
                f"{self.file_name}: tensor {job.piece.sources[0].name!r} has {error}",
                hint="--dtype bfloat16, if the values are only too large for float16; otherwise the file is damaged.",
            ) from None
        return written

    def _read(self, job: _Job) -> Stretch:
        sources, width, rows = job.piece.sources, job.width, job.end - job.begin
        size = stored_bytes(sources[0], width)
        raw = self.scratch.bytes("raw", rows * size * len(sources))
        if len(sources) == 1:
            raw = self._rows(job, sources[0], raw)
        elif any(source.type is not sources[0].type for source in sources):
            return self._read_mixed(job)
        else:
            turns = raw.reshape(rows, len(sources), size)
            for index, source in enumerate(sources):
                part = self._rows(job, source, self.scratch.bytes("part", rows * size))
                turns[:, index] = part.reshape(rows, size)
        return Stretch(raw, sources[0].type, width, rows * len(sources), job.at, job.piece.transposed)

    def _read_mixed(self, job: _Job) -> Stretch:
        """Sources of several types that take turns: as float32, which holds all of their weights."""
        sources, width, rows = job.piece.sources, job.width, job.end - job.begin
        raw = self.scratch.bytes("mixed", rows * len(sources) * width * 4)
        turns = raw.reshape(rows, len(sources), width * 4)
        for index, source in enumerate(sources):
            part = self._rows(job, source, self.scratch.bytes("part", rows * stored_bytes(source, width)))
            floats = self.scratch.bytes("floats", rows * width * 4)
            convert(part, source.type, floats, DType.FLOAT32, self.scratch.workspace)
            turns[:, index] = floats.reshape(rows, width * 4)
        return Stretch(raw, GGMLType.F32, width, rows * len(sources), job.at, job.piece.transposed)

    def _rows(self, job: _Job, source: TensorInfo, buffer: Bytes) -> Bytes:
        rows = job.piece.rows[job.begin : job.end]
        if job.piece.contiguous:
            return self.reader.rows(source, job.width, rows[0], rows[-1] + 1, buffer)
        return self.reader.rows_in_order(source, job.width, rows, buffer)


class _locked(Iterator[_Job]):  # noqa: N801 - reads as a verb at its use
    """One iterator shared by threads."""

    def __init__(self, jobs: Iterator[_Job]) -> None:
        self._jobs, self._lock = jobs, threading.Lock()

    def __next__(self) -> _Job:
        with self._lock:
            return next(self._jobs)
