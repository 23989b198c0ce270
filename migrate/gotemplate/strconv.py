"""Go's strconv.FormatFloat, strconv.Quote and their helpers."""

from __future__ import annotations

import math

_SHORTEST_G_PRECISION = 6
_ESCAPES = {7: "\\a", 8: "\\b", 12: "\\f", 10: "\\n", 13: "\\r", 9: "\\t", 11: "\\v", 92: "\\\\"}


def format_float(value: float, verb: str, precision: int) -> str:
    """`value` in the format `verb` (one of "efgEGxXb"); precision -1 is the shortest text that reads back the same."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if verb == "b":
        return _binary(value)
    if verb in "xX":
        text = _hexadecimal(value, precision)
    elif precision >= 0:
        text = f"{value:.{precision}{verb.lower()}}"
    else:
        text = _shortest(value, verb.lower())
    return text.upper() if verb in "EGX" else text


def _shortest(value: float, verb: str) -> str:
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    digits, point = _digits(abs(value))
    exponent = point - 1
    if verb == "e" or (verb == "g" and not -4 <= exponent < _SHORTEST_G_PRECISION):
        return sign + _scientific(digits, exponent)
    return sign + _positional(digits, point)


def _digits(value: float) -> tuple[str, int]:
    """The shortest decimal digits d1d2... and the place of the point: 0.d1d2... * 10**point."""
    mantissa, _, exponent = f"{value!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return "0", 1
    leading = len(whole + fraction) - len(digits)
    return digits.rstrip("0"), len(whole) - leading + int(exponent or 0)


def _scientific(digits: str, exponent: int) -> str:
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _positional(digits: str, point: int) -> str:
    if point <= 0:
        return "0." + "0" * -point + digits
    if point >= len(digits):
        return digits + "0" * (point - len(digits))
    return digits[:point] + "." + digits[point:]


def _binary(value: float) -> str:
    """%b: a whole mantissa times a power of two."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if abs(value) < 2.0**-1022:
        return f"{sign}{int(math.ldexp(abs(value), 1074))}p-1074"
    mantissa, exponent = math.frexp(abs(value))
    return f"{sign}{int(mantissa * (1 << 53))}p{exponent - 53:+d}"


def _hexadecimal(value: float, precision: int) -> str:
    """%x: a normalized mantissa 0x1.hhh, at least two digits of exponent."""
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if value == 0:
        return f"{sign}0x0{'.' + '0' * precision if precision > 0 else ''}p+00"
    mantissa, exponent = math.frexp(abs(value))
    fraction, exponent = int(mantissa * (1 << 53)), exponent - 1  # 1.f * 2**exponent, 52 bits behind the point
    if 0 <= precision < 13:
        fraction = _round_to_even(fraction, 52 - 4 * precision)
        if fraction >= 1 << 53:
            fraction, exponent = fraction >> 1, exponent + 1
    digits = f"{fraction - (1 << 52):013x}"
    digits = digits.rstrip("0") if precision < 0 else digits[:precision].ljust(precision, "0")
    return f"{sign}0x1{'.' + digits if digits else ''}p{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _round_to_even(value: int, bits: int) -> int:
    """`value` with the last `bits` bits rounded away (and zero)."""
    half, rest = 1 << (bits - 1), value & ((1 << bits) - 1)
    value -= rest
    if rest > half or (rest == half and value >> bits & 1):
        value += 1 << bits
    return value


def quote(text: str, delimiter: str = '"', *, ascii_only: bool = False) -> str:
    """A Go literal of `text`: strconv.Quote, or strconv.QuoteRune with a single quote."""
    return delimiter + "".join(_quoted(char, delimiter, ascii_only) for char in text) + delimiter


def _quoted(char: str, delimiter: str, ascii_only: bool) -> str:
    code = ord(char)
    if char == delimiter:
        return "\\" + char
    if escape := _ESCAPES.get(code):
        return escape
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if char.isprintable() and (char.isascii() or not ascii_only):
        return char
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def can_backquote(text: str) -> bool:
    return not any(
        char in "`\x7f\ufeff" or (char < " " and char != "\t") or 0xDC80 <= ord(char) <= 0xDCFF for char in text
    )
