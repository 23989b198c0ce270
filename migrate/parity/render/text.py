"""Text of models for people: bounded, nothing invisible, and the place where two texts part marked.

Whatever a server answered may stand in a report: terminal escapes, right-to-left overrides, one line of ten megabytes.
Nothing here escapes HTML, Markdown or XML; that is for those who write them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Item = TypeVar("Item")

MAX_LINE = 600
"""Characters of a sentence (a summary, a reason, a note) that are shown."""

MAX_NOTES = 30
MAX_MARK = 48
RESUME = 6
"""So many equal characters in a row mean that two texts go on together after a difference."""

CONTEXT = 800
"""Characters on each side of the first difference that are shown."""

BEYOND = 1e12

_JOINERS = frozenset("\u200c\u200d")
"""They join letters and emoji, and mean nothing else."""

_SPACES = {" ": "·", "\n": "↵\n", "\t": "⇥", "\r": "␍"}
END = "∎"
NOTHING = "‸"
SIGNS = "· a space, ↵ a line break, ⇥ a tab, ‸ nothing where the other side has something, ∎ the end"


def clip(text: str, limit: int = MAX_LINE) -> str:
    """At most `limit` characters, and how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters in all)"


def visible(text: str, *, keep: str = "\n\t") -> str:
    """Control and format characters as escapes (`\\x1b`, `\\u202e`): shown, not obeyed.

    What is left is valid in XML and in UTF-8: half a surrogate pair is shown, too.
    """
    if text.isprintable():
        return text
    return "".join(c if _harmless(c) or c in keep else _escape(c) for c in text)


def all_visible(value: Any) -> Any:
    """The same of every text in a tree of lists and dictionaries."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: all_visible(item) for key, item in value.items()}
    return [all_visible(item) for item in value] if isinstance(value, list | tuple) else value


def _harmless(c: str) -> bool:
    return c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs"


def _escape(c: str) -> str:
    code = ord(c)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def line(text: str, limit: int = MAX_LINE) -> str:
    """One line of bounded length: white space is folded."""
    return " ".join(visible(clip(text, limit)).split())


def first(items: Sequence[Item], limit: int) -> tuple[Sequence[Item], int]:
    """(the first `limit` items, how many are left out)."""
    return items[:limit], max(0, len(items) - limit)


@dataclass(frozen=True, slots=True)
class Listed:
    """The first lines of a list, and how many more there are."""

    items: list[str]
    more: int = 0

    @classmethod
    def of(cls, texts: Sequence[str], limit: int = MAX_NOTES) -> Listed:
        shown, more = first(texts, limit)
        return cls([line(text) for text in shown], more)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text. `gap`: words of ours in place of what is left out."""

    kind: Literal["text", "mark", "gap"]
    text: str


Pieces = tuple[Piece, ...]


