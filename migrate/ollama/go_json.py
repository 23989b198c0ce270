"""encoding/json's Marshal for the values of a template.

Source: Go's encoding/json and the struct tags in Ollama 0.33, template/template.go and api/types.go.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable

from migrate.gotemplate.strconv import format_float
from migrate.gotemplate.values import Map, Slice, Struct, Value, sorted_keys

_JSON_TAGS: dict[str, tuple[tuple[str, str, bool], ...]] = {
    # Go type: (field, key, omitempty); a type that is not listed has no tags
    "template.templateTool": (("Type", "type", False), ("Items", "items", True), ("Function", "function", False)),
    "template.templateToolFunction": (
        ("Name", "name", False),
        ("Description", "description", False),
        ("Parameters", "parameters", False),
    ),
    "template.templateToolFunctionParameters": (
        ("Type", "type", False),
        ("Defs", "$defs", True),
        ("Items", "items", True),
        ("Required", "required", True),
        ("Properties", "properties", False),
    ),
    "api.ToolProperty": (
        ("AnyOf", "anyOf", True),
        ("Type", "type", True),
        ("Items", "items", True),
        ("Description", "description", True),
        ("Enum", "enum", True),
        ("Properties", "properties", True),
        ("Required", "required", True),
    ),
}
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_ESCAPED = re.compile('["\\\\\x00-\x1f<>&\u2028\u2029\ud800-\udfff]')
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: Value) -> str:
    """encoding/json's Marshal: compact, map keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped.

    The empty string where Marshal fails (NaN, a function): Ollama drops that error.
    """
    try:
        return _json(value)
    except ValueError:
        return ""


def _json(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return _json_number(value)
        case str():
            return '"' + _ESCAPED.sub(_json_escape, value) + '"'
        case Struct():
            return _json_struct(value)
        case Slice():
            return _json_slice(value)
        case list() | tuple():
            return "[" + ",".join(map(_json, value)) + "]"
        case dict() | Map():
            if isinstance(value, Map) and value.is_nil:
                return "null"
            items = value.items if isinstance(value, Map) else value
            return _json_object((key, items[key]) for key in sorted_keys(value))
    raise ValueError(f"json: unsupported type: {type(value).__name__}")


def _json_escape(match: re.Match[str]) -> str:
    char = match[0]
    if _SURROGATE.match(char):
        return "\\ufffd"
    return _ESCAPES.get(char) or f"\\u{ord(char):04x}"


def _json_number(value: float) -> str:
    if math.isnan(value) or math.isinf(value):
        raise ValueError("json: unsupported value")
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return format_float(value, "f", -1)
    mantissa, exponent = format_float(value, "e", -1).split("e")
    return (
        f"{mantissa}e{exponent[0]}{exponent[1:].removeprefix('0')}" if exponent[0] == "-" else f"{mantissa}e{exponent}"
    )


def _json_struct(value: Struct) -> str:
    if value.is_nil:
        return "null"
    if value.type_name == "api.ToolPropertiesMap":
        properties = value.fields["om"].fields
        return _json_object(properties.items())
    tags = _JSON_TAGS.get(value.type_name) or tuple((name, name, False) for name in value.fields)
    pairs = ((key, value.fields[name]) for name, key, omitempty in tags if not (omitempty and _is_empty(value, name)))
    return _json_object(pairs)


def _is_empty(struct: Struct, name: str) -> bool:
    """Go's omitempty: nil or of length 0; an `any` only when nil."""
    value = struct.fields[name]
    if isinstance(value, Struct):
        return value.is_nil
    return value is None or (isinstance(value, (str, Slice)) and len(value) == 0)


def _json_slice(value: Slice) -> str:
    if value.is_nil:
        return "null"
    if value.type_name == "api.ImageData":
        return '"' + base64.b64encode(bytes(value)).decode() + '"'
    if value.type_name == "api.PropertyType" and len(value) == 1:
        return _json(value[0])
    return "[" + ",".join(map(_json, value)) + "]"


def _json_object(pairs: Iterable[tuple[str, Value]]) -> str:
    return "{" + ",".join(f"{_json(key)}:{_json(value)}" for key, value in pairs) + "}"
