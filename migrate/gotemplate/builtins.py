"""The functions every Go template knows, but `and` and `or`: these do not evaluate all arguments (see `interpreter`).

Each takes evaluated arguments, INVALID already turned to None, and raises ValueError with Go's words. Source: Go's
text/template/funcs.go.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migrate.gotemplate import formatting
from migrate.gotemplate.values import (
    INVALID,
    Kind,
    Slice,
    Struct,
    Uint8,
    Value,
    byte_length,
    entries,
    from_bytes,
    is_nil,
    is_true,
    kind_of,
    to_bytes,
    type_name,
    zero_of,
)


@dataclass(frozen=True, slots=True)
class Builtin:
    """`call(arguments, limit)`; `limit` bounds the characters of a text it makes."""

    call: Callable[[Sequence[Value], int], Value]
    least: int
    most: int | None


# ---- collections -----------------------------------------------------------------------------------------------------


def _len(args: Sequence[Value], limit: int) -> int:
    (item,) = args
    kind = kind_of(item)
    if kind is Kind.STRING:
        return byte_length(item)
    if kind is Kind.MAP:
        return len(entries(item))
    if kind is Kind.SLICE:
        return len(item)
    raise ValueError("len of nil pointer" if item is None else f"len of type {type_name(item)}")


def _index(args: Sequence[Value], limit: int) -> Value:
    item, *indexes = args
    if item is None:
        raise ValueError("index of untyped nil")
    for index in indexes:
        item = _element(item, index)
    return item


def _element(item: Value, index: Value) -> Value:
    kind = kind_of(item)
    if item is None:
        raise ValueError("index of nil pointer")
    if kind is Kind.MAP:
        if not isinstance(index, str):
            got = "is nil" if index is None else f"has type {type_name(index)}"
            raise ValueError(f"value {got}; should be string")
        items = entries(item)
        return items[index] if index in items else zero_of(item)
    if kind is Kind.STRING:
        data = to_bytes(item)
        return Uint8(data[_position(index, len(data) - 1)])
    if kind is Kind.SLICE:
        return item[_position(index, len(item) - 1)]
    raise ValueError(f"can't index item of type {type_name(item)}")


def _position(index: Value, largest: int) -> int:
    if kind_of(index) not in (Kind.INT, Kind.UINT):
        got = "nil" if index is None else f"type {type_name(index)}"
        raise ValueError(f"cannot index slice/array with {got}")
    if not 0 <= index <= largest:
        raise ValueError(f"index out of range: {index}")
    return int(index)


def _slice(args: Sequence[Value], limit: int) -> Value:
    item, *indexes = args
    if item is None:
        raise ValueError("slice of untyped nil")
    if len(indexes) > 3:
        raise ValueError(f"too many slice indexes: {len(indexes)}")
    kind = kind_of(item)
    if kind is Kind.STRING:
        if len(indexes) == 3:
            raise ValueError("cannot 3-index slice a string")
        data = to_bytes(item)
        start, stop, _ = _bounds(indexes, len(data), len(data))
        return from_bytes(data[start:stop])
    if kind is not Kind.SLICE:
        raise ValueError(f"can't slice item of type {type_name(item)}")
    if not isinstance(item, Slice):
        item = Slice(item)
    start, stop, top = _bounds(indexes, len(item), item.capacity)
    backing = item.backing if len(indexes) < 3 else item.backing[: item.start + top]
    return Slice(backing, item.start + start, item.start + stop, item.type_name, item.string, item.methods, item.is_nil)


def _bounds(indexes: Sequence[Value], length: int, capacity: int) -> tuple[int, int, int]:
    positions = [_position(index, capacity) for index in indexes]
    start, stop, top = (positions + [0, length, capacity][len(positions) :])[:3]
    if start > stop:
        raise ValueError(f"invalid slice index: {start} > {stop}")
    if stop > top:
        raise ValueError(f"invalid slice index: {stop} > {top}")
    return start, stop, top


# ---- comparison ------------------------------------------------------------------------------------------------------

_BASIC = frozenset({Kind.BOOL, Kind.INT, Kind.UINT, Kind.FLOAT, Kind.COMPLEX, Kind.STRING})
_ORDERED = frozenset({Kind.INT, Kind.UINT, Kind.FLOAT, Kind.STRING})
_INTEGERS = frozenset({Kind.INT, Kind.UINT})


def _eq(args: Sequence[Value], limit: int) -> bool:
    first, *others = args
    if not others:
        raise ValueError("missing argument for comparison")
    return any(_equal(first, other) for other in others)


def _equal(first: Value, second: Value) -> bool:
    kind, other = kind_of(first), kind_of(second)
    if kind in _BASIC or other in _BASIC:
        if kind is other or {kind, other} == _INTEGERS:
            return bool(first == second)
        if first is None or second is None:
            return False
        raise ValueError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")
    if first is None or second is None:
        return is_nil(first) and is_nil(second)
    if kind is not other:
        raise ValueError(f"non-comparable types {type_name(first)} and {type_name(second)}")
    if is_nil(first) or is_nil(second):
        return is_nil(first) and is_nil(second)
    if isinstance(second, Struct) and (second.comparable or second.is_pointer):
        return _identical(first, second)
    raise ValueError(f"non-comparable type {type_name(second)}")


def _identical(first: Value, second: Value) -> bool:
    """Go's == on two values of type any."""
    if first is None or second is None:
        return first is second
    if type_name(first) != type_name(second):
        return False
    if not isinstance(first, Struct):
        if kind_of(first) not in _BASIC:
            raise ValueError(f"comparing uncomparable type {type_name(first)}")
        return bool(first == second)
    if first.is_pointer:
        return first is second
    if not first.comparable:
        raise ValueError(f"comparing uncomparable type {type_name(first)}")
    return all(_identical(part, second.fields[name]) for name, part in first.fields.items())


