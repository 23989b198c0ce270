"""Go's fmt: Sprint, Sprintln and Sprintf over the values of `values`.

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

_LARGEST = 1_000_000
_BASES = {"v": "d", "d": "d", "b": "b", "o": "o", "O": "o", "x": "x", "X": "X"}
_ADDRESS = "prints a memory address, which is another one in every run"


def sprint(values: Sequence[Value], limit: int) -> str:
    """fmt.Sprint: a space between two operands when neither is a string. TemplateError beyond `limit` characters."""
    printer = _Printer(limit)
    previous_is_string = True
    for value in values:
        is_string = isinstance(value, str)
        if not is_string and not previous_is_string:
            printer.write(" ")
        printer.argument(value, "v")
        previous_is_string = is_string
    return printer.text()


def sprintln(values: Sequence[Value], limit: int) -> str:
    """fmt.Sprintln."""
    printer = _Printer(limit)
    for position, value in enumerate(values):
        if position:
            printer.write(" ")
        printer.argument(value, "v")
    printer.write("\n")
    return printer.text()


def sprintf(template: str, values: Sequence[Value], limit: int) -> str:
    """fmt.Sprintf, complaints such as `%!d(string=hi)` included."""
    return _Format(template, values, limit).run()


@dataclass(slots=True)
class _Flags:
    sharp: bool = False
    zero: bool = False
    plus: bool = False
    minus: bool = False
    space: bool = False
    sharp_v: bool = False
    plus_v: bool = False
    width: int | None = None
    precision: int | None = None


class _Printer:
    """Collects the output of one call; knows how each kind of value answers each verb."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._room = limit
        self.flags = _Flags()
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
    Kind.BOOL: _Printer._bool,
    Kind.INT: _Printer._integer,
    Kind.UINT: _Printer._integer,
    Kind.FLOAT: _Printer._float,
    Kind.COMPLEX: _Printer._complex,
    Kind.STRING: _Printer._text,
    Kind.MAP: _Printer._map,
    Kind.SLICE: _Printer._slice,
    Kind.STRUCT: _Printer._struct,
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


class _Format:
    """One run over a format string; mirrors what it accepts and what it complains about."""

    def __init__(self, template: str, values: Sequence[Value], limit: int) -> None:
        self.template = template
        self.values = values
        self.printer = _Printer(limit)
        self.at = 0
        self.argument = 0
        self.reordered = False
        self.good_index = True
        self.after_index = False

    def run(self) -> str:
        template = self.template
        while True:
            percent = template.find("%", self.at)
            self.printer.write(template[self.at : percent if percent >= 0 else len(template)])
            if percent < 0:
                break
            self.at = percent + 1
            if not self._directive():
                break
        if not self.reordered and self.argument < len(self.values):
            self._extra()
        return self.printer.text()

    def _directive(self) -> bool:
        """One %...verb; False when the format ends in the middle."""
        self.printer.flags = _Flags()
        self.good_index = True
        if not self._read_flags():
            self._index()
            self._width()
            self._precision()
            if not self.after_index:
                self._index()
        if self.at >= len(self.template):
            self.printer.write("%!(NOVERB)")
            return False
        self._verb(self.template[self.at])
        return True

    def _read_flags(self) -> bool:
        """Reads the flags; True when a simple verb follows at once."""
        flags, names = self.printer.flags, {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}
        while (char := self._char()) in names:
            setattr(flags, names[char], True)
            self.at += 1
        return "a" <= char <= "z" and self.argument < len(self.values)

    def _verb(self, verb: str) -> None:
        self.at += 1
        if verb == "%":
            self.printer.write("%")
        elif not self.good_index:
            self.printer.write(f"%!{verb}(BADINDEX)")
        elif self.argument >= len(self.values):
            self.printer.write(f"%!{verb}(MISSING)")
        else:
            flags = self.printer.flags
            if verb in "vw":
                flags.sharp_v, flags.sharp = flags.sharp, False
                flags.plus_v, flags.plus = flags.plus, False
            self.printer.argument(self.values[self.argument], verb)
            self.argument += 1

    def _width(self) -> None:
        flags = self.printer.flags
        if self._char() == "*":
            self.at += 1
            flags.width = self._from_argument("%!(BADWIDTH)")
            if flags.width is not None and flags.width < 0:
                flags.width, flags.minus, flags.zero = -flags.width, True, False
            self.after_index = False
            return
        flags.width = self._number()
        if self.after_index and flags.width is not None:
            self.good_index = False

    def _precision(self) -> None:
        flags = self.printer.flags
        if self._char() != "." or self.at + 1 >= len(self.template):
            return
        self.at += 1
        if self.after_index:
            self.good_index = False
        self._index()
        if self._char() == "*":
            self.at += 1
            precision = self._from_argument(None)
            flags.precision = precision if precision is not None and precision >= 0 else None
            if flags.precision is None:
                self.printer.write("%!(BADPREC)")
            self.after_index = False
        else:
            flags.precision = self._number() or 0

    def _from_argument(self, complaint: str | None) -> int | None:
        value = None
        if self.argument < len(self.values):
            candidate = self.values[self.argument]
            self.argument += 1
            if kind_of(candidate) in (Kind.INT, Kind.UINT) and abs(candidate) <= _LARGEST:
                value = int(candidate)
        if value is None and complaint:
            self.printer.write(complaint)
        return value

    def _number(self) -> int | None:
        """Decimal digits; one number too large swallows the rest of the format, as in Go."""
        start = self.at
        number = 0
        while "0" <= self._char() <= "9":
            if number > _LARGEST:
                self.at = len(self.template)
                return None
            number = number * 10 + int(self._char())
            self.at += 1
        return number if self.at > start else None

    def _index(self) -> None:
        """`[n]`: the next operand is the n-th."""
        self.after_index = False
        if self._char() != "[":
            return
        self.reordered = True
        closing = self.template.find("]", self.at)
        if closing < 0 or len(self.template) - self.at < 3:
            self.good_index = False
            self.at += 1
            return
        digits = self.template[self.at + 1 : closing]
        self.at = closing + 1
        ok = digits.isascii() and digits.isdigit() and len(digits) <= 8
        if ok and 1 <= int(digits) <= len(self.values):
            self.argument = int(digits) - 1
            self.after_index = True
            return
        self.good_index = False
        self.after_index = ok

    def _char(self) -> str:
        return self.template[self.at : self.at + 1]

    def _extra(self) -> None:
        self.printer.flags = _Flags()
        self.printer.write("%!(EXTRA ")
        for position, value in enumerate(self.values[self.argument :]):
            if position:
                self.printer.write(", ")
            if value is None or value is INVALID:
                self.printer.write("<nil>")
            else:
                self.printer.write(type_name(value) + "=")
                self.printer.argument(value, "v")
        self.printer.write(")")
