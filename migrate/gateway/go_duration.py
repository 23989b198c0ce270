"""Go's time.ParseDuration, and Ollama's `keep_alive` made of it (api.Duration)."""

from __future__ import annotations

import re

from migrate.gateway.go_syntax import GoError

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^0-9.]*)")
_LONGEST = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds of a text such as "1h30m", "-1.5s" or "0". Raises GoError with Go's text."""
    invalid = GoError(f"time: invalid duration {_quote(text)}")
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    if not rest:
        raise invalid
    total, at = 0, 0
    while at < len(rest):
        match = _PART.match(rest, at)
        if match is None or not (match[1] or match[3]) or (match[1] and int(match[1]) > _LONGEST + 1):
            raise invalid
        if not match[4]:
            raise GoError(f"time: missing unit in duration {_quote(text)}")
        if (unit := _UNITS.get(match[4])) is None:
            raise GoError(f"time: unknown unit {_quote(match[4])} in duration {_quote(text)}")
        total += _whole(match[1] or "0", unit, invalid) + _fraction(match[3] or "", unit)
        if total > _LONGEST + 1:
            raise invalid
        at = match.end()
    if text[0] == "-":
        return -total
    if total > _LONGEST:
        raise invalid
    return total


def _whole(digits: str, unit: int, invalid: GoError) -> int:
    if int(digits) > (_LONGEST + 1) // unit:
        raise invalid
    return int(digits) * unit


def _fraction(digits: str, unit: int) -> int:
    """Go keeps as many decimals as fit into 63 bits and rounds as float64 does."""
    value, scale = 0, 1.0
    for digit in digits:
        if value > _LONGEST // 10 or (longer := value * 10 + int(digit)) > _LONGEST + 1:
            break
        value, scale = longer, scale * 10
    return int(float(value) * (unit / scale)) if value else 0


def _quote(text: str) -> str:
    """As package time quotes: what is no printable ASCII becomes the bytes of its UTF-8."""
    shown = []
    for char in text:
        if char >= "\x80" or char < " ":
            shown.append("".join(f"\\x{byte:02x}" for byte in char.encode()))
        else:
            shown.append("\\" + char if char in '"\\' else char)
    return '"' + "".join(shown) + '"'
