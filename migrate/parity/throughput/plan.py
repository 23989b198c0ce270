"""What is measured: the loads, how often, in which order, and the bounds on all of it."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from migrate.errors import UsageError

Side = Literal["source", "target"]
SIDES: tuple[Side, ...] = ("source", "target")

MAX_REQUESTS = 10_000
"""For one run: prompts are made, and answers kept, in memory."""


class Slo(BaseModel):
    """A service level: the most that one request may take, in milliseconds; None is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft_ms: float | None = Field(default=None, gt=0, description="to the first token")
    itl_ms: float | None = Field(default=None, gt=0, description="between tokens, mean of one answer")
    e2e_ms: float | None = Field(default=None, gt=0, description="to the last token")

    def __str__(self) -> str:
        parts = (("ttft", self.ttft_ms), ("itl", self.itl_ms), ("e2e", self.e2e_ms))
        return ",".join(f"{name}={limit:g}ms" for name, limit in parts if limit is not None)

    def __bool__(self) -> bool:
        return bool(str(self))

    @classmethod
    def parse(cls, text: str) -> Slo:
        """Of "ttft=500ms,itl=50ms,e2e=10s", each at most once; a bare number is milliseconds. Raises UsageError."""
        found: dict[str, float] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            match = re.fullmatch(r"(ttft|itl|e2e)\s*=\s*(\d+(?:\.\d+)?)\s*(ms|s)?", part)
            if match is None or f"{match[1]}_ms" in found:
                raise UsageError(f"--slo: {part!r} is no limit", hint="write it as ttft=500ms,itl=50ms,e2e=10s")
            found[f"{match[1]}_ms"] = float(match[2]) * (1000 if match[3] == "s" else 1)
        if not found or not all(0 < value < math.inf for value in found.values()):
            raise UsageError(f"--slo: {text!r} limits nothing", hint="write it as ttft=500ms,itl=50ms,e2e=10s")
        return cls(**found)


def parse_rate(text: str) -> float:
    """Requests a minute out of "500/min", "8/s" or "500" (a minute). Raises UsageError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*(min|s))?\s*", text)
    rate = float(match[1]) * (60 if match[2] == "s" else 1) if match else 0.0
    if not 0 < rate < 1e6:
        raise UsageError(f"--rate: {text!r} is no rate", hint="write it as 500/min or 8/s")
    return rate


def parse_concurrency(text: str) -> tuple[int, ...]:
    """Of "1,2,4,8"; 1 is always measured: vLLM can lose there. Raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part[:6]) <= 4096 for part in parts):
        raise UsageError(f"--concurrency: {text!r} is no list of numbers from 1 to 4096", hint="write it as 1,2,4,8")
    return tuple(sorted({1, *map(int, parts)}))


@dataclass(frozen=True, slots=True)
class Point:
    """One load: so many requests at a time, or so many a minute at random moments (Poisson)."""

    concurrency: int | None = None
    request_rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} at a time" if self.concurrency else f"{self.request_rate:g} a minute"


class Plan(BaseModel):
    """Everything a measurement is made of, besides the servers. Times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    concurrency: tuple[int, ...] = (1, 2, 4, 8)
    request_rate: float | None = Field(default=None, gt=0, description="requests a minute, open loop")
    slo: Slo = Slo()
    requests: int = Field(default=32, ge=2, le=MAX_REQUESTS, description="measured in one run")
    rate_seconds: float = Field(default=30.0, ge=0, le=3600, description="an open loop lasts at least so long")
    warmup: int = Field(default=4, ge=0, le=MAX_REQUESTS, description="before them, discarded")
    repeats: int = Field(default=3, ge=1, le=100)
    prompt_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="synthetic prompts of this length")
    output_tokens: int = Field(default=128, ge=2, le=100_000, description="per answer, at most; exactly where possible")
    seed: int = Field(default=1, ge=0, lt=2**31)
    tool: Literal["aiperf", "vllm"] = "aiperf"
    request_timeout: float = Field(default=120.0, gt=0)
    run_seconds: float = Field(default=120.0, gt=0, description="after this, a run sends no more requests")
    total_seconds: float = Field(default=3600.0, gt=0, description="after this, no run is begun")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)

    @field_validator("concurrency")
    @classmethod
    def _with_one(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= number <= 4096 for number in value):
            raise ValueError("numbers from 1 to 4096")
        return tuple(sorted({1, *value}))

    @property
    def points(self) -> tuple[Point, ...]:
        closed = tuple(Point(concurrency=number) for number in self.concurrency)
        return closed + ((Point(request_rate=self.request_rate),) if self.request_rate else ())

    def requests_at(self, point: Point) -> int:
        """Measured requests in one run: at least four for each that is under way at a time, or `rate_seconds` of an
        open loop: a rate that is kept for a moment is not kept."""
        if point.request_rate:
            return min(MAX_REQUESTS, max(self.requests, math.ceil(point.request_rate * self.rate_seconds / 60)))
        return min(MAX_REQUESTS, max(self.requests, 4 * (point.concurrency or 0)))

    def warmup_at(self, point: Point) -> int:
        """Discarded requests before them: at least as many as are under way at a time."""
        return min(MAX_REQUESTS, max(self.warmup, point.concurrency or 0)) if self.warmup else 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One run of the load generator: which side, under which load, the how-many-eth time (from 1)."""

    repeat: int
    side: Side
    point: Point

    def __str__(self) -> str:
        return f"{self.repeat}: {self.side}, {self.point}"


def schedule(plan: Plan) -> list[Slot]:
    """All runs, in the order they are made: repeat after repeat, in each the loads in random order, and for each load
    the two sides one after the other, in random order too. What warms up or drifts meets both sides alike."""
    chance = random.Random(f"order {plan.seed}")
    slots: list[Slot] = []
    for repeat in range(1, plan.repeats + 1):
        for point in chance.sample(plan.points, len(plan.points)):
            slots += [Slot(repeat, side, point) for side in chance.sample(SIDES, len(SIDES))]
    return slots
