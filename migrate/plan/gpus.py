"""gpus.yaml: what GPUs have and what they cost; the user's file on top of ours."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from migrate.errors import BadInput, NotFound, UsageError
from migrate.plan.figures import GIB
from migrate.vllm.gpus import Capability

TABLE = Path(__file__).with_name("gpus.yaml")
MAX_BYTES = 256 << 10
MAX_DEPTH = 16
"""Of lists and maps in each other: PyYAML takes quadratic time for deep ones."""
MAX_EVENTS = 50_000
MAX_GPUS = 500


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(_Model):
    """US dollars an hour for one GPU. `date` is YYYY-MM, or YYYY-MM-DD."""

    typical: float = Field(gt=0, le=10_000)
    low: float = Field(gt=0, le=10_000)
    high: float = Field(gt=0, le=10_000)
    date: str
    source: str = Field(max_length=300)

    @field_validator("date", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        text = value.isoformat() if isinstance(value, datetime.date) else value
        if not isinstance(text, str) or not re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", text):
            raise ValueError("a date as 2026-05")
        return text

    @model_validator(mode="after")
    def _ordered(self) -> Price:
        if not self.low <= self.typical <= self.high:
            raise ValueError("low <= typical <= high")
        return self


class Gpu(_Model):
    """One kind of GPU. `bandwidth` in GB/s, `tflops` dense by dtype, `memory_gib` as CUDA reports it."""

    name: str = Field(min_length=1, max_length=60, pattern=r"^[\w .+/()-]+$")
    memory_gib: float = Field(gt=0, le=10_000)
    memory_source: str = Field(default="given", max_length=300)
    bandwidth: float = Field(gt=0, le=1_000_000)
    tflops: dict[Literal["float16", "fp8", "float32"], float]
    capability: str = Field(pattern=r"^(\d{1,2}\.\d|cpu)$")
    price: Price | None = None

    @field_validator("tflops")
    @classmethod
    def _sane(cls, value: dict[str, float]) -> dict[str, float]:
        if "float16" not in value or not all(0 < number <= 1_000_000 for number in value.values()):
            raise ValueError("positive numbers, float16 among them")
        return value

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.memory_gib * GIB)

    @property
    def compute_capability(self) -> Capability | None:
        """None for a CPU."""
        major, _, minor = self.capability.partition(".")
        return None if self.capability == "cpu" else (int(major), int(minor))

    def flops(self, dtype: str) -> float:
        """Multiply-adds count twice. A dtype it has no units for is computed in float16; float32, unless it is given,
        in an eighth of that rate, between a data centre's GPU (1/16) and a gamer's (1/2)."""
        if dtype == "float32":
            return self.tflops.get("float32", self.tflops["float16"] / 8) * 1e12
        chosen = "fp8" if dtype == "fp8" and "fp8" in self.tflops else "float16"
        return self.tflops[chosen] * 1e12  # type: ignore[index]


class _File(_Model):
    gpus: list[Gpu] = Field(max_length=MAX_GPUS)


def load(path: Path | None = None) -> list[Gpu]:
    """Our table, with the entries of the user's file in place of ours of that name, or added.

    Raises NotFound and BadInput: not YAML, too large, aliases in it, unknown keys, numbers that cannot be.
    """
    table = {_key(gpu.name): gpu for gpu in read(TABLE)}
    if path is not None:
        table |= {_key(gpu.name): gpu for gpu in read(path)}
    return list(table.values())


def read(path: Path) -> list[Gpu]:
    """The entries of one file. Raises NotFound and BadInput."""
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="a table of GPUs in the form of migrate/plan/gpus.yaml")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 10} KiB: not a table of GPUs")
    content = _yaml(path)
    try:
        found = _File.model_validate(content).gpus
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path}: {where[:200]}: {first['msg']}", hint="see docs/capacity.md for the form") from None
    names = [_key(gpu.name) for gpu in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"{path}: {twice} is in it twice")
    return found


def _yaml(path: Path) -> Any:
    """YAML without tags, and without aliases, which could make a small file stand for a huge one."""
    import yaml

    try:
        text, depth = path.read_bytes().decode("utf-8"), 0
        for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH or count > MAX_EVENTS:
                raise BadInput(f"{path}: not plain YAML of a table: far too deep, or far too many entries")
            if isinstance(event, yaml.AliasEvent):
                raise BadInput(f"{path}: it has aliases (*{event.anchor}): write the values out")
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise BadInput(f"{path}: not plain YAML{place}") from None


def select(table: Iterable[Gpu], names: Sequence[str]) -> list[Gpu]:
    """Those that were named, in the table's order; all for no names. "A100" stands for all that begin with it.

    Raises UsageError for a name nobody has.
    """
    table = list(table)
    chosen: list[Gpu] = []
    for name in names:
        key = _key(name)
        found = [gpu for gpu in table if _key(gpu.name) == key] or [g for g in table if _key(g.name).startswith(key)]
        if not key or not found:
            known = ", ".join(gpu.name for gpu in table)
            raise UsageError(f"--gpu {name!r} is not in the table ({known})", hint="add it with --gpus FILE")
        chosen += [gpu for gpu in found if gpu not in chosen]
    return chosen if names else table


def _key(name: str) -> str:
    return re.sub(r"NVIDIA|GEFORCE|TESLA|[\s_-]", "", name.upper())