def _ne(args: Sequence[Value], limit: int) -> bool:
    return not _eq(args, limit)


def _less(first: Value, second: Value) -> bool:
    kind, other = kind_of(first), kind_of(second)
    if kind not in _BASIC or other not in _BASIC:
        raise ValueError("invalid type for comparison")
    if kind is not other and {kind, other} != _INTEGERS:
        raise ValueError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")
    if kind not in _ORDERED:
        raise ValueError("invalid type for comparison")
    if kind is Kind.STRING:
        return to_bytes(first) < to_bytes(second)
    return bool(first < second)


def _lt(args: Sequence[Value], limit: int) -> bool:
    return _less(*args)


def _le(args: Sequence[Value], limit: int) -> bool:
    return _less(*args) or _equal(*args)


def _gt(args: Sequence[Value], limit: int) -> bool:
    return not _le(args, limit)  # not `b < a`: with NaN, Go says true


def _ge(args: Sequence[Value], limit: int) -> bool:
    return not _lt(args, limit)


def _not(args: Sequence[Value], limit: int) -> bool:
    return not is_true(args[0])


# ---- text ------------------------------------------------------------------------------------------------------------

_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JS = str.maketrans(
    {chr(code): f"\\u00{code:02X}" for code in range(32)}
    | {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D"}
)


def _printf(args: Sequence[Value], limit: int) -> str:
    template, *values = args
    if not isinstance(template, str):
        raise ValueError(f"wrong type for value; expected string; got {type_name(template)}")
    return formatting.sprintf(template, values, limit)


def _text(args: Sequence[Value], limit: int) -> str:
    """The arguments of an escaper as one text: nil is `<no value>` here, and pointers print what they point to."""
    return formatting.sprint([printable(arg) for arg in args], limit)


def printable(value: Value) -> Value:
    """What is handed to fmt for a value that a template prints by itself."""
    if value is None or value is INVALID:
        return "<no value>"
    if isinstance(value, Struct) and value.is_pointer and not value.is_nil:
        return Struct(value.type_name, value.fields, value.string, value.methods)
    return value


def _js(args: Sequence[Value], limit: int) -> str:
    text = _text(args, limit).translate(_JS)
    if text.isascii():
        return text
    return "".join(char if _js_keeps(char) else f"\\u{ord(char):04X}" for char in text)


def _js_keeps(char: str) -> bool:
    return char.isascii() or char.isprintable() or 0xDC80 <= ord(char) <= 0xDCFF


def _html(args: Sequence[Value], limit: int) -> str:
    return _text(args, limit).translate(_HTML)


def _urlquery(args: Sequence[Value], limit: int) -> str:
    return urllib.parse.quote_plus(to_bytes(_text(args, limit)))


def _call(args: Sequence[Value], limit: int) -> Value:
    function, *rest = args
    if function is None:
        raise ValueError("call of nil")
    if kind_of(function) is not Kind.FUNC:
        raise ValueError(f"non-function of type {type_name(function)}")
    return function(*rest)


BUILTINS: dict[str, Builtin] = {
    "call": Builtin(_call, 1, None),
    "eq": Builtin(_eq, 1, None),
    "ge": Builtin(_ge, 2, 2),
    "gt": Builtin(_gt, 2, 2),
    "html": Builtin(_html, 0, None),
    "index": Builtin(_index, 1, None),
    "js": Builtin(_js, 0, None),
    "le": Builtin(_le, 2, 2),
    "len": Builtin(_len, 1, 1),
    "lt": Builtin(_lt, 2, 2),
    "ne": Builtin(_ne, 2, 2),
    "not": Builtin(_not, 1, 1),
    "print": Builtin(formatting.sprint, 0, None),
    "printf": Builtin(_printf, 1, None),
    "println": Builtin(formatting.sprintln, 0, None),
    "slice": Builtin(_slice, 1, None),
    "urlquery": Builtin(_urlquery, 0, None),
}
