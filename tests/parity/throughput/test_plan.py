from __future__ import annotations

import pytest
from pydantic import ValidationError

from migrate.errors import UsageError
from migrate.parity.throughput.plan import Plan, Point, Slo, parse_concurrency, parse_rate, schedule


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("ttft=500ms,itl=50ms", (500, 50, None)),
        ("e2e=2.5s", (None, None, 2500)),
        (" ttft = 1s , e2e=300 ", (1000, None, 300)),
    ],
)
def test_service_levels(text: str, limits: tuple[float | None, ...]) -> None:
    slo = Slo.parse(text)
    assert (slo.ttft_ms, slo.itl_ms, slo.e2e_ms) == limits
    assert slo
    assert Slo.parse(str(slo)) == slo


@pytest.mark.parametrize("text", ["", ",", "ttft", "ttft=0ms", "tpot=5ms", "ttft=1s,ttft=2s", "ttft=-1", "itl=1e9999"])
def test_service_levels_that_say_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="--slo"):
        Slo.parse(text)


def test_no_service_level() -> None:
    assert not Slo()


@pytest.mark.parametrize(("text", "rate"), [("500/min", 500), ("8/s", 480), ("12.5", 12.5), (" 60 / min ", 60)])
def test_rates(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-5/min", "500/hour", "fast", "9" * 12, "1e3"])
def test_rates_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--rate"):
        parse_rate(text)


def test_one_at_a_time_is_always_measured() -> None:
    assert parse_concurrency("8,2,2") == (1, 2, 8)
    assert Plan(concurrency=(4,)).concurrency == (1, 4)


@pytest.mark.parametrize("text", ["", "1,,2", "0", "5000", "two", "9" * 400])
def test_concurrency_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--concurrency"):
        parse_concurrency(text)


def test_bounds_of_a_plan() -> None:
    for field, value in {"requests": 10**9, "repeats": 0, "seed": -1, "request_rate": 0, "total_seconds": 0}.items():
        with pytest.raises(ValidationError):
            Plan.model_validate({field: value})
    with pytest.raises(ValidationError, match="from 1 to 4096"):
        Plan(concurrency=(0,))


def test_every_stream_gets_requests() -> None:
    plan = Plan(requests=20, warmup=3)
    assert (plan.requests_at(Point(1)), plan.warmup_at(Point(1))) == (20, 3)
    assert (plan.requests_at(Point(64)), plan.warmup_at(Point(64))) == (256, 64)
    assert plan.requests_at(Point(request_rate=500)) == 250, "half a minute of arrivals"
    assert plan.requests_at(Point(request_rate=6)) == 20
    assert plan.requests_at(Point(request_rate=1e5)) == 10_000
    assert Plan(warmup=0).warmup_at(Point(8)) == 0


def test_the_schedule_is_complete_paired_and_random() -> None:
    plan = Plan(concurrency=(1, 2, 4), request_rate=60, repeats=5, seed=3)
    slots = schedule(plan)
    assert len(slots) == len(set(slots)) == 4 * 5 * 2
    assert [slot.repeat for slot in slots] == sorted(slot.repeat for slot in slots)
    pairs = list(zip(slots[::2], slots[1::2], strict=True))
    assert all(a.point == b.point and a.repeat == b.repeat and a.side != b.side for a, b in pairs)
    assert {a.side for a, _ in pairs} == {"source", "target"}, "either side is the first now and then"
    assert len({tuple(a.point for a, _ in pairs if a.repeat == repeat) for repeat in range(1, 6)}) > 1
    assert schedule(plan) == slots
    assert schedule(plan.model_copy(update={"seed": 4})) != slots
    assert str(slots[0]) in {f"1: {side}, {point}" for side in ("source", "target") for point in plan.points}
