"""The automatic return, on a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway.state import LiveState, State, StateFile
from migrate.gateway.watch import ReturnPolicy, Trip, Watch, is_error, percentile


class World:
    """A watched model in a canary, and a clock."""

    def __init__(self, *, returnable: bool = True, **policy: Any) -> None:
        self.now = 1000.0
        self.state = State.fresh().changed("bot", "canary", weight=50)
        self.trips: list[Trip] = []
        self.watch = Watch(
            ReturnPolicy(**policy),
            lambda: self.state,
            on_trip=self.tripped,
            returnable=["bot"] if returnable else [],
            clock=lambda: self.now,
        )

    def tripped(self, trip: Trip) -> None:
        self.trips.append(trip)
        self.state = self.state.changed("bot", "source", by=f"automatic return: {trip.reason}")

    def answers(
        self,
        statuses: Sequence[int | None],
        *,
        side: Any = "target",
        ttft: float | None = 0.1,
        every: float = 1.0,
        total: float | None = None,
    ) -> None:
        for status in statuses:
            self.now += every
            self.watch.answered("bot", side, status, ttft, total)


def test_good_answers_never_trip() -> None:
    world = World()
    world.answers([200] * 2000)
    assert world.trips == []


@pytest.mark.parametrize("status", [500, 502, 503, 429, None])
def test_errors_trip_once_there_are_enough_answers(status: int | None) -> None:
    world = World(min_requests=20, max_error_rate=0.05, window=1e4)
    world.answers([status] * 19)
    assert world.trips == []
    world.answers([status])
    (trip,) = world.trips
    assert trip.model == "bot:latest"
    assert trip.reason == "20 of 20 answers were errors (100.0 %, allowed 5 %)"
    assert trip.numbers == {"errors": 20, "answers": 20, "error_rate": 1.0}


def test_the_rate_may_be_reached_but_not_exceeded() -> None:
    world = World(min_requests=20, max_error_rate=0.05, window=1e4)
    world.answers([500] + [200] * 38 + [500])
    assert world.trips == []
    world.answers([500])
    assert world.trips[0].reason.startswith("3 of 41")


def test_what_lies_behind_the_window_is_forgotten() -> None:
    world = World(min_requests=10, max_error_rate=0.3, window=60)
    world.answers([500] * 9)
    world.now += 61
    world.answers([200] * 100, every=0.1)
    world.answers([500] * 9, every=0.1)
    assert world.trips == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 499, 501])
def test_what_clients_do_says_nothing(status: int) -> None:
    world = World(min_requests=5)
    world.answers([status] * 500)
    assert world.trips == []
    world.answers([500] * 4 + [200])  # they do not water the rate down either
    assert world.trips[0].numbers["answers"] == 5


def test_errors_of_the_source_are_not_vllms() -> None:
    world = World()
    world.answers([500] * 200, side="source")
    assert world.trips == []


@pytest.mark.parametrize("phase", ["source", "shadow"])
def test_only_where_vllm_answers(phase: Any) -> None:
    world = World()
    world.state = world.state.changed("bot", phase)
    world.answers([500] * 100)
    assert world.trips == []


def test_it_may_be_switched_off() -> None:
    world = World(enabled=False)
    world.answers([500] * 100)
    assert world.trips == []


def test_after_a_trip_it_stays_until_an_operator_acts() -> None:
    world = World(window=1e4)
    world.answers([500] * 500)
    assert len(world.trips) == 1
    assert world.state.models["bot:latest"].phase == "source"
    world.answers([200] * 500)
    assert len(world.trips) == 1
    world.state = world.state.changed("bot", "canary", weight=5)
    world.answers([200] * 100)
    assert len(world.trips) == 1
    world.answers([500] * 100)
    assert len(world.trips) == 2


def test_a_trip_that_could_not_change_the_state_is_not_repeated() -> None:
    world = World()
    world.watch = Watch(
        ReturnPolicy(), lambda: world.state, on_trip=world.trips.append, returnable=["bot"], clock=lambda: world.now
    )
    world.answers([500] * 500)
    assert len(world.trips) == 1


def test_a_new_phase_begins_with_an_empty_window() -> None:
    world = World(min_requests=10, window=1e4)
    world.answers([500] * 9)
    world.state = world.state.changed("bot", "canary", weight=60)
    world.answers([200])  # by which the new phase is noticed
    world.answers([500] * 5, total=100.0)  # asked before it
    world.answers([200] * 50, total=0.5)
    assert world.trips == []


def test_without_an_ollama_it_is_told_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    world = World(returnable=False, min_requests=20)
    world.answers([500] * 45)
    assert len(world.trips) == 2  # once per full window
    assert "there is no Ollama to return to" in caplog.text


# ---- latency ---------------------------------------------------------------------------------------------------------


def test_a_slow_first_token() -> None:
    world = World(max_ttft=2.0, min_requests=20, window=1e4)
    world.answers([200] * 100, ttft=1.9)
    assert world.trips == []
    world.answers([200] * 10, ttft=2.5)
    assert world.trips[0].reason == "p95 to the first token is 2.50 s (allowed 2 s)"


def test_answers_that_are_not_streamed_have_no_first_token() -> None:
    world = World(max_ttft=0.01)
    world.answers([200] * 500, ttft=None)
    assert world.trips == []


def test_slower_than_ollama_by_a_factor() -> None:
    world = World(ttft_factor=3, ttft_floor=0.5, min_requests=20, window=1e4)
    world.answers([200] * 40, side="source", ttft=0.4)
    world.answers([200] * 40, ttft=1.1)
    assert world.trips == []
    world.answers([200] * 40, ttft=1.3)
    (trip,) = world.trips
    assert trip.reason == "p95 to the first token is 1.30 s, Ollama's 0.40 s (allowed 3x)"
    assert trip.numbers["source_ttft_p95"] == 0.4


def test_a_factor_needs_both_sides_and_a_time_that_matters() -> None:
    world = World(ttft_factor=3, ttft_floor=1.0, window=1e4)
    world.answers([200] * 100, ttft=30.0)
    assert world.trips == []
    world.answers([200] * 100, side="source", ttft=0.01)
    world.answers([200], ttft=30.0)
    assert len(world.trips) == 1
    quick = World(ttft_factor=3, ttft_floor=1.0, window=1e4)
    quick.answers([200] * 100, side="source", ttft=0.01)
    quick.answers([200] * 100, ttft=0.9)
    assert quick.trips == []


def test_a_full_window_is_still_watched() -> None:
    world = World(max_ttft=2.0, window=86_400)
    world.answers([200] * 25_000, ttft=1.0)
    world.answers([200] * 3_000, ttft=5.0)
    assert len(world.trips) == 1


@given(st.lists(st.sampled_from([200, 400, 499, 500, None]), max_size=300), st.integers(1, 30), st.floats(0, 1))
def test_it_trips_exactly_when_the_window_says_so(statuses: list[int | None], least: int, rate: float) -> None:
    """Against the plainest account of the same rule."""
    world = World(min_requests=least, max_error_rate=rate, window=50, ttft_factor=None)
    counted: list[tuple[float, bool]] = []
    expected = False
    for status in statuses:
        world.answers([status])
        if (error := is_error(status)) is not None:
            counted.append((world.now, error))
            recent = [e for at, e in counted if at > world.now - 50]
            expected = expected or (len(recent) >= least and sum(recent) / len(recent) > rate)
        assert bool(world.trips) == expected
        if expected:
            break


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-6
    assert sum(v < found for v in values) < share * len(values)


def test_with_the_real_state_a_return_is_written(tmp_path: Path) -> None:
    """Watch and state together, as the server has them: a failing canary, random traffic, one return in the file."""
    file = StateFile(tmp_path / "state.json")
    file.update(lambda s: s.changed("bot", "canary", weight=50))
    live = LiveState(file)
    trips: list[Callable[[], bool]] = []

    def trip(what: Trip) -> None:
        trips.append(lambda: live.return_to_source(what.model, what.reason))
        assert trips[-1]()

    watch = Watch(ReturnPolicy(), live.current, on_trip=trip, returnable=["bot:latest"])
    draw = random.Random(1)
    for _ in range(400):
        watch.answered("bot", "target", 503 if draw.random() < 0.3 else 200, 0.1, 0.2)
    live.flush()
    found = file.read().models["bot:latest"]
    assert (found.phase, len(trips), [c.phase for c in found.history]) == ("source", 1, ["canary"])
    assert found.by.startswith("automatic return: ")
