from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from migrate.parity.throughput import gpu


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with gpu.watch() as use:
        pass
    assert (use.utilization, use.memory_gb) == (None, None)


def test_a_library_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def init() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=init))
    assert gpu._nvml() is None


def test_what_samples_say() -> None:
    use = gpu.GpuUse([[(10.0, 4e9), (0.0, 1e9)], [(50.0, 6e9), (0.0, 1e9)]])
    assert (use.utilization, use.memory_gb) == (30.0, 7.0)
    assert gpu.GpuUse([[]]).memory_gb is None
    assert gpu.GpuUse([[]]).utilization is None


def test_sampling_ends_with_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are those of NVIDIA's library; the card is not."""
    closed: list[bool] = []
    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=42),
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=3 * 10**9),
        nvmlShutdown=lambda: closed.append(True),
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(gpu, "PERIOD_S", 0.001)
    with gpu.watch() as use:
        while len(use.samples) < 3:
            pass
    assert closed == [True]
    assert (use.utilization, use.memory_gb) == (42.0, 3.0)


def test_a_card_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(gpu: object) -> None:
        raise RuntimeError("not supported")

    library = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=refuse,
        nvmlShutdown=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(gpu, "PERIOD_S", 0.001)
    with gpu.watch() as use:
        pass
    assert use.utilization is None
    with gpu.watch(enabled=False) as use:
        pass
    assert use.samples == []
