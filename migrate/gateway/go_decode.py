"""What Go's encoding/json makes of a request body: the value, or the error in Go's own words.

The rules are those of encoding/json as of Go 1.26, which builds Ollama 0.33: all of the value is checked for syntax,
then the first value of a wrong type is reported while decoding goes on, but an error of a type that decodes itself ends
it; a key is matched exactly, else without regard to case; of a repeated key the last value wins, objects are merged;
null leaves a value as it was; what is no UTF-8, and half of a surrogate pair, becomes U+FFFD.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from migrate.gateway.go_base64 import base64_error
from migrate.gateway.go_syntax import GoError, check_syntax, first_byte

_DEEPEST = 200
"""Levels of a value of any type that are kept; Go allows 10,000."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Pairs(list[tuple[str, Any]]):
    """An object as it was written, repeated keys included."""


class Number(str):
    """A number as it was written."""


class GoTypeError(GoError):
    """A value that does not fit its Go type. `struct` and `field` say where, "" at the root."""

    def __init__(self, value: str, go: str) -> None:
        self.value, self.go, self.struct, self.field = value, go, "", ""
        super().__init__(value)

    def __str__(self) -> str:
        place = f"Go struct field {self.struct}.{self.field}" if self.field else "Go value"
        return f"json: cannot unmarshal {self.value} into {place} of type {self.go}"


class State:
    """One json.Unmarshal: where it is, and the first value of a wrong type."""

    def __init__(self) -> None:
        self.struct = ""
        self.path: list[str] = []
        self.saved: GoError | None = None

    def save(self, error: GoError) -> None:
        if self.saved is None:
            self.saved = self.located(error)

    def located(self, error: GoError) -> GoError:
        if isinstance(error, GoTypeError) and self.path:
            error.struct = self.struct
            error.field = ".".join([*self.path, error.field] if error.field else self.path)
        return error


class Type(Protocol):
    """A Go type: its name in messages, its zero value, and how a JSON value is stored over `old`."""

    @property
    def go(self) -> str: ...

    def zero(self) -> Any: ...

    def store(self, state: State, value: Any, old: Any) -> Any: ...


def parse(body: bytes) -> Any:
    """The first JSON value of `body`: Pairs, list, str, Number, bool, None. Raises GoError; what follows is ignored."""
    if first_byte(body) != b"{":
        check_syntax(body)  # only an object has an end of its own, after which json.Decoder and Python's stop alike
    text = body.decode("utf-8", "go-json")
    try:
        return _DECODER.raw_decode(text, len(text) - len(text.lstrip(" \t\r\n")))[0]
    except RecursionError:
        check_syntax(body, deepest=_DEEPEST)
        raise GoError("invalid character '[' exceeded max depth") from None
    except ValueError:
        check_syntax(body)
        raise


def unmarshal(go_type: Type, value: Any) -> Any:
    """A parsed value as Go would hold it in a variable of that type. Raises GoError."""
    state = State()
    try:
        result = go_type.store(state, value, go_type.zero())
    except GoError as error:
        raise state.located(error) from None
    if state.saved:
        raise state.saved
    return result


def raw_member(body: bytes, of: Struct, name: str) -> str:
    """The text of a field's value in a body that was parsed before, as the sender wrote it."""
    text = body.decode("utf-8", "go-json")
    at, found = text.index("{") + 1, ""
    while text[at := _skip(text, at)] != "}":
        key, at = _DECODER.raw_decode(text, _skip(text, at + 1) if text[at] == "," else at)
        start = _skip(text, _skip(text, at) + 1)
        _, at = _DECODER.raw_decode(text, start)
        if (matched := of.field_named(key)) and matched.name == name:
            found = text[start:at]
    return found


# ---- types ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Basic:
    """string, bool, int or uint8."""

    go: str
    kind: type
    default: Any
    values: range | None = None

    def zero(self) -> Any:
        return self.default

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return old
        if self.values is not None and isinstance(value, Number):
            if _INTEGER.fullmatch(value) and len(value) <= 20 and int(value) in self.values:
                return int(value)
            state.save(GoTypeError(f"number {value}", self.go))
        elif type(value) is self.kind:
            return _text(str(value)) if self.kind is str else value
        else:
            state.save(GoTypeError(_kind(value), self.go))
        return old


