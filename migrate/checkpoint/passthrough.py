"""A checkpoint that is one already: its files, or its tensors out of Ollama's layers, into the bundle."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from migrate.checkpoint.writer import CheckpointWriter, OutputTensor, Storage, check_disk_space
from migrate.errors import BadInput
from migrate.ollama.checkpoint import Checkpoint, StoredTensor

CHUNK = 8 << 20
_REPLACED = frozenset({"chat_template.jinja", "chat_template.json", "generation_config.json"})
"""Written anew out of what Ollama has: TEMPLATE and PARAMETERs."""
Progress = Callable[[int, int], None]
"""Called with (bytes written, bytes in all)."""


def copy_checkpoint(checkpoint: Checkpoint, out_dir: Path, *, progress: Progress | None = None) -> None:
    """Write a checkpoint into `out_dir`, which exists and is empty. Nothing of the weights is changed.

    Raises:
        BadInput: a file shrinks while it is read.
        MigrateError: the disk is too small.
    """
    check_disk_space(out_dir, checkpoint.nbytes + (64 << 20))
    for name, path in checkpoint.files.items():
        if name not in _REPLACED:
            shutil.copyfile(path, out_dir / name)
    if checkpoint.shards:
        _copy_shards(checkpoint, out_dir, progress)
    else:
        _join(checkpoint, out_dir, progress)


def _copy_shards(checkpoint: Checkpoint, out_dir: Path, progress: Progress | None) -> None:
    sizes = [path.stat().st_size for path in checkpoint.shards]
    done = 0
    for path in checkpoint.shards:
        with path.open("rb") as source, (out_dir / path.name).open("xb") as target:
            while chunk := source.read(CHUNK):
                target.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, sum(sizes))
        index = path.with_name("model.safetensors.index.json")
        if index.is_file() and not (out_dir / index.name).exists():
            shutil.copyfile(index, out_dir / index.name)


def _join(checkpoint: Checkpoint, out_dir: Path, progress: Progress | None) -> None:
    """One file per tensor becomes shards. Tensors are written in order of their names."""
    tensors = [checkpoint.tensors[name] for name in sorted(checkpoint.tensors)]
    outputs = [OutputTensor(t.name, Storage(t.dtype), t.shape) for t in tensors]
    done = 0
    with CheckpointWriter(out_dir, outputs) as writer:
        for tensor in tensors:
            for at, chunk in _chunks(tensor):
                writer.write(tensor.name, at, memoryview(chunk))
                done += len(chunk)
                if progress:
                    progress(done, checkpoint.nbytes)


def _chunks(tensor: StoredTensor) -> Iterator[tuple[int, bytes]]:
    """The bytes of a tensor, a few MB at a time, with their position in it."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        for at in range(0, tensor.nbytes, CHUNK):
            wanted = min(CHUNK, tensor.nbytes - at)
            chunk = file.read(wanted)
            if len(chunk) < wanted:
                raise BadInput(f"{tensor.path.name}: the file ends inside tensor {tensor.name!r}")
            yield at, chunk
