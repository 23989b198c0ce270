"""Writing safetensors of any size in constant memory: all sizes are known first, then bytes go to their places.

Format: u64 length of a JSON header, the header (name -> dtype, shape, data_offsets; padded with spaces), the data.
Files are named and indexed as Hugging Face does: `model.safetensors`, or shards and `model.safetensors.index.json`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from pathlib import Path
from types import TracebackType

from migrate.errors import MigrateError

MAX_SHARD_BYTES = 5_000_000_000
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEADER_ALIGNMENT = 8


class Storage(StrEnum):
    """What safetensors calls the types of numbers used here."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    U8 = "U8"
    I32 = "I32"
    I64 = "I64"

    @property
    def itemsize(self) -> int:
        return {"F32": 4, "F16": 2, "BF16": 2, "U8": 1, "I32": 4, "I64": 8}[self.value]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be written. `shape` is torch's, C order."""

    name: str
    dtype: Storage
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: its name, its header, and where in the file each tensor's bytes begin."""

    file_name: str
    header: bytes
    offsets: dict[str, int]
    size: int


def plan_shards(
    tensors: Sequence[OutputTensor], max_bytes: int = MAX_SHARD_BYTES, single_file: str = SINGLE_FILE
) -> list[Shard]:
    """Distribute tensors over files in order; a file is closed before it would exceed `max_bytes`."""
    groups: list[list[OutputTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return [_shard(single_file, groups[0])]
    total = len(groups)
    return [_shard(f"model-{i:05d}-of-{total:05d}.safetensors", group) for i, group in enumerate(groups, 1)]


def _shard(file_name: str, tensors: Sequence[OutputTensor]) -> Shard:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    begins: dict[str, int] = {}
    for tensor in tensors:
        end = position + tensor.nbytes
        offsets = [position, end]
        entries[tensor.name] = {
            "dtype": tensor.dtype.value,
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        begins[tensor.name] = position
        position = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return Shard(
        file_name, header, {name: len(header) + begin for name, begin in begins.items()}, len(header) + position
    )


def index_json(shards: Sequence[Shard], tensors: Iterable[OutputTensor]) -> str:
    """The text of `model.safetensors.index.json`."""
    tensors = list(tensors)
    weight_map = {name: shard.file_name for shard in shards for name in shard.offsets}
    metadata = {
        "total_parameters": sum(prod(tensor.shape) for tensor in tensors),
        "total_size": sum(tensor.nbytes for tensor in tensors),
    }
    return json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"


def check_disk_space(directory: Path, needed: int) -> None:
    """Raise MigrateError when the file system of `directory` has less than `needed` bytes free."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise MigrateError(
            f"{directory}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            hint="Free some space, or write to another disk.",
        )


class CheckpointWriter:
    """Writes the shards of a checkpoint; tensors' bytes may come in any order and from several threads.

    On leaving the context without an error the index is written and, if `durable`, everything is on the disk.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Sequence[OutputTensor],
        max_bytes: int = MAX_SHARD_BYTES,
        single_file: str = SINGLE_FILE,
        durable: bool = True,
    ) -> None:
        self.directory, self.tensors, self.durable = directory, tensors, durable
        self.shards = plan_shards(tensors, max_bytes, single_file)
        self._places: dict[str, tuple[int, int]] = {}
        self._fds: list[int] = []

    def __enter__(self) -> CheckpointWriter:
        check_disk_space(self.directory, sum(shard.size for shard in self.shards))
        for shard in self.shards:
            fd = os.open(self.directory / shard.file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            self._fds.append(fd)
            os.truncate(fd, shard.size)
            _write_all(fd, memoryview(shard.header), 0)
            self._places.update({name: (fd, offset) for name, offset in shard.offsets.items()})
        return self

    def write(self, name: str, at: int, data: memoryview) -> None:
        """Put `data` at byte `at` of the tensor `name`."""
        fd, offset = self._places[name]
        _write_all(fd, data, offset + at)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                for fd in self._fds if self.durable else ():
                    os.fsync(fd)
                if len(self.shards) > 1:
                    (self.directory / INDEX_FILE).write_text(index_json(self.shards, self.tensors), encoding="utf-8")
        finally:
            for fd in self._fds:
                os.close(fd)

    @property
    def files(self) -> list[str]:
        """Names of the files written."""
        names = [shard.file_name for shard in self.shards]
        return names if len(names) == 1 else [*names, INDEX_FILE]


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
