"""What the OpenAI and Anthropic routes need of Go's encoding/json beside go_decode: floats, and JSON as Go writes it.

Ollama's middleware decodes a body of another protocol, writes it anew as a body of /api/chat, /api/generate or
/api/embed, and lets that route read it; so do these routes, with decode.py as the reader.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from migrate.gateway import request_types
from migrate.gateway.go_base64 import base64_error
from migrate.gateway.go_decode import (
    GoTypeError,
    Number,
    Pairs,
    Slice,
    State,
    Struct,
    Type,
    parse,
    unmarshal,
)
from migrate.gateway.go_syntax import GoError, check_syntax, first_byte
from migrate.gateway.types import ApiError
from migrate.gotemplate.strconv import format_float, quote

Body = bytes | Mapping[str, Any] | None
"""A request's body as it came, which keeps Go's texts exact, or as JSON that was decoded before."""

NO_WEB_SEARCH = "web_search is run by Ollama's cloud, which this gateway does not have: leave the tool out"

_DEEPEST = 200
_EXACT = 1 << 53

# ---- reading --------------------------------------------------------------------------------------------------------


def bound(struct: Struct, body: Body) -> dict[str, Any]:
    """gin's ShouldBindJSON. Raises ApiError(400) with Go's text."""
    raw = body if isinstance(body, bytes) else _written(body)
    if not first_byte(raw):
        raise ApiError(400, "EOF")
    try:
        read: dict[str, Any] = unmarshal(struct, parse(raw))
    except GoError as error:
        raise ApiError(400, str(error)) from None
    return read


def checked(kind: Type, value: Any) -> None:
    """Raises ApiError(400) where Go could not read decoded JSON as this type."""
    try:
        unmarshal(kind, parse(encode(value).encode()))
    except GoError as error:
        raise ApiError(400, str(error)) from None


def _written(body: Any) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    except (RecursionError, TypeError, ValueError):
        raise ApiError(400, "exceeded max depth") from None


def kind(value: Any) -> str:
    """The JSON type of a parsed or decoded value, in Go's words."""
    match value:
        case Pairs() | Mapping():
            return "object"
        case list():
            return "array"
        case bool():
            return "bool"
        case Number() | int() | float():
            return "number"
        case None:
            return "null"
    return "string"


def type_name(value: Any) -> str:
    """What %T prints of a value decoded into an `any`."""
    names = {
        "number": "float64",
        "object": "map[string]interface {}",
        "array": "[]interface {}",
        "null": "<nil>",
    }
    return names.get(kind(value), kind(value))


@dataclass(frozen=True, slots=True)
class _Float:
    go: str
    limit: float

    def zero(self) -> float:
        return 0.0

    def store(self, state: State, value: Any, old: Any) -> Any:
        if value is None:
            return old
        if not isinstance(value, Number):
            state.save(GoTypeError(kind(value), self.go))
        elif abs(number := float(value)) < self.limit:
            return number
        else:
            state.save(GoTypeError(f"number {value}", self.go))
        return old


FLOAT64 = _Float("float64", math.inf)
FLOAT32 = _Float("float32", 3.4028235677973366e38)
"""float32: less than half a step above its largest number, which still rounds to it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A type that only says what is wrong: the value itself stays as it was parsed, for the next reader."""

    type: Type

    @property
    def go(self) -> str:
        return self.type.go

    def zero(self) -> Any:
        return None

    def store(self, state: State, value: Any, old: Any) -> Any:
        self.type.store(state, value, self.type.zero())
        return value


_TOOL = cast(Struct, cast(Slice, request_types.CHAT.fields["tools"]).item)
TOOLS = Checked(Slice(_TOOL, "[]api.Tool"))
"""Tools of the struct api.Tool, which the OpenAI route shares with Ollama's own."""
PARAMETERS = cast(Struct, _TOOL.fields["function"]).fields["parameters"]
"""api.ToolFunctionParameters, a tool's schema."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A struct without a name: in messages about its fields there is nothing in front of the point."""

    go: str
    fields: Struct

    def zero(self) -> Any:
        return self.fields.zero()

    def store(self, state: State, value: Any, old: Any) -> Any:
        before = state.saved
        result = self.fields.store(state, value, old)
        if state.saved is not before and isinstance(state.saved, GoTypeError) and not state.saved.go:
            state.saved.go = self.go
        return result


