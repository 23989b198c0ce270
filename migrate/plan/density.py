"""How many instances on one GPU. One, unless there is evidence for more.

vLLM batches inside one process, so a second one shares the GPU's bandwidth and pays for its own copy of the weights. It
helps where the host cannot keep the GPU busy. What was measured, by others:

| source | model | gain of 2 over 1 that is tuned |
|---|---|---|
| BSC/IBM, arXiv 2503.08311, raw data (Hopper, MPS) | OPT-1.3B | +24 % |
| the same | OPT-2.7B | +0.8 to +8.9 % |
| Databricks, January 2026 (H100, MPS) | up to 3B, short context | more than 50 %, vanishing with size and context |
| Pebble (A100, 4B in FP8) | 4B | half the GPUs; time per token +19.5 % |
| 7B and above | | nobody has published a gain |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migrate.plan.config import Config

SMALL = 3_000_000_000
"""Parameters. Above it nobody has measured a gain."""
WORTH_IT = 0.10
"""A gain below this is not worth a second process, a balancer and half the cache."""
_EVIDENCE: Sequence[tuple[int, float, float, str]] = (
    (2_000_000_000, 0.24, 0.34, "OPT-1.3B, Hopper with MPS (arXiv 2503.08311, raw data)"),
    (SMALL, 0.008, 0.089, "OPT-2.7B, Hopper with MPS (arXiv 2503.08311, raw data)"),
)
OTHER_REASONS = (
    "Two instances also let one be restarted while the other answers, and keep a crash from taking all requests. That "
    "is a reason of its own, and does not need a gain."
)
HOW = (
    "give each a fixed --kv-cache-memory-bytes, start them strictly one after the other (the next when the last has "
    "generated a token), run nvidia-cuda-mps-control, and put one balancer in front"
)
_TABLE = "table in docs/capacity.md"
HOST_BOUND = 0.5
"""Share of a decode step that is host time: from here on the GPU waits more than it works."""


@dataclass(frozen=True, slots=True)
class Density:
    """`instances` on one GPU, the share of the rate that they are expected to add (low, high), and why."""

    instances: int
    gain: tuple[float, float]
    reason: str
    source: str
    how: str = ""


def advise(
    config: Config,
    parameters: int,
    *,
    fits: int,
    host_share: float,
    measured_gain: float | None = None,
    asked: int | None = None,
    calibrated: bool = False,
    enough: bool = False,
    generates: bool = True,
) -> Density:
    """The rule.

    `fits`: instances for which there is room, each with its weights and the cache the load needs. `host_share`: of a
    decode step at full batch; it counts as evidence only when it was measured (`calibrated`). `measured_gain`: the
    user's own measurement of two instances against one that is tuned. `asked`: what the user wants regardless.
    `enough`: one instance carries the whole rate. `generates`: it is no embedding model.
    """
    low, high, source = _evidence(parameters)
    if measured_gain is not None:
        low = high = measured_gain
        source = "your measurement (--density-gain)"
    if asked is not None:
        told = "no gain is known" if not source else f"expected gain {_percent(low, high)}"
        how = HOW if asked > 1 else ""
        return Density(asked, (low, high) if asked > 1 else (0.0, 0.0), f"as asked; {told}", source or "nobody", how)
    if not generates and measured_gain is None:
        return Density(1, (0.0, 0.0), "an embedding model: no gain has been measured", _TABLE)
    no_room = Density(1, (0.0, 0.0), "there is no room for a second copy of the weights and its cache", "memory")
    if measured_gain is None and parameters > SMALL:
        if calibrated and host_share >= HOST_BOUND:
            if fits < 2:
                return no_room
            return _two(
                0.0, 1.0, f"host time is {host_share:.0%} of a step", "calibration; measure before you rely on it"
            )
        reason = f"{parameters / 1e9:.1f}B parameters: no gain has been measured above 3B"
        return Density(1, (0.0, 0.0), reason, _TABLE)
    if fits < 2:
        return no_room
    if enough:
        reason = f"one carries the rate; a second would add {_percent(low, high)}"
        return Density(1, (low, high), reason, source or "your rate")
    if low < WORTH_IT:
        reason = f"the gain measured for this size, {_percent(low, high)}, is below {WORTH_IT:.0%}"
        return Density(1, (low, high), reason, source)
    return _two(
        low, high, f"{config.model_type} with {parameters / 1e9:.2g}B parameters leaves the GPU waiting", source
    )


def _two(low: float, high: float, reason: str, source: str) -> Density:
    return Density(2, (low, high), f"{reason}: expected gain {_percent(low, high)}", source, HOW)


def _evidence(parameters: int) -> tuple[float, float, str]:
    for limit, low, high, source in _EVIDENCE:
        if parameters <= limit:
            return low, high, source
    return 0.0, 0.0, ""


def _percent(low: float, high: float) -> str:
    return f"{low:+.0%}" if low == high else f"{low:+.1%} to {high:+.1%}"