@dataclass(frozen=True, slots=True)
class Anything:
    """interface{}: every number is a float64. Whole ones come as int, with the digits Go would print.

    Go writes such objects with sorted keys; `as_sent` keeps the order.
    """

    go: str = "interface {}"
    as_sent: bool = False

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        return self._plain(state, value, 0)

    def _plain(self, state: State, value: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise GoError(f"invalid character '{'{' if isinstance(value, Pairs) else '['}' exceeded max depth")
        if isinstance(value, Pairs):
            plain = {_text(key): self._plain(state, item, depth + 1) for key, item in value}
            return plain if self.as_sent else dict(sorted(plain.items()))
        if isinstance(value, list):
            return [self._plain(state, item, depth + 1) for item in value]
        if isinstance(value, Number):
            return _float64(state, value)
        return _text(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Dict:
    """map[string]interface{}."""

    go: str = "map[string]interface {}"

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, Pairs):
            return (old or {}) | {_text(key): ANYTHING.store(state, item, None) for key, item in value}
        state.save(GoTypeError(_kind(value), self.go))
        return old


@dataclass(frozen=True, slots=True)
class Raw:
    """json.RawMessage: the parsed value, unchanged."""

    go: str = "json.RawMessage"

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of another type; None is nil."""

    item: Type
    go: str

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return None
        if type(value) is list:
            known = old or []  # of a key sent twice: Go stores over the elements it has
            return [
                self.item.store(state, item, known[i] if i < len(known) else self.item.zero())
                for i, item in enumerate(value)
            ]
        state.save(GoTypeError(_kind(value), self.go))
        return old


@dataclass(frozen=True, slots=True)
class Bytes:
    """A named []byte, kept as base64 without line ends; None is nil."""

    go: str

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        if type(value) is str:
            data = value.encode("utf-8", "replace")
            if (wrong := base64_error(data)) is None:
                return value.replace("\r", "").replace("\n", "")
            state.save(GoError(f"illegal base64 data at input byte {wrong}"))
            return old
        numbers = Slice(UINT8, self.go).store(state, value, None)
        return None if numbers is None else base64.b64encode(bytes(numbers)).decode()


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer to another type; None is nil."""

    to: Type
    go: str = ""

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return None
        return self.to.store(state, value, self.to.zero() if old is None else old)


@dataclass(frozen=True, slots=True)
class Custom:
    """A type with its own UnmarshalJSON: an error of `read` ends the decoding. `read` is given null as well."""

    go: str
    read: Callable[[Any], Any]
    default: Any = None

    def zero(self) -> Any:
        return self.default

    def store(self, state: State, value: Any, old: Any) -> Any:
        return self.read(value)


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: Type


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct: a dict with every field, by JSON name."""

    go: str
    fields: Mapping[str, Type]
    folded: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", {_fold(name): name for name in reversed(list(self.fields))})

    def zero(self) -> Any:
        return {name: kind.zero() for name, kind in self.fields.items()}

    def field_named(self, key: str) -> Field | None:
        name = key if key in self.fields else self.folded.get(_fold(key))
        return None if name is None else Field(name, self.fields[name])

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return old
        if not isinstance(value, Pairs):
            state.save(GoTypeError(_kind(value), self.go))
            return old
        outer, depth = state.struct, len(state.path)
        for key, item in value:
            if (matched := self.field_named(key)) is None:
                continue
            state.struct = self.go.rpartition(".")[2]
            state.path.append(matched.name)
            old[matched.name] = matched.type.store(state, item, old[matched.name])
            state.struct = outer
            del state.path[depth:]
        return old


STRING = Basic("string", str, "")
BOOL = Basic("bool", bool, False)
INT = Basic("int", int, 0, range(-(1 << 63), 1 << 63))
UINT8 = Basic("uint8", int, 0, range(256))
ANYTHING = Anything()
AS_SENT = Anything(as_sent=True)
STRINGS = Slice(STRING, "[]string")


# ---- values ---------------------------------------------------------------------------------------------------------

_INTEGER = re.compile(r"-?[0-9]+")
_SPACE = re.compile(r"[ \t\r\n]*")


def _float64(state: State, text: str) -> int | float | None:
    value = float(text)
    if math.isinf(value):
        state.save(GoTypeError(f"number {text}", "float64"))
        return None
    if not value.is_integer() or abs(value) >= 1e21 or (value == 0 and text[0] == "-"):
        return value
    return int(Decimal(repr(value)))


def _kind(value: Any) -> str:
    match value:
        case Pairs():
            return "object"
        case list():
            return "array"
        case bool():
            return "bool"
        case Number():
            return "number"
    return "string"


def _text(value: str) -> str:
    return value if value.isascii() else _SURROGATE.sub("\ufffd", value)


def _fold(name: str) -> str:
    """A name without regard to case: the two letters beyond ASCII that fold into it are the long s and the Kelvin."""
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _replace_byte(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD for each byte of what is no UTF-8, as Go has it; Python's "replace" takes several bytes at once."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd", error.start + 1


def _not_json(word: str) -> Any:
    raise ValueError(word)


codecs.register_error("go-json", _replace_byte)
_DECODER = json.JSONDecoder(object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_not_json)
