"""How busy the GPU is meanwhile, as NVIDIA's own library (NVML) tells it; nothing where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

PERIOD_S = 0.5


@dataclass(slots=True)
class GpuUse:
    """Filled in when the watch is over; None without a GPU or without the package nvidia-ml-py."""

    samples: list[list[tuple[float, float]]] = field(default_factory=list)
    """At each moment, for each GPU: (percent of the last period in which it computed, bytes in use)."""

    @property
    def utilization(self) -> float | None:
        """Percent, mean over time, of the busiest GPU."""
        if not self.samples:
            return None
        means = [sum(percent for percent, _ in gpu) / len(gpu) for gpu in zip(*self.samples, strict=True)]
        return max(means, default=None)

    @property
    def memory_gb(self) -> float | None:
        """Gigabytes (10^9) in use on all GPUs together, the most at any moment: whoever uses them."""
        if not self.samples or not self.samples[0]:
            return None
        return max(sum(size for _, size in moment) for moment in self.samples) / 1e9


@contextmanager
def watch(*, enabled: bool = True) -> Iterator[GpuUse]:
    """Samples all GPUs of this machine twice a second, in a thread that ends with the context."""
    use = GpuUse()
    nvml = _nvml() if enabled else None
    if nvml is None:
        yield use
        return
    stopped = threading.Event()
    thread = threading.Thread(target=_sample, args=(nvml, use, stopped), name="gpu-watch", daemon=True)
    thread.start()
    try:
        yield use
    finally:
        stopped.set()
        thread.join(timeout=5.0)


def _nvml() -> Any | None:
    """The library, started; None where it is not installed or finds no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _sample(nvml: Any, use: GpuUse, stopped: threading.Event) -> None:
    try:
        gpus = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        while gpus and not stopped.wait(PERIOD_S):
            use.samples.append([_now(nvml, gpu) for gpu in gpus])
    except nvml.NVMLError:
        use.samples.clear()  # a card that stops answering, or does not tell: better no number than half of one
    finally:
        nvml.nvmlShutdown()


def _now(nvml: Any, gpu: Any) -> tuple[float, float]:
    return float(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu), float(nvml.nvmlDeviceGetMemoryInfo(gpu).used)
