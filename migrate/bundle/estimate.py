"""What a conversion would take: disk exactly, time from a short measurement on the file itself."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from migrate.mapping.migration import Migration

DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


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
    layout = migration.layout
    if layout is None or migration.refused:
        return Estimate(None, None, None)
    disk = layout.parameter_count * DTYPE_BYTES[migration.dtype]
    where = (out or Path()).resolve().parent
    free = shutil.disk_usage(where).free if where.is_dir() else None
    from migrate.checkpoint.convert import estimate_seconds

    return Estimate(disk, free, estimate_seconds(layout, migration.dtype))
