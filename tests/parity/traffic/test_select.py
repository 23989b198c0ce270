"""A sample stands for the whole: rare kinds stay, frequent requests are likelier, and it can be drawn again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.engines.base import Conversation
from migrate.parity.traffic.requests import Request
from migrate.parity.traffic.select import distinct, sample, stratum

TOOLS = ({"type": "function", "function": {"name": "f"}},)


def request(
    number: int, *, length: int = 10, tools: bool = False, count: int = 1, endpoint: str = "/api/chat"
) -> Request:
    text = f"{number} ".ljust(length, "x")
    conversation = Conversation(f"line {number}", ({"role": "user", "content": text},), TOOLS if tools else ())
    return Request(endpoint, {}, "m", number, f"line {number}", conversation, count=count)


COMMON = [request(i) for i in range(300)]
RARE = [
    request(1000, tools=True),
    request(1001, length=5000),
    request(1002, endpoint="/v1/chat/completions"),
]


def test_all_when_there_are_no_more() -> None:
    assert sample(COMMON, 300, seed=1) == COMMON
    assert sample(COMMON, 1000, seed=1) == COMMON
    assert sample([], 5, seed=1) == []


def test_rare_kinds_stay() -> None:
    everything = COMMON + RARE
    for seed in range(20):
        drawn = sample(everything, 10, seed=seed)
        assert len(drawn) == 10
        assert all(rare in drawn for rare in RARE)
        assert sorted(drawn, key=lambda r: r.line) == drawn


def test_when_there_are_fewer_places_than_kinds_traffic_decides() -> None:
    drawn = sample([*COMMON, *(replace(rare, count=50 * i + 1) for i, rare in enumerate(RARE))], 2, seed=3)
    assert {stratum(r) for r in drawn} == {stratum(COMMON[0]), stratum(RARE[2])}


def test_places_follow_the_traffic() -> None:
    both = [request(i) for i in range(300)] + [request(1000 + i, tools=True) for i in range(100)]
    drawn = sample(both, 40, seed=1)
    assert sum(bool(r.conversation and r.conversation.tools) for r in drawn) == 10


def test_the_same_again_whatever_the_order() -> None:
    shuffled = COMMON + RARE
    random.Random(5).shuffle(shuffled)
    first = {r.line for r in sample(COMMON + RARE, 25, seed=7)}
    assert first == {r.line for r in sample(shuffled, 25, seed=7)}
    assert first != {r.line for r in sample(COMMON + RARE, 25, seed=8)}


def test_frequent_requests_are_likelier() -> None:
    requests = [request(i, count=20 if i < 5 else 1) for i in range(100)]
    seen = Counter(r.line for seed in range(200) for r in sample(requests, 10, seed=seed))
    assert min(seen[i] for i in range(5)) > 3 * max(seen[i] for i in range(5, 100))


def test_distinct_adds_up() -> None:
    rows = distinct([request(1), request(2), replace(request(1), line=9, count=4)])
    assert [(r.line, r.count) for r in rows] == [(1, 5), (2, 1)]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.booleans(), st.integers(1, 100)), max_size=60),
    st.integers(0, 70),
    st.integers(0, 5),
)
def test_size_and_membership(rows: list[tuple[int, bool, int]], size: int, seed: int) -> None:
    requests = [request(i, length=n, tools=t, count=c) for i, (n, t, c) in enumerate(rows)]
    drawn = sample(requests, size, seed=seed)
    assert len(drawn) == min(size, len(requests))
    assert len({r.line for r in drawn}) == len(drawn)
    kinds = {stratum(r) for r in requests}
    assert len({stratum(r) for r in drawn}) == min(len(kinds), len(drawn))
