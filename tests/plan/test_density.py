from __future__ import annotations

from typing import Any

import pytest

from migrate.plan import density
from migrate.plan.config import Config
from migrate.plan.density import Density
from tests.plan.published import LLAMA_8B


def advise(parameters: float, **options: Any) -> Density:
    values: dict[str, Any] = {"fits": 4, "host_share": 0.1} | options
    return density.advise(Config(LLAMA_8B), int(parameters), **values)


@pytest.mark.parametrize(
    ("parameters", "instances", "word"),
    [
        (1.3e9, 2, "waiting"),  # +24 % measured
        (2.7e9, 1, "below 10%"),  # +0.8 to +8.9 % measured
        (3.1e9, 1, "above 3B"),
        (7.6e9, 1, "above 3B"),
        (70e9, 1, "above 3B"),
    ],
)
def test_one_unless_there_is_evidence(parameters: float, instances: int, word: str) -> None:
    found = advise(parameters)
    assert found.instances == instances
    assert word in found.reason
    assert found.source


def test_a_rate_that_one_carries_needs_no_second() -> None:
    found = advise(1.3e9, enough=True)
    assert found.instances == 1
    assert found.reason == "one carries the rate; a second would add +24.0% to +34.0%"
    assert advise(1.3e9, enough=True, asked=2).instances == 2
    assert "above 3B" in advise(7.6e9, enough=True).reason


def test_no_room_is_no_second_instance() -> None:
    assert "no room" in advise(1.3e9, fits=1).reason
    assert advise(1.3e9, fits=1).instances == 1


def test_ones_own_measurement_counts_more() -> None:
    assert advise(7.6e9, measured_gain=0.2).instances == 2
    assert advise(7.6e9, measured_gain=0.2).gain == (0.2, 0.2)
    assert advise(7.6e9, measured_gain=0.05).instances == 1
    assert advise(1.3e9, measured_gain=-0.1).instances == 1
    assert advise(7.6e9, measured_gain=0.2, fits=1).instances == 1


def test_a_measured_wait_for_the_host_is_evidence_an_assumed_one_is_not() -> None:
    assert advise(7.6e9, host_share=0.8).instances == 1
    found = advise(7.6e9, host_share=0.8, calibrated=True)
    assert found.instances == 2
    assert found.gain[0] == 0.0  # nothing is promised
    assert "80%" in found.reason
    assert advise(7.6e9, host_share=0.8, calibrated=True, fits=1).instances == 1


def test_as_asked_says_what_is_known_of_it() -> None:
    found = advise(7.6e9, asked=3)
    assert (found.instances, found.gain) == (3, (0.0, 0.0))
    assert "no gain is known" in found.reason
    assert "--kv-cache-memory-bytes" in found.how
    assert "one after the other" in found.how
    assert "balancer" in found.how
    assert advise(1.3e9, asked=1).how == ""
    assert "+24" in advise(1.3e9, asked=2).reason
