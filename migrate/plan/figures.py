"""A number that can say how it was computed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Figure:
    """`formula` in words, `values` the same with the numbers put in, `source` who says so. `value` is in `unit`."""

    name: str
    value: float
    unit: str
    formula: str
    values: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name} = {self.formula} = {self.values} = {shown(self.value, self.unit)}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def shown(value: float, unit: str) -> str:
    """A number for people: bytes as GiB from one GiB on, everything else with its unit."""
    if unit == "bytes":
        return gib(value) if abs(value) >= GIB / 8 else f"{value:,.0f} bytes"
    if unit == "$":
        return f"${value:,.2f}"
    text = f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.3g}"
    return f"{text} {unit}".rstrip()


def gib(value: float) -> str:
    """Bytes as GiB, the unit of vLLM's log; as MiB where there is little."""
    return f"{value / GIB:,.2f} GiB" if abs(value) >= GIB / 16 or not value else f"{value / (1 << 20):,.1f} MiB"
