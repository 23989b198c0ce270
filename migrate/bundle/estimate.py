"""What a conversion would take: disk exactly, time from a short measurement on the file itself."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from migrate.architectures.tensors import MappedTensor
from migrate.mapping.migration import Migration

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
SAMPLE_BYTES = 24 << 20
"""Of the GGUF: a fraction of a second."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes of the bundle's weights, bytes free where it would go."""

    disk_bytes: int | None
    free_bytes: int | None
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> str:
        if self.disk_bytes is None:
            return "nothing would be written"
        text = f"would write {self.disk_bytes / 1e9:.2f} GB"
        if self.free_bytes is not None:
            text += f" ({self.free_bytes / 1e9:.1f} GB free)"
        return text + (f", about {self.seconds:.0f} s by a sample of its tensors" if self.seconds is not None else "")


def estimate(migration: Migration, out: Path | None) -> Estimate:
    """Exact size of the weights; free space beside `out`; seconds from dequantizing a sample to memory."""
    layout, checkpoint = migration.layout, migration.model.checkpoint
    if migration.refused or (layout is None and checkpoint is None):
        return Estimate(None, None, None)
    disk = weight_bytes(migration)
    where = (out or Path()).resolve().parent
    free = shutil.disk_usage(where).free if where.is_dir() else None
    return Estimate(disk, free, None if checkpoint else _seconds(migration))


def weight_bytes(migration: Migration) -> int | None:
    """Of the checkpoint that would be written; None where it is not known."""
    if migration.model.checkpoint is not None:
        return migration.model.checkpoint.nbytes
    if migration.layout is None:
        return None
    from migrate.checkpoint.convert import plan_storage
    from migrate.checkpoint.weights import output_tensors

    plan = plan_storage(migration.layout, migration.way, migration.dtype)
    return sum(t.nbytes for t in output_tensors(plan.assignments))


def _seconds(migration: Migration) -> float | None:
    """Time for all weights at the rate of a few of them, converted to a temporary directory by the same code."""
    from migrate.checkpoint.convert import plan_storage
    from migrate.checkpoint.weights import output_tensors, write_weights
    from migrate.checkpoint.writer import CheckpointWriter

    layout = migration.layout
    assert layout is not None
    everything = plan_storage(layout, migration.way, migration.dtype).assignments
    sample, taken = [], 0
    for tensor, encoding in sorted(everything, key=lambda pair: -_stored(pair[0])):
        size = _stored(tensor)
        if len(tensor.shape) > 1 and taken + size <= SAMPLE_BYTES:
            sample.append((tensor, encoding))
            taken += size
    if not sample:
        return None
    outputs = output_tensors(sample)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, CheckpointWriter(Path(scratch), outputs) as writer:
        write_weights(layout.header, sample, writer)
    rate = sum(t.nbytes for t in outputs) / (time.perf_counter() - started)
    return sum(t.nbytes for t in output_tensors(everything)) / rate


def _stored(tensor: MappedTensor) -> int:
    """Bytes of the GGUF that are read for a tensor."""
    return sum(info.nbytes * tensor.parameters // info.parameters for info in tensor.sources)
