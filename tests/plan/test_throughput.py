from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import UsageError
from migrate.plan import gpus, throughput
from migrate.plan.config import Config
from migrate.plan.throughput import ASSUMED, Efficiency, Instance, Load, ServiceLevel
from tests.plan.published import DEEPSEEK_V2_LITE, GEMMA2_9B, LLAMA_8B, model

TABLE = {gpu.name: gpu for gpu in gpus.load()}
PERFECT = Efficiency(1.0, 1.0, 0.0, 0.0)


def instance(values: dict[str, Any] = LLAMA_8B, gpu: str = "H100", way: str = "dense", count: int = 1) -> Instance:
    found = model(values, way)
    return Instance(found.config, found.layers, found.weights, TABLE[gpu], count)


def test_a_single_request_is_bound_by_reading_the_weights() -> None:
    one = instance()
    load = Load(1, 1)
    expected = (one.weights.read_bytes + 1.5 * 131_072) / 3350e9
    assert one.step(1, load, PERFECT) == pytest.approx(expected)
    assert throughput.alone(one, load, PERFECT) == pytest.approx(1 / expected)


def test_a_large_batch_is_bound_by_arithmetic() -> None:
    one = instance()
    batch = 100_000
    expected = 2 * one.weights.active_parameters * batch / 989e12
    assert one.step(batch, Load(1, 1), Efficiency(1.5, 1.0, 0, 0)) < expected * 3
    assert one.step(batch, Load(1, 1), PERFECT) >= expected


def test_prefill_is_arithmetic() -> None:
    one = instance()
    attention = 32 * 2 * 32 * 128 * 1000 * 1000
    expected = (2 * one.weights.active_parameters * 1000 + attention) / 989e12
    assert one.prefill(Load(1000, 1), PERFECT) == pytest.approx(expected)
    assert one.prefill(Load(1000, 1, 0.5), PERFECT) == pytest.approx(expected / 2)


def test_windows_and_latent_attention_read_less_cache() -> None:
    gemma, deepseek = instance(GEMMA2_9B), instance(DEEPSEEK_V2_LITE)
    assert gemma.cache_read(8192) == 21 * 8192 * 8192 + 21 * 4096 * 8192
    assert deepseek.cache_read(1000) == 27 * 1152 * 1000


def test_steps_of_experts_grow_with_the_batch() -> None:
    deepseek = instance(DEEPSEEK_V2_LITE)
    one, eight = (deepseek.step(batch, Load(1, 1), PERFECT) for batch in (1, 8))
    assert eight > 3 * one


def test_two_gpus_are_less_than_twice_as_fast() -> None:
    one, two = instance(), instance(count=2)
    assert 1.5 < two.bandwidth / one.bandwidth < 2
    assert two.prefill(Load(), PERFECT) < one.prefill(Load(), PERFECT)


def test_the_parts_add_up() -> None:
    # all of the GPU's time is prefills and steps: rate x (prefill + output x step / batch) = 1
    at = throughput.operate(instance(), Load(500, 100), 64, ASSUMED[1])
    rate = at.per_minute / 60
    assert rate * (at.prefill + 100 * at.step / 64) == pytest.approx(1)
    assert at.itl == pytest.approx(64 / (rate * 100))  # Little's law
    assert at.output_tokens_per_second == pytest.approx(rate * 100)


def test_the_service_level_bounds_the_batch() -> None:
    one, load = instance(gpu="L40S"), Load(512, 256)
    free = throughput.best(one, load, 256, ServiceLevel(), ASSUMED[1])
    tight = throughput.best(one, load, 256, ServiceLevel(itl=0.05), ASSUMED[1])
    assert free is not None
    assert tight is not None
    assert (free.batch, free.limit) == (256, "requests that fit")
    assert tight.limit == "service level"
    assert tight.itl <= 0.05 < throughput.operate(one, load, tight.batch + 1, ASSUMED[1]).itl
    assert tight.per_minute < free.per_minute
    assert throughput.best(one, load, 256, ServiceLevel(itl=0.001), ASSUMED[1]) is None
    assert throughput.best(one, load, 0, ServiceLevel(), ASSUMED[1]) is None


PUBLISHED = [
    # model, GPU, way, prompt, output, requests a minute, source
    (
        LLAMA_8B,
        "L40S",
        "fp8",
        780,
        73,
        1349,
        "Red Hat, MLPerf 5.1 offline, 1,642 tok/s; lengths assumed",
    ),
    (LLAMA_8B, "H100", "fp8", 780, 73, 4748, "the same, 5,777 tok/s"),
    (LLAMA_8B, "H200", "dense", 220, 200, 1354, "vLLM CI, ShareGPT, with ramp and tail"),
]


@pytest.mark.parametrize(("values", "gpu", "way", "prompt", "output", "published", "source"), PUBLISHED)
def test_published_rates_are_within_a_factor_of_two_and_a_half(
    values: dict[str, Any], gpu: str, way: str, prompt: int, output: int, published: float, source: str
) -> None:
    found = throughput.best(instance(values, gpu, way), Load(prompt, output), 512, ServiceLevel(), ASSUMED[1])
    assert found is not None, source
    assert 1 / 2.5 < found.per_minute / published < 2.5, source


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 512), st.floats(0, 0.9))
def test_what_may_never_get_worse(prompt: int, output: int, batch: int, shared: float) -> None:
    slow, fast = instance(gpu="L4"), instance(gpu="H200")
    load, cached = Load(prompt, output), Load(prompt, output, shared)
    at = throughput.operate(slow, load, batch, ASSUMED[1])
    assert throughput.operate(fast, load, batch, ASSUMED[1]).per_minute > at.per_minute
    assert throughput.operate(slow, cached, batch, ASSUMED[1]).per_minute >= at.per_minute
    assert throughput.operate(slow, load, batch + 1, ASSUMED[1]).itl > at.itl
    assert all(math.isfinite(value) and value > 0 for value in (at.step, at.per_minute, at.itl, at.ttft, at.e2e))
    low, likely, high = (throughput.operate(slow, load, batch, e).per_minute for e in ASSUMED)
    assert low < likely < high


@pytest.mark.parametrize("lengths", [(0, 1), (1, 0), (10**8, 1), (-1, 5)])
def test_lengths_that_cannot_be(lengths: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Load(*lengths)


@pytest.mark.parametrize("values", [(0, 0.5, 0, 0), (0.5, 2, 0, 0), (0.5, 0.5, -1, 0), (float("nan"), 0.5, 0, 0)])
def test_efficiencies_that_cannot_be(values: tuple[float, float, float, float]) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        Efficiency(*values)


def test_figures_have_the_values_in_them() -> None:
    one = instance()
    at = throughput.best(one, Load(512, 256), 64, ServiceLevel(), ASSUMED[1])
    assert at is not None
    told = {figure.name: figure for figure in throughput.figures(one, at, ASSUMED[1])}
    assert "15.01 GB + " in told["decode step"].values
    assert "3,350 GB/s x 0.7" in told["decode step"].values
    assert told["requests per minute"].value == pytest.approx(at.per_minute)
    assert "assumed" in told["prefill"].source


def test_cache_in_fp8() -> None:
    assert throughput.cache_item_bytes(Config(LLAMA_8B), "fp8") == 1
    assert throughput.cache_item_bytes(Config(LLAMA_8B)) == 2
    assert throughput.cache_item_bytes(Config(LLAMA_8B | {"torch_dtype": "float32"})) == 4
