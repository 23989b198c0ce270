"""How fast: a roofline for one instance under continuous batching.

A decode step reads the weights once and the cache of every request in the batch, or is bound by arithmetic when the
batch is large; a prefill is arithmetic. Each is held to a stated share of what the data sheet promises (MBU of the
bandwidth, MFU of the FLOPS), and each step costs the host some time. With B requests under way, P prompt and O output
tokens each:

    step(B)  = max((weights + B x cache of a request) / (bandwidth x MBU), 2 x parameters x B / (FLOPS x MFU))
               + host + B x host per request
    prefill  = (2 x parameters x P + attention) / (FLOPS x MFU)
    rate(B)  = 1 / (prefill + O x step(B) / B)
    ITL(B)   = step(B) + B x prefill / O      between tokens, with the prefills of others in between
    TTFT(B)  = prefill + step(B) + waiting    behind other prefills (M/D/1)

The efficiencies are assumptions until `calibrate` replaces them, so every result is a range.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from migrate.errors import UsageError
from migrate.plan.config import Config
from migrate.plan.figures import Figure
from migrate.plan.gpus import Gpu
from migrate.plan.layers import DTYPE_BYTES, Kind, LayerCache
from migrate.plan.weights import Weights

PROMPT_TOKENS, OUTPUT_TOKENS = 512, 256
"""Taken when nobody says: a question with some context, and an answer of a few paragraphs. Say yours."""
HEADROOM = 0.7
"""Share of the capacity that is planned with: arrivals come in bursts, and an instance may be restarting."""
PARALLEL_EFFICIENCY = 0.85
"""For every doubling of GPUs that share one model: time lost to all-reduce. PCIe cards lose more."""


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Shares of the data sheet's numbers, and seconds of host time for a step and for each request in it."""

    mbu: float
    mfu: float
    host: float
    host_per_request: float
    origin: str = "assumed"

    def __post_init__(self) -> None:
        if not (0 < self.mbu <= 1.5 and 0 < self.mfu <= 1.5 and 0 <= self.host < 10 and 0 <= self.host_per_request < 1):
            raise UsageError(f"efficiencies that cannot be: MBU {self.mbu:g}, MFU {self.mfu:g}, host {self.host:g} s")


ASSUMED = (
    Efficiency(0.6, 0.4, 0.004, 60e-6),
    Efficiency(0.7, 0.5, 0.002, 30e-6),
    Efficiency(0.8, 0.6, 0.001, 15e-6),
)
"""Low, likely, high. MBU and MFU as servers reach them; host time from what published rates of small models leave."""


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """The most that one request may take on average, in seconds; None is no limit."""

    ttft: float | None = None
    itl: float | None = None
    e2e: float | None = None

    def __str__(self) -> str:
        parts = (("ttft", self.ttft), ("itl", self.itl), ("e2e", self.e2e))
        return ",".join(f"{name}={limit * 1000:g}ms" for name, limit in parts if limit is not None) or "none"


DEFAULT_SERVICE_LEVEL = ServiceLevel(ttft=2.0, itl=0.1)
"""Ten words a second, begun within two seconds: what a reader takes for fluent."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a request is, on average, in tokens. `shared` of the prompt's tokens are in the prefix cache already."""

    prompt: int = PROMPT_TOKENS
    output: int = OUTPUT_TOKENS
    shared: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.prompt <= 10_000_000 and 1 <= self.output <= 10_000_000 and 0 <= self.shared < 1):
            raise UsageError(f"{self.prompt} prompt and {self.output} output tokens: at least 1 and at most 10,000,000")

    @property
    def total(self) -> int:
        return self.prompt + self.output


@dataclass(frozen=True, slots=True)
class Instance:
    """One vLLM: a model on `gpus` GPUs of one kind. `cache_bytes` of one number in the cache."""

    config: Config
    layers: tuple[LayerCache, ...]
    weights: Weights
    gpu: Gpu
    gpus: int = 1
    cache_bytes: int = 2

    @property
    def bandwidth(self) -> float:
        """Bytes a second, losses of sharing taken off."""
        return self.gpu.bandwidth * 1e9 * self._together

    @property
    def flops(self) -> float:
        return self.gpu.flops(self.weights.compute) * self._together

    @property
    def _together(self) -> float:
        return self.gpus * PARALLEL_EFFICIENCY ** max(0, self.gpus.bit_length() - 1)

    def cache_read(self, tokens: float) -> float:
        """Bytes of cache that decoding one token reads, with so many tokens before it; states are read and written."""
        read = 0.0
        for layer, count in _counted(self.layers):
            if layer.kind is Kind.STATE:
                read += count * 2 * layer.state_bytes
            else:
                seen = min(tokens, layer.window) if layer.window else tokens
                read += count * seen * layer.token_bytes(self.cache_bytes)
        return read

    def step(self, batch: float, load: Load, efficiency: Efficiency) -> float:
        """Seconds of a decode step with `batch` requests, each half through its answer."""
        moved = self.weights.bytes_read(batch) + batch * self.cache_read(load.prompt + load.output / 2)
        memory = moved / (self.bandwidth * efficiency.mbu)
        arithmetic = 2 * self.weights.active_parameters * batch / (self.flops * efficiency.mfu)
        return max(memory, arithmetic) + efficiency.host + batch * efficiency.host_per_request

    def prefill(self, load: Load, efficiency: Efficiency) -> float:
        """Seconds of GPU time for one prompt: what of it is not in the prefix cache."""
        fresh = load.prompt * (1 - load.shared)
        attention = 0.0
        for layer, count in _counted(self.layers):
            if layer.kind is not Kind.STATE:
                seen = min(load.prompt, layer.window) if layer.window else load.prompt
                attention += count * 2 * self.config.heads * self.config.head_dim * fresh * seen
        return (2 * self.weights.active_parameters * fresh + attention) / (self.flops * efficiency.mfu)