def arguments(text: str) -> dict[str, Any] | None:
    """A JSON object in a text, which the OpenAI routes have for a call's arguments: sorted below its own keys, as
    Ollama writes them. Raises ValueError with json.Unmarshal's text."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("exceeded max depth") from None
    except ValueError as error:
        raise ValueError(_syntax_error(text) or str(error)) from None
    if not isinstance(value, dict | None):
        raise ValueError("Value looks like object, but can't find closing '}' symbol")
    return None if value is None else {key: in_order(item) for key, item in value.items()}


def _syntax_error(text: str) -> str:
    """What json.Unmarshal finds wrong with a text, "" for nothing."""
    try:
        check_syntax(text.encode("utf-8", "replace"))
        json.loads(text)
    except GoError as error:
        short = str(error) in ("unexpected EOF", "missing request body")
        return "unexpected end of JSON input" if short else str(error)
    except json.JSONDecodeError as error:
        return f"invalid character {quote(text[error.pos], chr(39))} after top-level value"
    return ""


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text} is no float64")
    return value


def _whole(text: str) -> int | float:
    return int(text) if abs(value := _finite(text)) < _EXACT else value


def base64_text(text: str) -> str:
    """What Go's base64.StdEncoding reads, without line ends. Raises ValueError with Go's text."""
    if (wrong := base64_error(text.encode("utf-8", "replace"))) is not None:
        raise ValueError(f"illegal base64 data at input byte {wrong}")
    return text.replace("\r", "").replace("\n", "")


# ---- writing --------------------------------------------------------------------------------------------------------

_escape = json.encoder.encode_basestring
_SPECIAL = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def encode(value: Any, depth: int = 0) -> str:
    """json.Marshal of a struct: keys in the order given, `<`, `>`, `&`, U+2028 and U+2029 escaped.

    Numbers are written as Go writes a float64, parsed ones as they came. Raises ApiError: 400 where it nests too deep,
    500 for NaN and infinity.
    """
    if depth > _DEEPEST:
        raise ApiError(400, "exceeded max depth")
    match value:
        case Number():
            return str(value)
        case str():
            return _text(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if -_EXACT <= value <= _EXACT else _number(float(value))
        case float():
            return _number(value)
        case Mapping() | Pairs():
            pairs = value.items() if isinstance(value, Mapping) else value
            return "{" + ",".join([f"{_key(key)}:{encode(item, depth + 1)}" for key, item in pairs]) + "}"
        case list() | tuple():
            return "[" + ",".join([encode(item, depth + 1) for item in value]) + "]"
    raise TypeError(f"json: unsupported type: {type(value).__name__}")


def _text(value: str) -> str:
    text = _escape(value)
    return _SPECIAL.sub(_special, text) if _SPECIAL.search(text) else text


def _key(key: str) -> str:
    return _short_key(key) if len(key) < 64 else _text(key)


_short_key = functools.lru_cache(maxsize=1024)(_text)


def _special(match: re.Match[str]) -> str:
    char = match[0]
    return "\ufffd" if "\ud800" <= char <= "\udfff" else f"\\u{ord(char):04x}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ApiError(500, f"json: unsupported value: {format_float(value, 'g', -1)}")
    if "e" not in (text := repr(value)):  # neither language uses an exponent from 1e-4 to 1e16
        return text.removesuffix(".0")
    if 1e-6 <= abs(value) < 1e21:
        return format_float(value, "f", -1)
    return format_float(value, "e", -1).replace("e-0", "e-")


def in_order(value: Any, depth: int = 0) -> Any:
    """An `any` as Go writes it: the keys of every object sorted. Raises ApiError(400) where it nests too deep."""
    if depth > _DEEPEST:
        raise ApiError(400, "exceeded max depth")
    if isinstance(value, Mapping):
        return {key: in_order(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, Pairs):  # a json.RawMessage, which stays as it came
        return value
    return [in_order(item, depth + 1) for item in value] if isinstance(value, (list, tuple)) else value


def encode_arguments(given: Mapping[str, Any]) -> str:
    """The arguments of a tool call: in their own order, sorted below (api.ToolCallFunctionArguments)."""
    return encode({key: in_order(item) for key, item in given.items()})


def written(fields: Mapping[str, Any]) -> bytes:
    """A body for another of Ollama's routes, without what is None."""
    return encode({name: value for name, value in fields.items() if value is not None}).encode()


def body(value: Any) -> bytes:
    """An answer that is not a stream: json.Encoder ends it with a newline."""
    return f"{encode(value)}\n".encode()


def event(value: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {encode(value)}\n\n".encode()
