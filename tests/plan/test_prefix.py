from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.plan import prefix
from migrate.plan.prefix import shared_prefixes


def test_a_common_beginning_is_saved_from_the_second_prompt_on() -> None:
    system = list(range(64))
    prompts = [([*system, *([1000 + i] * 40)], 1) for i in range(3)]
    found = shared_prefixes(prompts)
    assert (found.prompts, found.tokens, found.saved, found.longest) == (3, 312, 2 * 64, 64)
    assert found.share == pytest.approx(128 / 312)
    assert "41% of 312 prompt tokens" in str(found)


def test_only_whole_blocks_and_never_the_last_token() -> None:
    assert shared_prefixes([(list(range(31)), 1)] * 2).saved == 16
    assert shared_prefixes([(list(range(32)), 1)] * 2).saved == 16
    assert shared_prefixes([(list(range(33)), 1)] * 2).saved == 32
    assert shared_prefixes([(list(range(15)), 1)] * 2).saved == 0


def test_the_same_words_behind_other_ones_are_not_saved() -> None:
    tail = list(range(100))
    assert shared_prefixes([([7, *tail], 1), ([8, *tail], 1)]).saved == 0


def test_a_conversation_that_goes_on() -> None:
    first = list(range(48))
    found = shared_prefixes([(first, 1), ([*first, *range(100, 164)], 1)])
    assert found.saved == 32  # the last token of the first prompt was computed, but its block was not filled before it


def test_requests_that_were_made_often() -> None:
    assert shared_prefixes([(list(range(33)), 5)]) == shared_prefixes([(list(range(33)), 1)] * 5)


def test_texts_are_counted_by_their_bytes() -> None:
    found = shared_prefixes([("x" * 400, 1), ("x" * 400, 1)])
    assert (found.tokens, found.saved, found.longest) == (200, 96, 100)
    assert shared_prefixes([("\ud800" * 100, 2)]).prompts == 2


def test_nothing() -> None:
    assert shared_prefixes([]).share == 0
    assert shared_prefixes([([], 3)]).prompts == 0
    assert str(shared_prefixes([])) == "no prompts"


def test_a_bound_on_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "MAX_TOKENS", 100)
    found = shared_prefixes([(list(range(60)), 1), (list(range(60)), 1)])
    assert (found.prompts, found.truncated) == (1, True)


_PROMPTS = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(1, 4)), max_size=8)


@given(_PROMPTS, st.integers(1, 20))
def test_savings_are_bounded(prompts: Sequence[tuple[list[int], int]], block: int) -> None:
    found = shared_prefixes(prompts, block)
    assert found.tokens == sum(len(prompt) * times for prompt, times in prompts)
    assert 0 <= found.saved <= found.tokens - found.prompts
    assert 0 <= found.share < 1


@given(_PROMPTS)
def test_what_comes_again_saves_at_least_as_much(prompts: Sequence[tuple[list[int], int]]) -> None:
    assert shared_prefixes([*prompts, *prompts], 4).saved >= 2 * shared_prefixes(prompts, 4).saved
