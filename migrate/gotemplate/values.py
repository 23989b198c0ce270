"""Go's values, as a template sees them.

| Go | here |
|---|---|
| nil, a nil interface | None |
| bool, int, float64, complex128, string | bool, int, float, complex, str |
| uint8 (a byte of a string) | Uint8 |
| map[string]any and other maps with string keys | dict, or Map |
| []any and other slices | list, tuple, or Slice |
| struct, pointer to struct | Struct |
| func | a callable |

A string is bytes in Go: len, index and slice count bytes, and a byte that is no part of valid UTF-8 is a lone surrogate
here ("surrogateescape"). `INVALID` is reflect's zero Value: what a pipeline yields for nil. It prints as `<no value>`
and its fields are INVALID again, while a field of a nil that never went through a pipeline is an error.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final


class _Invalid:
    __slots__ = ()

    def __repr__(self) -> str:
        return "INVALID"


INVALID: Final = _Invalid()

Value = Any
Method = Callable[..., Any]


class Uint8(int):
    """An unsigned byte: prints like an int, but is of another type."""


class Kind(enum.Enum):
    INVALID = enum.auto()
    BOOL = enum.auto()
    INT = enum.auto()
    UINT = enum.auto()
    FLOAT = enum.auto()
    COMPLEX = enum.auto()
    STRING = enum.auto()
    MAP = enum.auto()
    SLICE = enum.auto()
    STRUCT = enum.auto()
    FUNC = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """A Go struct. `string` is its String() method, which prints it wherever fmt does; `methods` are callable by name.

    With `is_pointer` it is a pointer to the struct: the same in templates, except that fmt prints the address of one
    that lies inside another value. With `is_nil` it is a nil pointer.
    `comparable` says that eq may compare two of them: no field has the type of a slice, map or function.
    """

    type_name: str
    fields: Mapping[str, Value]
    string: Callable[[], str] | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    is_pointer: bool = False
    is_nil: bool = False
    comparable: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A Go map with string keys. `zero` is what a key that is not there yields."""

    items: Mapping[str, Value]
    type_name: str = "map[string]interface {}"
    zero: Value = None
    string: Callable[[], str] | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    is_nil: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """The window [start, stop) of an array. As in Go it can be re-sliced up to the end of the array."""

    backing: Sequence[Value]
    start: int = 0
    stop: int | None = None
    type_name: str = "[]interface {}"
    string: Callable[[], str] | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    is_nil: bool = False

    def __len__(self) -> int:
        return (len(self.backing) if self.stop is None else self.stop) - self.start

    def __iter__(self) -> Iterator[Value]:
        return (self.backing[i] for i in range(self.start, self.start + len(self)))

    def __getitem__(self, index: int) -> Value:
        return self.backing[self.start + index]

    @property
    def capacity(self) -> int:
        return len(self.backing) - self.start


_KINDS: dict[type, Kind] = {
    type(None): Kind.INVALID,
    _Invalid: Kind.INVALID,
    bool: Kind.BOOL,
    int: Kind.INT,
    Uint8: Kind.UINT,
    float: Kind.FLOAT,
    complex: Kind.COMPLEX,
    str: Kind.STRING,
    dict: Kind.MAP,
    Map: Kind.MAP,
    list: Kind.SLICE,
    tuple: Kind.SLICE,
    Slice: Kind.SLICE,
    Struct: Kind.STRUCT,
}

_TYPE_NAMES = {
    Kind.INVALID: "interface {}",
    Kind.BOOL: "bool",
    Kind.INT: "int",
    Kind.UINT: "uint8",
    Kind.FLOAT: "float64",
    Kind.COMPLEX: "complex128",
    Kind.STRING: "string",
    Kind.MAP: "map[string]interface {}",
    Kind.SLICE: "[]interface {}",
    Kind.FUNC: "func",
}


def kind_of(value: Value) -> Kind:
    """TypeError for what has no place in the model."""
    kind = _KINDS.get(type(value))
    if kind is None:
        if not callable(value):
            raise TypeError(f"not a Go value: {type(value).__name__}")
        kind = Kind.FUNC
    return kind


def type_name(value: Value) -> str:
    """The Go name of a value's type, as %T prints it."""
    if isinstance(value, Struct):
        return "*" + value.type_name if value.is_pointer else value.type_name
    if isinstance(value, (Map, Slice)):
        return value.type_name
    return _TYPE_NAMES[kind_of(value)]


def is_true(value: Value) -> bool:
    """Go's truth: not the zero value; a struct and a non-empty collection are true."""
    kind = kind_of(value)
    if kind is Kind.MAP:
        return len(entries(value)) > 0
    if kind is Kind.SLICE:
        return len(value) > 0
    if kind is Kind.STRUCT:
        return not value.is_nil
    return kind is Kind.FUNC or (kind is not Kind.INVALID and bool(value))


def is_nil(value: Value) -> bool:
    return value is None or value is INVALID or (isinstance(value, (Map, Slice, Struct)) and value.is_nil)


def entries(value: dict[str, Value] | Map) -> Mapping[str, Value]:
    return value.items if isinstance(value, Map) else value


def zero_of(value: dict[str, Value] | Map) -> Value:
    return value.zero if isinstance(value, Map) else None


def sorted_keys(value: dict[str, Value] | Map) -> list[str]:
    """The keys in the order of their UTF-8 bytes, in which Go ranges and prints."""
    return sorted(entries(value), key=to_bytes)


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def from_bytes(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def normalized(text: str) -> str:
    """Joins bytes that were split, by slicing, and came together again to a character."""
    return text if text.isascii() else from_bytes(to_bytes(text))


def byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(to_bytes(text))
