from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.engines.base import Candidate, TokenLogprob
from migrate.parity.distances import compare_position, divergence, first_mismatch, summarize
from migrate.parity.vocabulary import Vocabulary

VOCABULARY = Vocabulary({i: f"t{i}".encode() for i in range(100)}, frozenset({99}), {99: "</s>"}, {})


def top(probabilities: dict[int, float]) -> tuple[Candidate, ...]:
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    return tuple(Candidate(i, b"", math.log(p)) for i, p in ranked)


def position(probabilities: dict[int, float], token: int | None = None) -> TokenLogprob:
    candidates = top(probabilities)
    own = candidates[0] if token is None else next(c for c in candidates if c.id == token)
    return TokenLogprob(own.id, b"", own.logprob, candidates)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ({1: 0.7, 2: 0.3}, {1: 0.7, 2: 0.3}, 0.0),
        ({1: 0.5, 2: 0.5}, {1: 0.25, 2: 0.75}, 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
        ({1: 0.6}, {1: 0.3}, 0.6 * math.log(2) + 0.4 * math.log(4 / 7)),
        # 3 is not listed by the target: at most as likely as the last one it lists
        ({3: 1.0}, {1: 0.9, 2: 0.01}, math.log(100)),
        ({}, {1: 1.0}, 0.0),
    ],
)
def test_divergence(source: dict[int, float], target: dict[int, float], expected: float) -> None:
    assert divergence(top(source), top(target)) == pytest.approx(max(0.0, expected), abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.floats(0.0, 4.0))
def test_divergence_never_exceeds_the_true_one(seed: int, k: int, l: int, noise: float) -> None:  # noqa: E741
    """Cutting distributions to lists may hide a difference and must not invent one."""
    rng = random.Random(seed)
    logits = [rng.gauss(0, 3) for _ in range(12)]
    moved = [value + rng.gauss(0, noise) for value in logits]
    p, q = _softmax(logits), _softmax(moved)
    true = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    listed = divergence(top(dict(enumerate(p)))[:k], top(dict(enumerate(q)))[:l])
    assert 0.0 <= listed <= true + 1e-6


def _softmax(logits: list[float]) -> list[float]:
    total = math.fsum(math.exp(value) for value in logits)
    return [math.exp(value) / total for value in logits]


def test_one_position() -> None:
    source, target = position({1: 0.6, 2: 0.4}), position({1: 0.4, 2: 0.6}, token=1)
    compared = compare_position(source, target)
    assert compared.top1 is False
    assert compared.delta == pytest.approx(math.log(1.5))
    assert compare_position(source, source).top1 is True


def test_summary() -> None:
    assert summarize([]) == {}
    same = compare_position(position({1: 0.6, 2: 0.4}), position({1: 0.6, 2: 0.4}))
    other = compare_position(position({1: 0.6, 2: 0.4}), position({2: 0.9, 1: 0.1}, token=1))
    numbers = summarize([[same, same, same, other]])
    assert numbers["positions"] == 4
    assert numbers["top1_agreement"] == 0.75
    assert numbers["mean_kl"] == pytest.approx(other.kl / 4)
    assert numbers["max_kl"] == other.kl


@pytest.mark.parametrize(
    ("source", "target", "side"),
    [
        ({1: 0.9, 2: 0.1}, {1: 0.9, 2: 0.1}, None),
        ({1: 0.6, 2: 0.4}, {2: 0.6, 1: 0.4}, None),
        ({1: 0.6, 2: 0.4}, {2: 0.6, 3: 0.3, 1: 0.1}, "target"),
        ({1: 0.6, 3: 0.4}, {2: 0.6, 1: 0.4}, "source"),
    ],
)
def test_first_mismatch(source: dict[int, float], target: dict[int, float], side: str | None) -> None:
    found = first_mismatch("x", [position(source)], [position(target, token=1)], 2, VOCABULARY)
    if side is None:
        assert found is None
    else:
        assert found is not None
        assert found.reason.startswith(f"the {side} does not have")
        assert found.position == 0
        assert "'t1' -0.511" in found.source


def test_only_the_first_mismatch_counts() -> None:
    tie = position({1: 0.6, 2: 0.4}), position({2: 0.6, 1: 0.4}, token=1)
    bad = position({1: 0.6, 2: 0.4}), position({3: 0.6, 4: 0.3, 1: 0.1}, token=1)
    assert first_mismatch("x", [tie[0], bad[0]], [tie[1], bad[1]], 2, VOCABULARY) is None
    assert first_mismatch("x", [bad[0], tie[0]], [bad[1], tie[1]], 2, VOCABULARY) is not None


def test_what_is_no_number_is_no_agreement() -> None:
    broken = (Candidate(1, b"", math.nan), Candidate(2, b"", -1.0))
    assert math.isnan(divergence(top({1: 0.7, 2: 0.3}), broken))
    assert (
        not summarize([[compare_position(position({1: 0.7, 2: 0.3}), TokenLogprob(1, b"", math.nan, broken))]])[
            "mean_kl"
        ]
        <= 1.0
    )
