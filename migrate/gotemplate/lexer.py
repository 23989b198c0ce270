"""Text to tokens, by the rules of Go's text/template/parse/lex.go.

Trimming (`{{- `, ` -}}`) and comments are done here: the parser sees neither. The whole text is scanned once, so the
time is linear in its length. Tokens come lazily: of two errors the earlier one is reported, as in Go.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple


class Kind(enum.Enum):
    ERROR = "error"
    BOOL = "bool"
    CHAR = "char"
    CHAR_CONSTANT = "character constant"
    COMPLEX = "complex"
    ASSIGN = "="
    DECLARE = ":="
    EOF = "EOF"
    FIELD = "field"
    IDENTIFIER = "identifier"
    LEFT_DELIM = "{{"
    LEFT_PAREN = "("
    NUMBER = "number"
    PIPE = "|"
    RAW_STRING = "raw string"
    RIGHT_DELIM = "}}"
    RIGHT_PAREN = ")"
    SPACE = "space"
    STRING = "string"
    TEXT = "text"
    VARIABLE = "variable"
    DOT = "."
    NIL = "nil"
    BLOCK = "block"
    BREAK = "break"
    CONTINUE = "continue"
    DEFINE = "define"
    ELSE = "else"
    END = "end"
    IF = "if"
    RANGE = "range"
    TEMPLATE = "template"
    WITH = "with"


KEYWORDS = {
    kind.value: kind
    for kind in (
        Kind.BLOCK,
        Kind.BREAK,
        Kind.CONTINUE,
        Kind.DEFINE,
        Kind.ELSE,
        Kind.END,
        Kind.IF,
        Kind.NIL,
        Kind.RANGE,
        Kind.TEMPLATE,
        Kind.WITH,
    )
}


class Token(NamedTuple):
    """`pos` is a 0-based character offset, `line` is 1-based; an ERROR's text is its message."""

    kind: Kind
    pos: int
    text: str
    line: int

    def __str__(self) -> str:
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind is Kind.ERROR:
            return self.text
        if self.kind is Kind.DOT or self.text in KEYWORDS:
            return f"<{self.text}>"
        return quoted(self.text[:10]) + "..." if len(self.text) > 10 else quoted(self.text)


class LexError(Exception):
    """What the scanner could not read, at the current position."""


SPACES = " \t\r\n"
_SPACE_RUN = re.compile(r"[ \t\r\n]+")
_WORD = re.compile(r"\w*")
_RIGHT_DELIM = re.compile(r"}}|[ \t\r\n]-}}")
_QUOTED = {
    '"': (re.compile(r'"(?:[^"\\\n]++|\\[^\n])*+"'), "unterminated quoted string", Kind.STRING),
    "'": (re.compile(r"'(?:[^'\\\n]++|\\[^\n])*+'"), "unterminated character constant", Kind.CHAR_CONSTANT),
    "`": (re.compile(r"`[^`]*+`"), "unterminated raw quoted string", Kind.RAW_STRING),
}
_NUMBER = re.compile(
    r"[+-]?(?:0[xX][0-9a-fA-F_]*(?:\.[0-9a-fA-F_]*)?(?:[pP][+-]?[0-9_]*)?"
    r"|0[oO][0-7_]*(?:\.[0-7_]*)?|0[bB][01_]*(?:\.[01_]*)?"
    r"|[0-9_]*(?:\.[0-9_]*)?(?:[eE][+-]?[0-9_]*)?)i?"
)
_SINGLE = {"=": Kind.ASSIGN, "|": Kind.PIPE, "(": Kind.LEFT_PAREN, ")": Kind.RIGHT_PAREN}


