"""What becomes of a model's text before it is shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.parity.render.text import (
    CONTEXT,
    END,
    MAX_MARK,
    NOTHING,
    Pieces,
    clip,
    line,
    number,
    parting,
    percent,
    sentence,
    side_by_side,
    visible,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ünïcödé 日本語 🎉", "plain, ünïcödé 日本語 🎉"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\x00\x7f\x85\ufeff", "\\x00\\x7f\\x85\\ufeff"),
        ("line\nbreak\ttab", "line\nbreak\ttab"),
        ("a\u00a0b\u3000c", "a\u00a0b\u3000c"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
    ],
)
def test_nothing_is_invisible(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_visible_text_is_valid_xml_and_utf_8(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    assert not [c for c in shown if ord(c) < 32 and c not in "\n\t"]
    assert "\ufffe" not in shown


def test_a_line_is_one_line_of_bounded_length() -> None:
    assert line("a\n  b\t c ") == "a b c"
    assert line("x" * 10_000_000, 10) == "xxxxxxxxxx… (10,000,000 characters in all)"
    assert clip("short", 10) == "short"


def _mark(pieces: Pieces) -> str:
    (mark,) = [piece.text for piece in pieces if piece.kind == "mark"]
    return mark


@pytest.mark.parametrize(
    ("source", "target", "ours", "theirs"),
    [
        ("You will get it", "You should get it", "will", "should"),
        ("a big house here", "a house here", "big ", NOTHING),
        ("colour of it all", "color of it all", "u", NOTHING),
        ("one two", "one  two", NOTHING, "·"),
        ("if x:\n    return 1", "if x:\n\treturn 1", "····", "⇥"),
        ("first\n\nsecond line", "first\nsecond line", "↵\n", NOTHING),
        ("The end.", "The end. And more", END, "·And"),
        ("Your name is Ada.", "Your name is", "·Ada.", END),
        ("", "x", END, "x"),
        ("Café!", "Cafe\u0301!", "\\xe9!", "e\\u0301!"),
        ("naı̈ve", "naıve", "\\u0308", NOTHING),
        ("a\u00a0b", "a b", "\\xa0", "·"),
        ("\u2066x", "x", "\\u2066", NOTHING),
    ],
)
def test_the_first_difference_is_marked(source: str, target: str, ours: str, theirs: str) -> None:
    left, right = side_by_side(source, target)
    assert (_mark(left), _mark(right)) == (ours, theirs)


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_a_mark_begins_where_the_texts_part(start: str, left: str, right: str) -> None:
    source, target = start + left, start + right
    if source == target:
        assert not [p for side in side_by_side(source, target) for p in side if p.kind == "mark"]
        return
    at = parting(source, target)
    assert source[:at] == target[:at]
    assert source[at : at + 1] != target[at : at + 1]
    for side, text in zip(side_by_side(source, target, at), (source, target), strict=True):
        kinds = [piece.kind for piece in side]
        before = "".join(piece.text for piece in side[: kinds.index("mark")])
        assert before == visible(text[:at])
        assert kinds.count("mark") == 1


@pytest.mark.parametrize("at", [-1, 10**18, 3])
def test_a_wrong_place_is_mended_or_taken_as_told(at: int) -> None:
    left, _ = side_by_side("abcdef", "abcxyz", at)
    assert left[0].text == "abc"


def test_huge_texts_are_cut_around_the_difference() -> None:
    source, target = "a" * 10_000_000, "a" * 9_000_000 + "b" * 1_000_000
    for side in side_by_side(source, target):
        assert side[0].kind == side[-1].kind == "gap"
        assert side[0].text == f"… {9_000_000 - CONTEXT:,} characters …"
        assert sum(len(piece.text) for piece in side) < 2 * CONTEXT + MAX_MARK + 100
    same = side_by_side(source, source)[0]
    assert same[-1].text == f"… {10_000_000 - 2 * CONTEXT:,} more characters"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (0, "0"),
        (8.6e-05, "8.6e-05"),
        (0.9937, "0.994"),
        (12.345, "12.3"),
        (412.4, "412"),
        (12345.6, "12,346"),
        (1e300, "1e+300"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1, "100%"),
        (0.99999, "99.999%"),
        (0.9996, "99.96%"),
        (0.99382, "99.4%"),
        (0.8, "80%"),
        (0, "0%"),
        (0.0004, "0.04%"),
    ],
)
def test_a_share_is_rounded_to_all_or_nothing_only_when_it_is(value: float, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("all is well", "All is well"),
        ("prompt: 3 differ", "Prompt: 3 differ"),
        ("migration.json lists none", "migration.json lists none"),
        ("num_ctx is small", "num_ctx is small"),
        ("vLLM ended", "vLLM ended"),
        ("'x' became 'y'", "'x' became 'y'"),
        ("", ""),
    ],
)
def test_a_sentence_begins_with_a_capital_and_a_name_does_not(text: str, shown: str) -> None:
    assert sentence(text) == shown