@lru_cache(maxsize=64)
def _counted(layers: tuple[LayerCache, ...]) -> tuple[tuple[LayerCache, int], ...]:
    """Each kind of layer once, with how many there are."""
    return tuple(Counter(layers).items())


@dataclass(frozen=True, slots=True)
class Operating:
    """One instance with `batch` requests under way. Times in seconds, means; `per_minute` requests."""

    batch: float
    step: float
    prefill: float
    per_minute: float
    itl: float
    ttft: float
    e2e: float
    load: Load
    limit: str = ""

    @property
    def output_tokens_per_second(self) -> float:
        return self.per_minute / 60 * self.load.output

    def within(self, level: ServiceLevel) -> bool:
        itl = self.itl if self.load.output > 1 else 0.0  # a single token has no next one
        pairs = ((self.ttft, level.ttft), (itl, level.itl), (self.e2e, level.e2e))
        return all(limit is None or value <= limit for value, limit in pairs)


def operate(instance: Instance, load: Load, batch: float, efficiency: Efficiency) -> Operating:
    """An instance that always has `batch` requests under way."""
    step, prefill = instance.step(batch, load, efficiency), instance.prefill(load, efficiency)
    rate = 1 / (prefill + load.output * step / batch)
    busy = min(rate * prefill, 0.999)
    waiting = busy * prefill / (2 * (1 - busy))
    itl = step + batch * prefill / load.output
    ttft = prefill + step + (waiting if batch > 1 else 0.0)
    return Operating(batch, step, prefill, rate * 60, itl, ttft, ttft + (load.output - 1) * itl, load)


def best(instance: Instance, load: Load, most: int, level: ServiceLevel, efficiency: Efficiency) -> Operating | None:
    """The highest rate within the service level, with at most `most` requests under way; None when even one alone is
    too slow. `limit` says what ended it."""
    if most < 1:
        return None
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        inside = operate(instance, load, middle, efficiency).within(level)
        low, high = (middle, high) if inside else (low, middle - 1)
    if low < 1:
        return None
    found = operate(instance, load, low, efficiency)
    why = "requests that fit" if low == most else "service level"
    return Operating(
        found.batch, found.step, found.prefill, found.per_minute, found.itl, found.ttft, found.e2e, load, why
    )


def figures(instance: Instance, at: Operating, efficiency: Efficiency) -> list[Figure]:
    """The formulas with their values, for --explain."""
    load, weights = at.load, instance.weights
    read = weights.bytes_read(at.batch) / 1e9
    cache = at.batch * instance.cache_read(load.prompt + load.output / 2) / 1e9
    together = f" x {instance.gpus} GPUs x {PARALLEL_EFFICIENCY:g}" if instance.gpus > 1 else ""
    speed = f"{instance.gpu.bandwidth:,.0f} GB/s{together} x {efficiency.mbu:g}"
    arithmetic = f"({instance.flops / 1e12:,.0f}e12 x {efficiency.mfu:g})"
    parameters = f"2 x {weights.active_parameters / 1e9:.3g}e9"
    host = f"{efficiency.host * 1000:g} ms + {at.batch:g} x {efficiency.host_per_request * 1e6:g} us"
    source = f"roofline; efficiencies {efficiency.origin}"
    return [
        Figure(
            "decode step",
            at.step * 1000,
            "ms",
            "max((weights + batch x cache) / (bandwidth x MBU), 2 x parameters x batch / (FLOPS x MFU)) + host time",
            f"max(({read:.2f} GB + {cache:.2f} GB) / ({speed}), {parameters} x {at.batch:g} / {arithmetic}) + {host}",
            source,
        ),
        Figure(
            "prefill",
            at.prefill * 1000,
            "ms",
            "(2 x parameters x fresh prompt tokens + attention) / (FLOPS x MFU)",
            f"{parameters} x {load.prompt * (1 - load.shared):,.0f} / {arithmetic}",
            source,
        ),
        Figure(
            "requests per minute",
            at.per_minute,
            "/min",
            "60 / (prefill + output tokens x step / batch)",
            f"60 / ({at.prefill * 1000:.2f} ms + {load.output} x {at.step * 1000:.2f} ms / {at.batch:g})",
            f"bound by {at.limit}",
        ),
        Figure(
            "between tokens",
            at.itl * 1000,
            "ms",
            "step + batch x prefill / output tokens",
            f"{at.step * 1000:.2f} ms + {at.batch:g} x {at.prefill * 1000:.2f} ms / {load.output}",
            source,
        ),
        Figure(
            "to the first token", at.ttft * 1000, "ms", "prefill + step + waiting behind other prefills", "", source
        ),
    ]


def alone(instance: Instance, load: Load, efficiency: Efficiency) -> float:
    """Output tokens a second for one user alone: where vLLM can be slower than Ollama."""
    step = instance.step(1, load, efficiency)
    return 1 / step if step > 0 else inf


def cache_item_bytes(config: Config, kv_cache_dtype: str = "auto") -> int:
    """Bytes of a number in the cache: 1 for fp8, else the model's."""
    return 1 if kv_cache_dtype.startswith("fp8") else DTYPE_BYTES.get(config.dtype, 2)
