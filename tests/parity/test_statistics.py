"""The decisions' arithmetic, against other ways to compute the same."""

from __future__ import annotations

import builtins
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import MissingExtra
from migrate.parity import statistics


def test_survival_of_answers_that_part_and_of_those_that_end() -> None:
    curve = statistics.survival("x", [(2, 9), (4, 9), (None, 3), (None, 9)])
    assert curve.tokens == [0, 2, 3, 4, 9]
    # 4 at risk: one parts at 2; one is lost sight of at 3; one of the remaining two parts at 4
    assert curve.share == pytest.approx([1.0, 0.75, 0.75, 0.375, 0.375])
    assert (curve.answers, curve.censored) == (4, 2)


@pytest.mark.parametrize(("margin", "needed"), [(0.03, 687), (0.02, 1546), (0.01, 6183)])
def test_the_plan_is_the_textbooks(margin: float, needed: int) -> None:
    made = statistics.plan(needed, margin=margin, alpha=0.05, power=0.8, discordance=0.1)
    assert made.needed == needed
    assert made.achieved_power == pytest.approx(0.8, abs=1e-3)
    textbook = (1.6449 + 0.8416) ** 2 * 0.1 / margin**2
    assert made.needed == math.ceil(textbook)
    assert statistics.plan(0, margin=margin, alpha=0.05, power=0.8, discordance=0.1).achieved_power == 0.0


def test_the_rate_that_nothing_found_is_compatible_with() -> None:
    assert statistics.upper_rate(0, 59, 0.95) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert statistics.upper_rate(3, 3, 0.95) == 1.0


def test_mcnemar_is_statsmodels() -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    source = [True] * 12 + [False] * 4 + [True] * 20
    target = [False] * 12 + [True] * 4 + [True] * 20
    found = statistics.paired(source, target)
    assert (found.lost, found.gained, found.items) == (12, 4, 36)
    two_sided = mcnemar([[20, 12], [4, 0]], exact=True).pvalue
    assert found.p_worse * 2 == pytest.approx(two_sided)
    assert statistics.paired(target, source).p_worse > 0.9
    assert statistics.paired([True] * 5, [True] * 5).p_worse == 1.0


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 60), st.floats(-0.9, 0.9))
def test_the_restricted_estimate_maximizes_the_likelihood(lost: int, gained: int, more: int, difference: float) -> None:
    """The closed form against a search for the maximum, step by step."""
    items = lost + gained + more
    found = statistics.restricted_lost(lost, gained, items, difference)

    def likelihood(q: float) -> float:
        p = q + difference
        rest = 1.0 - p - q
        if min(p, q, rest) < 0:
            return -math.inf
        parts = ((lost, q), (gained, p), (items - lost - gained, rest))
        if any(n and not x for n, x in parts):
            return -math.inf
        return sum(n * math.log(x) for n, x in parts if n)

    low, high = max(0.0, -difference), (1.0 - difference) / 2.0
    best = max((likelihood(low + (high - low) * step / 2000), step) for step in range(2001))[0]
    assert likelihood(min(max(found, low), high)) >= best - 1e-4 * (1 + abs(best))


@pytest.mark.parametrize(
    ("lost", "gained", "items", "low", "high"),
    [
        # nothing differs: z² / (n + z²) either way
        (0, 0, 50, -(1.6449**2) / (50 + 1.6449**2), 1.6449**2 / (50 + 1.6449**2)),
        (50, 0, 50, -1.0, -0.8974),
        (0, 50, 50, 0.8974, 1.0),
    ],
)
def test_tango_at_its_edges(lost: int, gained: int, items: int, low: float, high: float) -> None:
    found = statistics.tango_interval(lost, gained, items, alpha=0.05)
    assert found == pytest.approx((low, high), abs=6e-4)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 200))
def test_tango_contains_the_estimate_and_mirrors(lost: int, gained: int, more: int) -> None:
    items = lost + gained + more
    low, high = statistics.tango_interval(lost, gained, items, alpha=0.05)
    assert -1.0 <= low <= (gained - lost) / items <= high <= 1.0
    assert statistics.tango_interval(gained, lost, items, alpha=0.05) == pytest.approx((-high, -low), abs=1e-6)


def test_tango_covers_as_often_as_it_says() -> None:
    """One-sided 5 %: a true difference below the lower bound in about 5 of 100 samples, at the edge of the margin."""
    rng = random.Random(7)
    items, lost_rate, gained_rate, samples = 300, 0.07, 0.04, 2000
    missed = 0
    bounds: dict[tuple[int, int], float] = {}
    for _ in range(samples):
        drawn = [rng.random() for _ in range(items)]
        lost = sum(x < lost_rate for x in drawn)
        gained = sum(lost_rate <= x < lost_rate + gained_rate for x in drawn)
        if (lost, gained) not in bounds:
            bounds[lost, gained] = statistics.tango_interval(lost, gained, items, alpha=0.05)[0]
        missed += bounds[lost, gained] > gained_rate - lost_rate
    assert 0.03 < missed / samples < 0.07


def _draw(rng: random.Random, weights: list[float], count: int) -> list[list[int]]:
    return [rng.choices(range(len(weights)), weights, k=8) for _ in range(count)]


def test_two_samples_of_one_distribution_and_of_two() -> None:
    rng = random.Random(3)
    same = [(_draw(rng, [3, 2, 1], 10), _draw(rng, [3, 2, 1], 10)) for _ in range(6)]
    p, each = statistics.two_samples(same, seed=1)
    assert p > 0.05
    assert len(each) == 6
    moved = [(_draw(rng, [3, 2, 1], 10), _draw(rng, [1, 2, 3], 10)) for _ in range(6)]
    assert statistics.two_samples(moved, seed=1)[0] < 0.001
    assert statistics.two_samples(same, seed=1)[0] == p, "a seed gives one result"
    assert statistics.two_samples([([[], []], [[], []])], seed=1) == (1.0, [1.0])
    assert statistics.two_samples([], seed=1) == (1.0, [])


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingExtra, match="scipy") as caught:
        statistics.upper_rate(0, 3, 0.95)
    assert "ollama-to-vllm[parity]" in str(caught.value.hint)


def test_no_items_are_no_decision() -> None:
    with pytest.raises(ValueError, match="no items"):
        statistics.paired([], [])
