"""How Go's fmt prints each kind of value for each verb and flag.

Source: Go's fmt/print.go and fmt/format.go. Left out: addresses. Where Go would print one (%p, a function, a pointer
inside another value) the text differs from run to run, and that is an error here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from migrate.errors import TemplateError
from migrate.gotemplate import strconv
from migrate.gotemplate.values import (
    INVALID,
    Kind,
    Map,
    Slice,
    Struct,
    Value,
    entries,
    kind_of,
    normalized,
    sorted_keys,
    to_bytes,
    type_name,
)

_BASES = {"v": "d", "d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_ADDRESS = "prints a memory address, which is another one in every run"


@dataclass(slots=True)
class Flags:
    sharp: bool = False
    zero: bool = False
    plus: bool = False
    minus: bool = False
    space: bool = False
    sharp_v: bool = False
    plus_v: bool = False
    width: int | None = None
    precision: int | None = None


class Printer:
    """Collects the output of one call; knows how each kind of value answers each verb."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._room = limit
        self.flags = Flags()
        self._erroring = False

    def text(self) -> str:
        return normalized("".join(self._parts))

    def write(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise TemplateError("the template prints too much")
        self._parts.append(text)

    # ---- one argument ---------------------------------------------------------------------------------------------

    def argument(self, value: Value, verb: str) -> None:
        """An operand of Print or Printf."""
        if value is None or value is INVALID:
            if verb in "Tv":
                self._pad("<nil>")
            else:
                self._bad_verb(None, verb)
        elif verb == "T":
            self._pad(self._truncated(type_name(value)))
        elif verb == "p":
            if kind_of(value) in (Kind.MAP, Kind.SLICE, Kind.FUNC) or _is_pointer(value):
                raise TemplateError(_ADDRESS)
            self._bad_verb(value, verb)
        elif not self._by_method(value, verb):
            self._by_kind(value, verb, depth=0)

    def _by_method(self, value: Value, verb: str) -> bool:
        """Prints by the String() method, where there is one and the verb takes a string."""
        if self._erroring or not isinstance(value, (Struct, Map, Slice, dict, list, tuple)):
            return False
        if verb == "w":
            self._bad_verb(value, verb)
            return True
        if self.flags.sharp_v or verb not in "vsxXq":
            return False
        if not isinstance(value, (Struct, Map, Slice)) or value.string is None:
            return False
        self._string(value.string(), verb)
        return True

    def _by_kind(self, value: Value, verb: str, depth: int) -> None:
        if value is None or value is INVALID:
            self.write("interface {}(nil)" if self.flags.sharp_v else "<nil>")
            return
        kind = kind_of(value)
        if isinstance(value, Struct) and value.is_nil:
            self._pad("<nil>")
            return
        if kind is Kind.FUNC or (_is_pointer(value) and depth):
            raise TemplateError(_ADDRESS)
        if _is_pointer(value):
            self.write("&")
        _PRINTERS[kind](self, value, verb, depth)

    def _nested(self, value: Value, verb: str, depth: int) -> None:
        if not self._by_method(value, verb):
            self._by_kind(value, verb, depth + 1)

    def _bad_verb(self, value: Value, verb: str) -> None:
        self.write(f"%!{verb}(")
        if value is None:
            self.write("<nil>")
        else:
            self._erroring = True
            self.write(type_name(value) + "=")
            self.argument(value, "v")
            self._erroring = False
        self.write(")")

    # ---- kinds ----------------------------------------------------------------------------------------------------

    def _bool(self, value: bool, verb: str, depth: int) -> None:
        if verb in "tv":
            self._pad("true" if value else "false")
        else:
            self._bad_verb(value, verb)

    def _integer(self, value: int, verb: str, depth: int) -> None:
        unsigned = value % (1 << 64)
        if verb in _BASES:
            if verb == "v" and self.flags.sharp_v and kind_of(value) is Kind.UINT:
                self._pad(f"{value:#x}")
            else:
                self._digits(value, verb)
        elif verb == "c":
            self._pad(_character(unsigned))
        elif verb == "q":
            self._pad(strconv.quote(_character(unsigned), "'", ascii_only=self.flags.plus))
        elif verb == "U":
            self._unicode(unsigned)
        else:
            self._bad_verb(value, verb)

    def _digits(self, value: int, verb: str) -> None:
        flags = self.flags
        if flags.precision == 0 and value == 0:
            self.write(" " * (flags.width or 0))
            return
        sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
        least = flags.precision or 0
        if flags.precision is None and flags.zero and not flags.minus and flags.width is not None:
            least = flags.width - len(sign)
        digits = f"{abs(value):{_BASES[verb]}}".rjust(least, "0")
        self._pad(sign + _base_prefix(verb, digits, flags.sharp) + digits, zeros=False)

    def _unicode(self, code: int) -> None:
        text = f"U+{code:0{max(self.flags.precision or 4, 4)}X}"
        if self.flags.sharp and code <= 0x10FFFF and chr(code).isprintable():
            text += f" '{chr(code)}'"
        self._pad(text, zeros=False)

    def _float(self, value: float, verb: str, depth: int) -> None:
        flags = self.flags
        form = {"v": "g", "F": "f"}.get(verb, verb)
        if form not in "bgGxXfeE":
            self._bad_verb(value, verb)
            return
        precision = flags.precision if flags.precision is not None else 6 if form in "feE" else -1
        text = strconv.format_float(value, form, precision)
        sign, text = (text[0], text[1:]) if text[0] in "+-" else ("+", text)
        if text[0] in "IN":
            bare = text[0] == "N" and not flags.plus and not flags.space
            shown = "" if bare or (sign == "+" and not flags.plus and not flags.space) else sign
            self._pad((" " if shown == "+" and not flags.plus else shown) + text, zeros=False)
            return
        if flags.sharp and form != "b":
            text = _with_point(text, form, precision)
        if sign == "+" and not flags.plus:
            sign = " " if flags.space else ""
        if sign and flags.zero and not flags.minus and flags.width is not None:
            text = text.rjust(flags.width - len(sign), "0")
        self._pad(sign + text)

    def _complex(self, value: complex, verb: str, depth: int) -> None:
        if verb not in "vbgGxXfFeE":
            self._bad_verb(value, verb)
            return
        plus = self.flags.plus
        self.write("(")
        self._float(value.real, verb, depth)
        self.flags.plus = True
        self._float(value.imag, verb, depth)
        self.flags.plus = plus
        self.write("i)")

    def _text(self, value: str, verb: str, depth: int) -> None:
        self._string(value, verb)

    def _string(self, value: str, verb: str) -> None:
        flags = self.flags
        if verb == "q" or (verb == "v" and flags.sharp_v):
            value = self._truncated(value)
            if flags.sharp and strconv.can_backquote(value):
                self._pad(f"`{value}`")
            else:
                self._pad(strconv.quote(value, ascii_only=flags.plus))
        elif verb in "sv":
            self._pad(self._truncated(value))
        elif verb in "xX":
            self._hex_bytes(to_bytes(value)[: flags.precision], verb)
        else:
            self._bad_verb(value, verb)

    def _hex_bytes(self, data: bytes, verb: str) -> None:
        prefix = ("0" + verb) if self.flags.sharp and data else ""
        pairs = [f"{byte:02{verb}}" for byte in data]
        self._pad(" ".join(prefix + pair for pair in pairs) if self.flags.space else prefix + "".join(pairs))

    def _map(self, value: dict[str, Value] | Map, verb: str, depth: int) -> None:
        sharp = self.flags.sharp_v
        if sharp and isinstance(value, Map) and value.is_nil:
            self.write(f"{type_name(value)}(nil)")
            return
        self.write(type_name(value) + "{" if sharp else "map[")
        items = entries(value)
        for key in self._separated(sorted_keys(value)):
            self._string(key, verb)
            self.write(":")
            self._nested(items[key], verb, depth)
        self.write("}" if sharp else "]")

    def _slice(self, value: Sequence[Value] | Slice, verb: str, depth: int) -> None:
        sharp = self.flags.sharp_v
        if sharp and isinstance(value, Slice) and value.is_nil:
            self.write(f"{type_name(value)}(nil)")
            return
        self.write(type_name(value) + "{" if sharp else "[")
        for element in self._separated(value):
            self._nested(element, verb, depth)
        self.write("}" if sharp else "]")

    def _struct(self, value: Struct, verb: str, depth: int) -> None:
        sharp = self.flags.sharp_v
        self.write(value.type_name + "{" if sharp else "{")
        for name in self._separated(value.fields):
            if sharp or self.flags.plus_v:
                self.write(name + ":")
            self._nested(value.fields[name], verb, depth)
        self.write("}")

    def _separated(self, items: Iterable[Value]) -> Iterator[Value]:
        separator = ", " if self.flags.sharp_v else " "
        for position, item in enumerate(items):
            if position:
                self.write(separator)
            yield item

    # ---- padding --------------------------------------------------------------------------------------------------

    def _truncated(self, text: str) -> str:
        return text if self.flags.precision is None else text[: self.flags.precision]

    def _pad(self, text: str, *, zeros: bool = True) -> None:
        flags = self.flags
        if flags.width and len(text) < flags.width:
            if flags.minus:
                text = text.ljust(flags.width)
            else:
                text = text.rjust(flags.width, "0" if zeros and flags.zero else " ")
        self.write(text)


_PRINTERS: dict[Kind, Callable[..., None]] = {
    Kind.BOOL: Printer._bool,
    Kind.INT: Printer._integer,
    Kind.UINT: Printer._integer,
    Kind.FLOAT: Printer._float,
    Kind.COMPLEX: Printer._complex,
    Kind.STRING: Printer._text,
    Kind.MAP: Printer._map,
    Kind.SLICE: Printer._slice,
    Kind.STRUCT: Printer._struct,
}


def _is_pointer(value: Value) -> bool:
    return isinstance(value, Struct) and value.is_pointer


def _character(code: int) -> str:
    return "\ufffd" if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else chr(code)


def _base_prefix(verb: str, digits: str, sharp: bool) -> str:
    if verb == "O":
        return "0o" + ("0" if sharp and digits[0] != "0" else "")
    if not sharp:
        return ""
    return {"b": "0b", "o": "" if digits[0] == "0" else "0", "x": "0x", "X": "0X"}.get(verb, "")


def _with_point(text: str, form: str, precision: int) -> str:
    """The # flag: always a decimal point, and for %g the zeros behind it too."""
    digits = (6 if precision == -1 else precision) if form in "gGx" else 0
    ends = "pP" if form in "xX" else "eE"
    at = next((i for i, char in enumerate(text) if char in ends), len(text))
    number, tail = text[:at], text[at:]
    significant = number.replace(".", "")
    digits -= len(significant.lstrip("0"))
    if "." not in number:
        digits -= number == "0"
        number += "."
    return number + "0" * max(digits, 0) + tail
