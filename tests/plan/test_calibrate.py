from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput, ServerUnreachable, UsageError
from migrate.plan import calibrate, gpus
from migrate.plan.calibrate import Decode, Prefill, Samples
from migrate.plan.throughput import ASSUMED, Efficiency, Instance, Load
from tests.plan.published import LLAMA_8B, model

L40S = next(gpu for gpu in gpus.load() if gpu.name == "L40S")


@cache
def instance() -> Instance:
    found = model(LLAMA_8B)
    return Instance(found.config, found.layers, found.weights, L40S)


def samples_of(truth: Efficiency) -> Samples:
    """What a server with these efficiencies would show."""
    one, load = instance(), Load(100, 48)
    decode = tuple(Decode(batch, 124, one.step(batch, load, truth)) for batch in (1, 4, 16))
    prefill = tuple(Prefill(n, one.prefill(Load(n, 1), truth) + truth.host) for n in (32, 1024))
    return Samples(decode, prefill, "a test")


@given(st.floats(0.4, 0.9), st.floats(0.1, 0.9), st.floats(0, 300e-6))
def test_efficiencies_are_found_again(mbu: float, mfu: float, per_request: float) -> None:
    truth = Efficiency(mbu, mfu, ASSUMED[1].host, per_request)
    found = calibrate.fit(instance(), samples_of(truth))
    assert found.mbu == pytest.approx(mbu, rel=0.05)
    assert found.mfu == pytest.approx(mfu, rel=0.01)
    assert found.host == pytest.approx(truth.host, abs=1e-3)
    assert found.host_per_request == pytest.approx(per_request, abs=5e-6)
    assert found.origin == "measured: a test"


def test_a_server_that_waits_for_its_host_is_not_given_a_slow_memory() -> None:
    found = calibrate.fit(instance(), samples_of(Efficiency(0.7, 0.5, 0.5, 0.0)))
    assert found.mbu == ASSUMED[1].mbu
    assert found.host == pytest.approx(0.5, rel=0.01)


def test_faster_than_the_gpu_can_be_is_another_gpu() -> None:
    fast = Samples((Decode(1, 100, 0.001),), (), "http://x")
    with pytest.raises(UsageError, match="L40S needs at least") as caught:
        calibrate.fit(instance(), fast)
    assert caught.value.hint is not None


def test_without_prefills_that_part_stays_assumed() -> None:
    found = calibrate.fit(instance(), Samples((Decode(1, 100, 0.05),), (), "x"))
    assert (found.mfu, found.host_per_request) == (ASSUMED[1].mfu, ASSUMED[1].host_per_request)
    odd = Samples((Decode(1, 100, 0.05),), (Prefill(32, 0.5), Prefill(1024, 0.4)), "x")
    assert calibrate.fit(instance(), odd).mfu == ASSUMED[1].mfu


def test_the_range_around_a_measurement() -> None:
    low, middle, high = calibrate.spread(Efficiency(0.7, 0.5, 0.002, 1e-5, "measured"))
    assert low.mbu < middle.mbu < high.mbu
    assert low.host > middle.host > high.host


def test_the_plan_of_the_run_is_bounded_and_avoids_the_prefix_cache() -> None:
    asked: list[tuple[tuple[int, ...], int]] = []

    def ask(prompt: Sequence[int], tokens: int) -> float:
        asked.append((tuple(prompt), tokens))
        return 0.01 * tokens + 1e-5 * len(prompt)

    found = calibrate.measure(ask, vocab=1000, context=300, chance=random.Random(1), origin="x")
    assert len(asked) == 1 + 2 * calibrate.REPEATS + 2 * sum(calibrate.BATCHES)
    assert all(len(prompt) + tokens <= 300 for prompt, tokens in asked)
    assert len({prompt for prompt, _ in asked}) == len(asked)
    assert all(0 <= token < 1000 for prompt, _ in asked for token in prompt)
    assert [sample.batch for sample in found.decode] == list(calibrate.BATCHES)
    assert all(sample.itl == pytest.approx(0.01) for sample in found.decode)
    with pytest.raises(UsageError, match="too short"):
        calibrate.measure(ask, vocab=10, context=40, chance=random.Random(1), origin="x")


def load(**changes: Any) -> dict[str, Any]:
    return {
        "side": "target",
        "concurrency": 1,
        "input_tokens": 200.0,
        "output_tokens": 100.0,
        "itl_ms": {"p50": 20.0},
        "ttft_ms": {"p50": 60.0},
        **changes,
    }


def test_a_parity_report() -> None:
    loads = [load(concurrency=8, itl_ms={"p50": 25.0}), load(), load(side="source", itl_ms={"p50": 1.0})]
    found = calibrate.from_report({"throughput": {"loads": loads}}, "report.json")
    assert found.decode == (Decode(1, 250.0, 0.02), Decode(8, 250.0, 0.025))
    assert found.prefill == (Prefill(200.0, 0.06),)
    assert calibrate.from_report({"loads": loads}, "x") == calibrate.from_report({"throughput": {"loads": loads}}, "x")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"throughput": None},
        {"loads": []},
        {"loads": "x"},
        {"loads": [None, 3]},
        {"loads": [load(side="source")]},
        {"loads": [load(itl_ms=None)]},
        {"loads": [load(itl_ms={"p50": "fast"})]},
        {"loads": [load(concurrency=None)]},
    ],
)
def test_a_report_without_measurements(content: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="no measured throughput"):
        calibrate.from_report(content, "report.json")


def test_nobody_there() -> None:
    with pytest.raises(ServerUnreachable):
        calibrate.run("http://127.0.0.1:9", vocab=100)
