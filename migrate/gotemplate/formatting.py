"""Go's fmt: Sprint, Sprintln and Sprintf over the values of `values`.

Source: Go's fmt/print.go (doPrint, doPrintln, doPrintf).
"""

from __future__ import annotations

from collections.abc import Sequence

from migrate.gotemplate.printer import Flags, Printer
from migrate.gotemplate.values import INVALID, Kind, Value, kind_of, type_name

_LARGEST = 1_000_000


def sprint(values: Sequence[Value], limit: int) -> str:
    """fmt.Sprint: a space between two operands when neither is a string. TemplateError beyond `limit` characters."""
    printer = Printer(limit)
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
    printer = Printer(limit)
    for position, value in enumerate(values):
        if position:
            printer.write(" ")
        printer.argument(value, "v")
    printer.write("\n")
    return printer.text()


def sprintf(template: str, values: Sequence[Value], limit: int) -> str:
    """fmt.Sprintf, complaints such as `%!d(string=hi)` included."""
    return _Format(template, values, limit).run()


class _Format:
    """One run over a format string; mirrors what it accepts and what it complains about."""

    def __init__(self, template: str, values: Sequence[Value], limit: int) -> None:
        self.template = template
        self.values = values
        self.printer = Printer(limit)
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
        self.printer.flags = Flags()
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
        self.printer.flags = Flags()
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
