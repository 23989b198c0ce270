"""Instances, GPUs and dollars for a rate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import ceil

from migrate.errors import UsageError
from migrate.plan.figures import Figure
from migrate.plan.gpus import Gpu
from migrate.plan.throughput import HEADROOM

HOURS = 730
"""In a month: 365 x 24 / 12."""


@dataclass(frozen=True, slots=True)
class Cost:
    """`hourly` and `monthly` are (low, typical, high) in US dollars; None where the table has no price."""

    instances: int
    gpus: int
    hourly: tuple[float, float, float] | None
    monthly: tuple[float, float, float] | None
    per_million_tokens: tuple[float, float, float] | None


def instances_for(rate: float | None, capacity: float, headroom: float = HEADROOM) -> int:
    """Instances that carry `rate` requests a minute, each used up to `headroom` of its capacity; one without a rate."""
    if rate is None:
        return 1
    return max(1, ceil(rate / (capacity * headroom) - 1e-9))


def cost(gpu: Gpu, *, instances: int, gpus_per_instance: int, instances_per_gpu: int, tokens_per_second: float) -> Cost:
    """What `instances` cost. `tokens_per_second`: prompt and output tokens together that they carry, at the planned
    load, which a price per million is told for."""
    gpus = instances * gpus_per_instance if gpus_per_instance > 1 else ceil(instances / instances_per_gpu)
    if gpu.price is None:
        return Cost(instances, gpus, None, None, None)
    low, typical, high = (price * gpus for price in (gpu.price.low, gpu.price.typical, gpu.price.high))
    per_million = None
    if tokens_per_second > 0:
        scale = 1e6 / (tokens_per_second * 3600)
        per_million = (low * scale, typical * scale, high * scale)
    return Cost(instances, gpus, (low, typical, high), (low * HOURS, typical * HOURS, high * HOURS), per_million)


def figures(gpu: Gpu, found: Cost, rate: float | None, capacity: float, carried: float = 0.0) -> list[Figure]:
    """The formulas with their values. `carried`: tokens a second."""
    told = [
        Figure(
            "instances",
            found.instances,
            "",
            "ceil(rate / (capacity of one x headroom))",
            "one, no --rate was given" if rate is None else f"ceil({rate:g} / ({capacity:.1f} x {HEADROOM:g}))",
            "headroom for bursts and restarts",
        )
    ]
    if found.monthly is not None and gpu.price is not None:
        low, _, high = found.monthly
        told.append(
            Figure(
                "cost a month",
                found.monthly[1],
                "$",
                "GPUs x price an hour x hours a month",
                f"{found.gpus} x ${gpu.price.typical:.2f} x {HOURS} (${low:,.0f} to ${high:,.0f})",
                f"{gpu.price.source}, {gpu.price.date}",
            )
        )
    if found.per_million_tokens is not None and found.hourly is not None and carried > 0:
        told.append(
            Figure(
                "cost per million tokens",
                found.per_million_tokens[1],
                "$",
                "price an hour / (tokens a second x 0.0036)",
                f"${found.hourly[1]:.2f} / ({carried:,.0f} x 0.0036)",
                "prompt and answer together, at the planned rate",
            )
        )
    return told


def parse_budget(text: str) -> float:
    """US dollars a month out of "1000/month", "$1000" (a month) or "1.37/h". Raises UsageError."""
    match = re.fullmatch(r"\s*\$?\s*([0-9]{1,9}(?:\.[0-9]{1,4})?)\s*(?:/\s*(month|mo|h|hour))?\s*", text)
    value = float(match[1]) * (HOURS if match[2] in ("h", "hour") else 1) if match else 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"--budget: {text!r} is no budget", hint="write it as 1000/month or 1.37/h")
    return value
