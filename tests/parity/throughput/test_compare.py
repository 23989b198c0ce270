from __future__ import annotations

import numpy as np
import pytest

from migrate.parity.report import Ratio
from migrate.parity.throughput.compare import goal_of, is_good, load_of, ratios
from migrate.parity.throughput.plan import Plan, Point, Slo
from migrate.parity.throughput.records import Measured, Request
from tests.parity.throughput.replayed import requests

ONE, RATE = Point(1), Point(request_rate=60)


def run(times: list[float], **fields: float) -> Measured:
    made = requests(times, **fields)  # type: ignore[arg-type]
    return Measured(made, offered=len(made))


def by_name(found: list[Ratio]) -> dict[str, Ratio]:
    return {ratio.metric: ratio for ratio in found}


def test_a_load() -> None:
    runs = [run([110.0] * 50), run([210.0] * 50)]
    load = load_of("target", ONE, runs, Slo(e2e_ms=150))
    assert (load.requests, load.repeats, load.errors) == (100, 2, 0)
    assert load.seconds == pytest.approx(16.0)
    assert load.requests_per_min == pytest.approx(100 / 16 * 60)
    assert load.tokens_per_s == pytest.approx(100 * 11 / 16)
    assert load.goodput_per_min == pytest.approx(load.requests_per_min / 2)
    assert load.ttft_ms == {"p50": 10, "p95": 10, "p99": 10}
    assert load.itl_ms == {"p50": 15, "p95": 20, "p99": 20}
    assert load.e2e_ms == {"p50": 160, "p95": 210, "p99": 210}
    assert (load.output_tokens, load.reported_output_tokens, load.input_tokens) == (11, 11, 20)
    assert load.gpu_utilization is None


def test_a_load_without_answers() -> None:
    load = load_of("source", RATE, [Measured((), offered=8, errors=8)], Slo())
    assert (load.requests, load.errors, load.tokens_per_s, load.requests_per_min) == (0, 8, 0, 0)
    assert load.e2e_ms is None
    assert load.goodput_per_min is None


def test_the_gpu_of_several_runs() -> None:
    runs = [Measured((), 0, gpu_utilization=u, gpu_memory_gb=m) for u, m in ((20.0, 5.0), (60.0, 7.0))]
    load = load_of("target", ONE, runs, Slo())
    assert (load.gpu_utilization, load.gpu_memory_gb) == (40.0, 7.0)


def test_time_between_tokens() -> None:
    assert Request(0, 110, 10, 11).itl_ms == 10
    assert Request(0, 110, 10, 1).itl_ms is None
    all_at_once = Request(0, 110, 110, 11)
    assert all_at_once.in_one_piece
    assert all_at_once.itl_ms is None


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), True),
        (Slo(ttft_ms=10, itl_ms=10, e2e_ms=110), True),
        (Slo(ttft_ms=9), False),
        (Slo(itl_ms=9), False),
        (Slo(e2e_ms=109), False),
    ],
)
def test_service_levels(slo: Slo, good: bool) -> None:
    assert is_good(Request(0, 110, 10, 11), slo) is good


def test_above_one_is_better_for_the_target_in_every_metric() -> None:
    rng = np.random.default_rng(1)
    slow = [run(list(rng.normal(400, 20, 40)), ttft=40) for _ in range(4)]
    fast = [run(list(rng.normal(200, 10, 40)), ttft=20) for _ in range(4)]
    plan = Plan(slo=Slo(e2e_ms=1000), resamples=400)
    found = by_name(ratios(ONE, slow, fast, plan))
    assert set(found) == {
        "requests_per_min", "tokens_per_s", "goodput_per_min",
        *(f"{time}_p{percent}" for time in ("ttft", "itl", "e2e") for percent in (50, 95, 99)),
    }  # fmt: skip
    for ratio in found.values():
        assert ratio.low <= ratio.value <= ratio.high
        assert ratio.value == pytest.approx(2, rel=0.15)
        assert ratio.low > 1.5
    back = by_name(ratios(ONE, fast, slow, plan))
    assert back["e2e_p50"].value == pytest.approx(1 / found["e2e_p50"].value, rel=1e-3)


def test_runs_that_differ_widen_the_interval() -> None:
    """Many requests of few runs are not many observations."""
    rng = np.random.default_rng(2)
    source = [run(list(rng.normal(300, 5, 200))) for _ in range(5)]
    steady = [run(list(rng.normal(300, 5, 200))) for _ in range(5)]
    drifting = [run(list(rng.normal(center, 5, 200))) for center in (200, 250, 300, 350, 400)]
    plan = Plan(resamples=500)
    calm = by_name(ratios(ONE, source, steady, plan))["requests_per_min"]
    wild = by_name(ratios(ONE, source, drifting, plan))["requests_per_min"]
    assert wild.high - wild.low > 5 * (calm.high - calm.low)
    assert calm.low < 1 < calm.high or abs(calm.value - 1) < 0.01


def test_the_interval_covers_the_truth() -> None:
    """Of 40 measurements of two servers that are equally fast, about 95 in 100 intervals hold 1; with four runs a
    side the bootstrap is known to be somewhat too narrow, so most is asked for, not all."""
    rng = np.random.default_rng(3)

    def side() -> list[Measured]:
        return [run(list(rng.gamma(20, 10 * rng.normal(1, 0.05), 30))) for _ in range(4)]

    plan = Plan(resamples=300)
    held = [by_name(ratios(ONE, side(), side(), plan))["tokens_per_s"] for _ in range(40)]
    assert sum(ratio.low <= 1 <= ratio.high for ratio in held) >= 30


