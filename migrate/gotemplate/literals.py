"""Go's constants as a template writes them: quoted strings, characters, numbers.

A Go string is bytes, a Python one is characters: a byte that is no part of valid UTF-8 (`"\\xff"`) becomes a lone
surrogate, as the error handler "surrogateescape" has it. Rules: strconv.Unquote, strconv.ParseInt, strconv.ParseFloat
and the literal syntax of the Go specification.
"""

from __future__ import annotations

import re

from migrate.gotemplate import nodes

MAX_INT64 = (1 << 63) - 1
MIN_INT64 = -(1 << 63)
MAX_UINT64 = (1 << 64) - 1

_SIMPLE_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_ESCAPE = re.compile(
    r"\\(?:(?P<hex>x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})|(?P<octal>[0-7]{3})|(?P<simple>[abfnrtv\\'\"]))"
)
_INTEGER = re.compile(r"([+-]?)(?:(0[xX])([0-9a-fA-F_]+)|(0[bB])([01_]+)|(0[oO]?)([0-7_]*)|([1-9][0-9_]*))")
_MISPLACED_UNDERSCORE = re.compile(r"(?<![0-9])_|_(?![0-9])")
_MISPLACED_IN_HEX = re.compile(r"(?<![0-9a-fA-F])_|_(?![0-9a-fA-F])")


def unquote(literal: str) -> str:
    """The value of a `"..."` or a raw string literal; ValueError("invalid syntax") where Go says so."""
    quote, body = literal[0], literal[1:-1]
    if quote == "`":
        return body.replace("\r", "")
    if "\\" not in body:
        return body
    out = bytearray()
    at = 0
    while (found := body.find("\\", at)) >= 0:
        out += body[at:found].encode("utf-8", "surrogateescape")
        value, is_byte, at = _escape(body, found, quote)
        out += bytes((value,)) if is_byte else chr(value).encode("utf-8")
    out += body[at:].encode("utf-8", "surrogateescape")
    return out.decode("utf-8", "surrogateescape")


def unquote_char(literal: str) -> int:
    """The code point of a `'x'` literal; ValueError when it is malformed."""
    body = literal[1:-1]
    if body.startswith("\\"):
        value, _, end = _escape(body, 0, "'")
    elif not body:
        raise ValueError("invalid syntax")
    else:
        value, end = ord(body[0]), 1
    if end != len(body):
        raise ValueError(f"malformed character constant: {literal}")
    return 0xFFFD if 0xDC80 <= value <= 0xDCFF else value


def _escape(text: str, at: int, quote: str) -> tuple[int, bool, int]:
    """The escape that starts at `at`: its value, whether that is a byte rather than a code point, where it ends."""
    match = _ESCAPE.match(text, at)
    if match is None:
        raise ValueError("invalid syntax")
    if digits := match["hex"]:
        value = int(digits[1:], 16)
        if digits[0] != "x" and (value > 0x10FFFF or 0xD800 <= value <= 0xDFFF):
            raise ValueError("invalid syntax")
        return value, digits[0] == "x", match.end()
    if digits := match["octal"]:
        value = int(digits, 8)
        if value > 255:
            raise ValueError("invalid syntax")
        return value, True, match.end()
    simple = match["simple"]
    if simple in "'\"":
        if simple != quote:
            raise ValueError("invalid syntax")
        return ord(simple), False, match.end()
    return _SIMPLE_ESCAPES[simple], False, match.end()


def parse_integer(text: str) -> int | None:
    """strconv.ParseInt with base 0 and without a limit of size: prefixes, legacy octal, underscores."""
    match = _INTEGER.fullmatch(text)
    if match is None or not _underscores_ok(text):
        return None
    sign, _, hexadecimal, _, binary, _, octal, decimal = match.groups()
    for digits, base in ((hexadecimal, 16), (binary, 2), (decimal, 10)):
        if digits is not None:
            return _signed(sign, digits, base)
    if text[-1] in "oO":
        return None
    return _signed(sign, octal or "0", 8)


def parse_float(text: str) -> float | None:
    """strconv.ParseFloat(text, 64); None when it is no number or too large."""
    if not _underscores_ok(text):
        return None
    plain = text.replace("_", "")
    try:
        if "x" in plain.lower():
            return float.fromhex(plain) if "p" in plain.lower() else None
        value = float(plain)
    except (ValueError, OverflowError):
        return None
    return None if value in (float("inf"), float("-inf")) else value


def _underscores_ok(text: str) -> bool:
    """Between two digits, and between a prefix such as 0x and a digit."""
    body = text.lstrip("+-")
    prefix = body[:2].lower()
    if prefix in ("0x", "0b", "0o"):
        body = "0" + body[2:]
    return (_MISPLACED_IN_HEX if prefix == "0x" else _MISPLACED_UNDERSCORE).search(body) is None


def _signed(sign: str, digits: str, base: int) -> int | None:
    """None, too, for a number that is far too large: int() of a megabyte of digits takes long."""
    digits = digits.replace("_", "").lstrip("0")
    if len(digits) > 64:
        return None
    value = int(digits or "0", base)
    return -value if sign == "-" else value


def number(text: str, *, pos: int = 0, line: int = 1) -> nodes.Number:
    """A numeric or character constant as every type that can hold it; ValueError when none can."""
    if text.startswith("'"):
        value = unquote_char(text)
        return nodes.Number(text, value, value, float(value), is_char=True, pos=pos, line=line)
    if text.endswith("i") and (imaginary := _complex(text)) is not None:
        real = imaginary.real if imaginary.imag == 0 else None
        return nodes.Number(text, _as_int(real), _as_uint(real), real, imaginary, pos=pos, line=line)
    whole = parse_integer(text)
    if whole is not None and MIN_INT64 <= whole <= MAX_UINT64:
        as_int = whole if whole <= MAX_INT64 else None
        as_uint = whole if whole >= 0 and not (text.startswith(("+", "-")) and whole) else None
        if as_int is not None or as_uint is not None:
            return nodes.Number(text, as_int, as_uint, float(whole), pos=pos, line=line)
    real = parse_float(text)
    if real is None:
        raise ValueError(f'illegal number syntax: "{text[:40]}"')
    if not any(char in ".eEpP" for char in text):
        raise ValueError(f'integer overflow: "{text[:40]}"')
    return nodes.Number(text, _as_int(real), _as_uint(real), real, pos=pos, line=line)


def _complex(text: str) -> complex | None:
    """`2i` or `1+2i`."""
    body = text[:-1]
    split = max(body.rfind("+", 1), body.rfind("-", 1))
    if split > 0 and body[split - 1] in "eEpP":
        split = max(body.rfind("+", 1, split - 1), body.rfind("-", 1, split - 1))
    real = parse_float(body[:split]) if split > 0 else 0.0
    imaginary = parse_float(body[split:] if split > 0 else body)
    return None if real is None or imaginary is None else complex(real, imaginary)


def _as_int(value: float | None) -> int | None:
    return int(value) if value is not None and -(2.0**63) <= value < 2.0**63 and value.is_integer() else None


def _as_uint(value: float | None) -> int | None:
    return int(value) if value is not None and 0 <= value < 2.0**64 and value.is_integer() else None
