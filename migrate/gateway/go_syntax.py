"""JSON syntax errors in the words of Go's scanner, at the byte where it finds them (encoding/json/scanner.go, Go 1.26).

Read only when Python's decoder has refused a body, to say why: Go and Python accept the same texts.
"""

from __future__ import annotations

import re

from migrate.gotemplate.strconv import quote

_SPACE = re.compile(rb"[ \t\r\n]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_DIGITS = re.compile(rb"[0-9]*")
_WORDS = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}
_DEEPEST = 10_000


class GoError(Exception):
    """An error of decoding, with Go's text."""


def first_byte(body: bytes) -> bytes:
    """The first byte that is no white space, b"" if there is none."""
    at = _past(_SPACE, body, 0)
    return body[at : at + 1]


def check_syntax(body: bytes, *, deepest: int = _DEEPEST) -> None:
    """Raises GoError unless `body` begins with one whole JSON value.

    A body without any is "missing request body", Ollama's text for io.EOF.
    """
    if not first_byte(body):
        raise GoError("missing request body")
    try:
        _scan(body, deepest)
    except IndexError:
        raise GoError("unexpected EOF") from None


def _scan(body: bytes, deepest: int) -> None:
    """Walks one value. `open_` holds what is open: "k" an object before a colon, "v" behind it, "a" an array.

    Reading past the end is an IndexError.
    """
    at = 0
    open_: list[str] = []
    expects, may_close = "value", False
    while True:
        at = _past(_SPACE, body, at)
        char = body[at]
        if expects == "end":
            at, expects = _after_value(body, at, open_)
            if expects == "done":
                return
            may_close = False
            continue
        if may_close and char == (ord("}") if open_[-1] == "k" else ord("]")):
            open_.pop()
            at += 1
        elif expects == "key":
            if char != ord('"'):
                raise _error(char, "looking for beginning of object key string")
            at = _string(body, at + 1)
        elif char in b"{[":
            open_.append("k" if char == ord("{") else "a")
            if len(open_) > deepest:
                raise _error(char, "exceeded max depth")
            expects, may_close, at = "key" if char == ord("{") else "value", True, at + 1
            continue
        else:
            at = _literal(body, at)
        if not open_:
            return
        expects = "end"


def _after_value(body: bytes, at: int, open_: list[str]) -> tuple[int, str]:
    """Behind a key or a value -> where to go on, and with what."""
    char = body[at]
    match open_[-1]:
        case "k":
            if char != ord(":"):
                raise _error(char, "after object key")
            open_[-1] = "v"
            return at + 1, "value"
        case "v":
            if char == ord(","):
                open_[-1] = "k"
                return at + 1, "key"
            if char != ord("}"):
                raise _error(char, "after object key:value pair")
        case _:
            if char == ord(","):
                return at + 1, "value"
            if char != ord("]"):
                raise _error(char, "after array element")
    open_.pop()
    return at + 1, "end" if open_ else "done"


def _literal(body: bytes, at: int) -> int:
    char = body[at]
    if char == ord('"'):
        return _string(body, at + 1)
    if word := _WORDS.get(char):
        for offset in range(1, len(word)):
            if body[at + offset] != word[offset]:
                where = f"in literal {word.decode()} (expecting '{chr(word[offset])}')"
                raise _error(body[at + offset], where)
        return at + len(word)
    if char == ord("-") or char in b"0123456789":
        return _number(body, at)
    raise _error(char, "looking for beginning of value")


def _number(body: bytes, at: int) -> int:
    if body[at] == ord("-"):
        at = _one_of(b"0123456789", body, at + 1, "in numeric literal") - 1
    at = at + 1 if body[at] == ord("0") else _past(_DIGITS, body, at)
    if body[at : at + 1] == b".":
        at = _past(_DIGITS, body, _one_of(b"0123456789", body, at + 1, "after decimal point in numeric literal"))
    if body[at : at + 1] in (b"e", b"E"):
        at += 1
        if body[at] in b"+-":
            at += 1
        at = _past(_DIGITS, body, _one_of(b"0123456789", body, at, "in exponent of numeric literal"))
    return at


def _string(body: bytes, at: int) -> int:
    """Behind the opening quote -> behind the closing one."""
    while True:
        at = _past(_PLAIN, body, at)
        if body[at] == ord('"'):
            return at + 1
        if body[at] != ord("\\"):
            raise _error(body[at], "in string literal")
        if body[at + 1] != ord("u"):
            at = _one_of(b'bfnrt\\/"', body, at + 1, "in string escape code")
            continue
        for offset in range(2, 6):
            _one_of(b"0123456789abcdefABCDEF", body, at + offset, "in \\u hexadecimal character escape")
        at += 6


def _one_of(allowed: bytes, body: bytes, at: int, where: str) -> int:
    if body[at] not in allowed:
        raise _error(body[at], where)
    return at + 1


def _past(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    return match.end() if match else at


def _error(char: int, where: str) -> GoError:
    shown = {ord("'"): "'\\''", ord('"'): "'\"'"}.get(char) or f"'{quote(chr(char))[1:-1]}'"
    return GoError(f"invalid character {shown} {where}")