def quoted(text: str) -> str:
    """A short text for a message, in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def is_alphanumeric(char: str) -> bool:
    """Go's rule for names: a letter, a decimal digit of any script, or `_`."""
    return char == "_" or (
        char.isalnum() and (char.isascii() or unicodedata.category(char)[0] == "L" or char.isdecimal())
    )


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a template, ending with EOF or ERROR."""
    return _Lexer(text).run()


class _Lexer:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.line = 1
        self.paren_depth = 0

    def run(self) -> Iterator[Token]:
        try:
            yield from self._run()
        except LexError as error:
            yield Token(Kind.ERROR, self.pos, str(error), self.line)

    def _run(self) -> Iterator[Token]:
        while (opening := self.text.find("{{", self.pos)) >= 0:
            trimmed = self._trims_left(opening)
            end = len(self.text[self.pos : opening].rstrip(SPACES)) + self.pos if trimmed else opening
            if end > self.pos:
                yield self._take(Kind.TEXT, end)
            self._skip_to(opening)
            if self.text.startswith("/*", opening + (4 if trimmed else 2)):
                self._skip_comment(opening + (4 if trimmed else 2))
                continue
            yield self._take(Kind.LEFT_DELIM, opening + 2)
            self._skip_to(self.pos + (2 if trimmed else 0))
            yield from self._action()
        if self.pos < len(self.text):
            yield self._take(Kind.TEXT, len(self.text))
        yield Token(Kind.EOF, self.pos, "", self.line)

    # ---- moving ---------------------------------------------------------------------------------------------------

    def _take(self, kind: Kind, end: int) -> Token:
        token = Token(kind, self.pos, self.text[self.pos : end], self.line)
        self._skip_to(end)
        return token

    def _skip_to(self, end: int) -> None:
        self.line += self.text.count("\n", self.pos, end)
        self.pos = end

    def _trims_left(self, opening: int) -> bool:
        return self.text.startswith("-", opening + 2) and self.text[opening + 3 : opening + 4] in tuple(SPACES)

    def _skip_after_trim(self) -> None:
        if match := _SPACE_RUN.match(self.text, self.pos):
            self._skip_to(match.end())

    def _skip_comment(self, start: int) -> None:
        closing = self.text.find("*/", start + 2)
        if closing < 0:
            raise LexError("unclosed comment")
        delim = _RIGHT_DELIM.match(self.text, closing + 2)
        if delim is None:
            raise LexError("comment ends before closing delimiter")
        self._skip_to(delim.end())
        if len(delim[0]) > 2:
            self._skip_after_trim()

    # ---- inside {{ }} ---------------------------------------------------------------------------------------------

    def _action(self) -> Iterator[Token]:
        self.paren_depth = 0
        while True:
            if delim := _RIGHT_DELIM.match(self.text, self.pos):
                if self.paren_depth:
                    raise LexError("unclosed left paren")
                trims = len(delim[0]) > 2
                self._skip_to(self.pos + (2 if trims else 0))
                yield self._take(Kind.RIGHT_DELIM, delim.end())
                if trims:
                    self._skip_after_trim()
                return
            yield self._next()

    def _next(self) -> Token:
        char = self.text[self.pos : self.pos + 1]
        if not char:
            raise LexError("unclosed action")
        if char in SPACES:
            return self._space()
        if char in _QUOTED:
            return self._quoted(char)
        if char == ":":
            if not self.text.startswith(":=", self.pos):
                raise LexError("expected :=")
            return self._take(Kind.DECLARE, self.pos + 2)
        if char == "$":
            return self._name(Kind.VARIABLE)
        following = self.text[self.pos + 1 : self.pos + 2]
        if char == "." and following and not (following.isascii() and following.isdigit()):
            return self._name(Kind.FIELD)
        if char in ".+-" or (char.isascii() and char.isdigit()):
            return self._number()
        if is_alphanumeric(char):
            return self._identifier()
        return self._single(char)

    def _space(self) -> Token:
        match = _SPACE_RUN.match(self.text, self.pos)
        assert match is not None
        end = match.end()
        if self.text.startswith("-}}", end):
            end -= 1  # the last space belongs to the trim marker; `_action` saw to it that there is one before
        return self._take(Kind.SPACE, end)

    def _quoted(self, char: str) -> Token:
        pattern, problem, kind = _QUOTED[char]
        match = pattern.match(self.text, self.pos)
        if match is None:
            raise LexError(problem)
        return self._take(kind, match.end())

    def _single(self, char: str) -> Token:
        self.paren_depth += (char == "(") - (char == ")")
        if self.paren_depth < 0:
            raise LexError("unexpected right paren")
        if not (char.isascii() and char.isprintable()):
            raise LexError(f"unrecognized character in action: U+{ord(char):04X}")
        return self._take(_SINGLE.get(char, Kind.CHAR), self.pos + 1)

    def _number(self) -> Token:
        match = _NUMBER.match(self.text, self.pos)
        assert match is not None
        end, kind = match.end(), Kind.NUMBER
        ok = not self._alphanumeric_at(end)
        if ok and self.text[end : end + 1] in ("+", "-"):
            second = _NUMBER.match(self.text, end)
            assert second is not None
            end, kind = second.end(), Kind.COMPLEX
            ok = self.text[end - 1] == "i" and not self._alphanumeric_at(end)
        if not ok:
            raise LexError(f"bad number syntax: {quoted(self.text[self.pos : min(end + 1, self.pos + 40)])}")
        return self._take(kind, end)

    def _identifier(self) -> Token:
        end = self._end_of_word(self.pos)
        word = self.text[self.pos : end]
        if word in ("true", "false"):
            return self._take(Kind.BOOL, end)
        return self._take(KEYWORDS.get(word, Kind.IDENTIFIER), end)

    def _name(self, kind: Kind) -> Token:
        """`.Field`, `$variable`, or the bare `.` or `$`."""
        end = self._end_of_word(self.pos + 1)
        if end == self.pos + 1 and kind is Kind.FIELD:
            kind = Kind.DOT
        return self._take(kind, end)

    def _end_of_word(self, start: int) -> int:
        """End of the run of name characters at `start`; an error when what follows cannot follow a name."""
        match = _WORD.match(self.text, start)
        assert match is not None
        end = match.end()
        if not match[0].isascii():
            end = start + next((i for i, char in enumerate(match[0]) if not is_alphanumeric(char)), len(match[0]))
        following = self.text[end : end + 1]
        if following and following not in " \t\r\n.,|:)(" and not self.text.startswith("}}", end):
            raise LexError(f"bad character U+{ord(following):04X} '{following}'")
        return end

    def _alphanumeric_at(self, pos: int) -> bool:
        char = self.text[pos : pos + 1]
        return bool(char) and is_alphanumeric(char)