def test_one_run_still_has_the_spread_of_its_requests() -> None:
    rng = np.random.default_rng(4)
    one, many = ([run(list(rng.normal(300, 60, n)))] for n in (10, 1000))
    plan = Plan(resamples=300)
    few = by_name(ratios(ONE, one, one, plan))["requests_per_min"]
    lot = by_name(ratios(ONE, many, many, plan))["requests_per_min"]
    assert few.high - few.low > 4 * (lot.high - lot.low) > 0


def test_arrivals_set_the_rate_of_an_open_loop() -> None:
    source, target = ([run([100.0] * 20, gap=0.9)], [run([50.0] * 20, gap=0.95)])
    assert "requests_per_min" not in by_name(ratios(RATE, source, target, Plan(resamples=100)))
    found = by_name(ratios(RATE, source * 2, target * 2, Plan(resamples=100)))
    assert found["requests_per_min"].value == pytest.approx(1, rel=0.01)
    assert found["e2e_p50"].value == 2
    assert found["e2e_p50"].request_rate == 60


def test_runs_of_unequal_length_and_answers_without_gaps() -> None:
    source = [run([100.0, 200.0]), run([150.0] * 5), Measured((), offered=4, errors=4)]
    target = [run([100.0], tokens=1), run([120.0] * 3, tokens=1)]
    found = by_name(ratios(ONE, source, target, Plan(resamples=200)))
    assert "itl_p50" not in found, "answers of one token have no time between tokens"
    assert np.isfinite([found["e2e_p95"].low, found["tokens_per_s"].high]).all()


def test_no_ratio_without_answers_on_both_sides() -> None:
    assert ratios(ONE, [run([100.0] * 3)], [], Plan()) == []
    assert ratios(ONE, [Measured((), 3, errors=3)], [run([100.0] * 3)], Plan()) == []


def test_no_ratio_of_nothing() -> None:
    never = by_name(
        ratios(ONE, [run([900.0] * 5)] * 2, [run([100.0] * 5)] * 2, Plan(slo=Slo(e2e_ms=500), resamples=100))
    )
    assert "goodput_per_min" not in never
    assert never["e2e_p50"].value == 9


def test_intervals_are_repeatable() -> None:
    rng = np.random.default_rng(5)
    source, target = ([run(list(rng.normal(300, 60, 10))) for _ in range(2)] for _ in range(2))
    plan = Plan(resamples=100)
    assert ratios(ONE, source, target, plan) == ratios(ONE, source, target, plan)


# --- "500 requests a minute" ----------------------------------------------------------------------------------------


def test_a_rate_that_is_reached() -> None:
    plan = Plan(request_rate=60, slo=Slo(e2e_ms=500))
    goal = goal_of([run([100.0] * 60, gap=0.9)], plan, 11)
    assert goal is not None
    assert goal.reached
    assert goal.measured_per_min == pytest.approx(60)
    assert goal.statement.startswith("60 requests a minute: reached. Of 60 requests that came at 60 a minute, 60 were ")
    assert "answered within e2e=500ms" in goal.statement
    assert "11 tokens an answer" in goal.statement


def test_a_rate_that_breaks_the_service_level() -> None:
    goal = goal_of([run([100.0] * 40 + [600.0] * 20, gap=0.4)], Plan(request_rate=60, slo=Slo(e2e_ms=500)), 11)
    assert goal is not None
    assert not goal.reached
    assert goal.measured_per_min == pytest.approx(40, rel=0.05)


def test_a_server_that_falls_behind() -> None:
    """All are answered in the end, but each waits longer than the one before."""
    behind = tuple(Request(float(n), 1000.0 + 1000.0 * n, 10, 11) for n in range(60))
    goal = goal_of([Measured(behind, offered=60)], Plan(request_rate=60), 11)
    assert goal is not None
    assert not goal.reached
    assert goal.measured_per_min == pytest.approx(30, rel=0.05)


def test_a_load_generator_that_falls_behind() -> None:
    """Requests that never came prove nothing; a little fewer than wanted is chance."""
    slow = goal_of([run([100.0] * 400, gap=1.1)] * 2, Plan(request_rate=60), 11)
    assert slow is not None
    assert not slow.reached
    assert slow.measured_per_min == pytest.approx(50, rel=0.01)
    chance = goal_of([run([100.0] * 400, gap=0.93)] * 2, Plan(request_rate=60), 11)
    assert chance is not None
    assert chance.measured_per_min == 60


def test_failures_count_against_the_rate() -> None:
    made = requests([100.0] * 30, gap=0.9)
    goal = goal_of([Measured(made, offered=60, errors=30)], Plan(request_rate=60), 11)
    assert goal is not None
    assert goal.measured_per_min == pytest.approx(30), "each failure counts once"


def test_no_goal() -> None:
    assert goal_of([run([100.0] * 5)], Plan(), 11) is None
    assert goal_of([], Plan(request_rate=60), 11) is None
    nothing = goal_of([Measured((), offered=3, errors=3)], Plan(request_rate=60), 0)
    assert nothing is not None
    assert (nothing.reached, nothing.measured_per_min) == (False, 0)