def parting(source: str, target: str) -> int:
    """Index of the first character in which the two differ; the shorter's length when one begins the other."""
    low, high = 0, min(len(source), len(target))
    while low < high:  # slices are compared at the speed of memory
        middle = (low + high + 1) // 2
        if source[low:middle] == target[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def side_by_side(source: str, target: str, at: int | None = None, *, context: int = CONTEXT) -> tuple[Pieces, Pieces]:
    """Both texts around their first difference, which begins with the piece `mark` of each.

    `at` is where it begins (characters), found here when it is None or lies outside. A mark covers what one has and
    the other lacks, or else the rest of the word. When white space is the difference it is made visible, and so are
    characters that only look alike. A text that ends there gets the mark `END`, one that lacks something `NOTHING`.
    Texts that are the same have no mark.
    """
    if source == target:
        return plain(source, 2 * context), plain(target, 2 * context)
    shorter = min(len(source), len(target))
    if at is None or not 0 <= at <= shorter:
        at = parting(source, target)
    ours, theirs = _spans(source, target, at)
    blank = ours[:1].isspace() or theirs[:1].isspace()
    alike = unicodedata.normalize("NFKC", ours) == unicodedata.normalize("NFKC", theirs)
    marks = (_revealed(span, blank, alike) for span in (ours, theirs))
    sides = [
        _around(text, at, at + len(span), mark, context)
        for text, span, mark in zip((source, target), (ours, theirs), marks, strict=True)
    ]
    return sides[0], sides[1]


def _spans(source: str, target: str, at: int) -> tuple[str, str]:
    """What stands at `at` in one text only, if they go on together after it, or else a word of each."""
    ours, theirs = source[at : at + MAX_MARK + RESUME], target[at : at + MAX_MARK + RESUME]
    for more in range(1, MAX_MARK + 1):
        if theirs and ours[more : more + RESUME] == theirs[:RESUME]:
            return ours[:more], ""
        if ours and theirs[more : more + RESUME] == ours[:RESUME]:
            return "", theirs[:more]
    if ours[:1].isspace() and theirs[:1].isspace():
        return _run(ours, blank=True), _run(theirs, blank=True)
    return _word(ours), _word(theirs)


def _word(text: str) -> str:
    """The word that a text begins with, and the white space before it."""
    blank = _run(text, blank=True)
    return (blank + _run(text[len(blank) :], blank=False))[:MAX_MARK]


def _run(text: str, *, blank: bool) -> str:
    """The beginning of a text that is white space, or that is not."""
    end = next((index for index, c in enumerate(text) if c.isspace() != blank), len(text))
    return text[:end]


def _around(text: str, at: int, end: int, mark: str, context: int) -> Pieces:
    start = max(0, at - context)
    pieces = [Piece("gap", f"… {start:,} characters …")] if start else []
    if start < at:
        pieces.append(Piece("text", visible(text[start:at])))
    pieces.append(Piece("mark", mark or (END if at >= len(text) else NOTHING)))
    if text[end : end + context]:
        pieces.append(Piece("text", visible(text[end : end + context])))
    if (more := len(text) - end - context) > 0:
        pieces.append(Piece("gap", f"… {more:,} more characters"))
    return tuple(pieces)


def _revealed(span: str, blank: bool, alike: bool) -> str:
    """A marked piece with nothing left to guess. `blank`: white space is the difference."""
    shown = []
    for index, c in enumerate(span):
        if c in _SPACES and (blank or c != " "):
            shown.append(_SPACES[c])
        elif not c.isprintable() or (alike and ord(c) > 126) or (index == 0 and unicodedata.combining(c)):
            shown.append(_escape(c))
        else:
            shown.append(c)
    return "".join(shown)


def plain(text: str, limit: int) -> Pieces:
    """The beginning of a text, nothing marked."""
    pieces = [Piece("text", visible(text[:limit]))] if text else []
    if (more := len(text) - limit) > 0:
        pieces.append(Piece("gap", f"… {more:,} more characters"))
    return tuple(pieces)


def number(value: float | int | None) -> str:
    """Three significant digits, thousands apart: 0.000086 -> 8.6e-05, 12345.6 -> 12,346; None or NaN -> –."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    if 100 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """0.9937 -> 99.4%; 100% and 0% only where nothing is missing and nothing is there."""
    if not math.isfinite(value):
        return number(value)
    for digits in (1, 2, 3):
        shown = f"{100 * value:.{digits}f}"
        if value in (0, 1) or float(shown) not in (0, 100):
            break
    return shown.removesuffix(".0") + "%"


def finite(pairs: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that can be drawn: neither infinite nor beyond anything that is measured."""
    return [(a, b) for a, b in pairs if abs(a) < BEYOND and abs(b) < BEYOND]


def sentence(text: str) -> str:
    """With a capital, unless it begins with a name (of a file, a field) that is written as it is."""
    word = text.split(" ", 1)[0]
    plain_word = word.islower() and re.fullmatch(r"[^\W\d_]+(-\w+)?[,;:]?", word)
    return text[:1].upper() + text[1:] if plain_word else text


def thinned(items: Sequence[Item], limit: int) -> Sequence[Item]:
    """At most `limit` of them, evenly spread."""
    step = max(1, -(-len(items) // limit))
    return items[::step]
