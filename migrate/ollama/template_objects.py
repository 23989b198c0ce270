"""What Ollama puts into a Go template: messages, tools, tool calls and four functions.

Source: Ollama 0.33, template/template.go (the template* types) and api/types.go (ToolProperty, PropertyType). The Go
structs decide what a template can reach, how `{{ . }}` prints it and what its JSON looks like; schema keys that the
structs do not have (default, format, minimum, ...) are gone, as they are in Ollama.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from migrate.errors import BadInput
from migrate.gotemplate.values import Map, Slice, Struct, Value
from migrate.ollama.go_json import to_json

Function = Callable[..., Value]
_T = TypeVar("_T")

# ---- decoding requests ----------------------------------------------------------------------------------------------


_SURROGATE = re.compile("[\ud800-\udfff]")
_DEEPEST = 100


def go_text(text: str) -> str:
    """A string as Go decodes it from JSON: half of a surrogate pair becomes U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _any(value: Any, depth: int = 0) -> Value:
    """JSON data as Go's `any`: every number is a float64."""
    if depth > _DEEPEST:
        raise BadInput(f"a tool or tool call nests more than {_DEEPEST} deep")
    match value:
        case None | bool():
            return value
        case int() | float():
            try:
                return float(value)
            except OverflowError:
                raise BadInput("a number in a tool or tool call is too large for a float64") from None
        case str():
            return go_text(value)
        case Mapping():
            return {go_text(str(key)): _any(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [_any(item, depth + 1) for item in value]
    raise BadInput(f"a tool or tool call holds a {type(value).__name__}, which is no JSON")


def _get(source: Mapping[str, Any], key: str, kind: type[_T], default: _T, what: str) -> _T:
    """A typed value of a JSON object; missing and null are the default."""
    value = source.get(key)
    if value is None:
        return default
    if kind is str and isinstance(value, str):
        return go_text(value)  # type: ignore[return-value]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInput(f"{what}: {key!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _strings(source: Mapping[str, Any], key: str, what: str) -> Slice:
    values = _list(source, key, what)
    if values is None:
        return Slice((), type_name="[]string", is_nil=True)
    if not all(value is None or isinstance(value, str) for value in values):
        raise BadInput(f"{what}: {key!r} holds something that is not a string")
    return Slice([go_text(value or "") for value in values], type_name="[]string")


def _list(source: Mapping[str, Any], key: str, what: str) -> Sequence[Any] | None:
    value = source.get(key)
    if value is None or isinstance(value, (list, tuple)):
        return value
    raise BadInput(f"{what}: {key!r} is a {type(value).__name__}, not a list")


# ---- tools ----------------------------------------------------------------------------------------------------------

_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def tools_value(tools: Sequence[Mapping[str, Any]], *, json_tools: bool = False) -> Slice:
    """`.Tools`, which prints as JSON.

    With `json_tools` so do `{{ .Function }}` and `{{ .Function.Parameters }}`, as before Ollama 0.14; since then they
    print the Go struct. Raises BadInput for what Ollama could not decode.
    """
    values = [_tool(tool, json_tools) for tool in tools]
    return Slice(
        values,
        type_name="template.templateTools",
        string=lambda: to_json(values) if values else "null",
        is_nil=not values,
    )


def _tool(tool: Mapping[str, Any], json_tools: bool) -> Struct:
    function = _get(tool, "function", dict, {}, "a tool")
    what = f"tool {str(function.get('name'))[:80]!r}"
    fields: dict[str, Value] = {
        "Type": _get(tool, "type", str, "", what),
        "Items": _any(tool.get("items")),
        "Function": _struct(
            "template.templateToolFunction",
            {
                "Name": _get(function, "name", str, "", what),
                "Description": _get(function, "description", str, "", what),
                "Parameters": _parameters(_get(function, "parameters", dict, {}, what), what, json_tools),
            },
            prints_json=json_tools,
        ),
    }
    return _struct("template.templateTool", fields, prints_json=True)


def _struct(type_name: str, fields: dict[str, Value], *, prints_json: bool) -> Struct:
    if not prints_json:
        return Struct(type_name, fields)
    bare = Struct(type_name, fields)
    return Struct(type_name, fields, string=lambda: to_json(bare))


def _parameters(source: Mapping[str, Any], what: str, json_tools: bool) -> Struct:
    given = source.get("properties")
    properties = _properties(_get(source, "properties", dict, {}, what), what)
    fields = {
        "Type": _get(source, "type", str, "", what),
        "Defs": _any(source.get("$defs")),
        "Items": _any(source.get("items")),
        "Required": _strings(source, "required", what),
        "Properties": Map(
            properties,
            type_name="template.templateProperties",
            zero=_property({}, what),
            string=lambda: "{}" if given is None else to_json(properties),
            is_nil=given is None,
        ),
    }
    return _struct("template.templateToolFunctionParameters", fields, prints_json=json_tools)


def _properties(source: Mapping[str, Any], what: str, depth: int = 0) -> dict[str, Struct]:
    if depth > _DEEPEST:
        raise BadInput(f"{what}: its schema nests more than {_DEEPEST} deep")
    properties = {}
    for name, value in source.items():
        if value is not None and not isinstance(value, Mapping):
            raise BadInput(f"{what}: property {name!r} is a {type(value).__name__}, not an object")
        properties[go_text(name)] = _property(value or {}, what, depth)
    return properties


def _property(source: Mapping[str, Any], what: str, depth: int = 0) -> Struct:
    any_of = _list(source, "anyOf", what)
    nested = None if source.get("properties") is None else _get(source, "properties", dict, {}, what)
    options = list(_properties({str(i): item for i, item in enumerate(any_of or ())}, what, depth + 1).values())
    enum = _list(source, "enum", what)
    fields: dict[str, Value] = {
        "AnyOf": Slice(options, type_name="[]api.ToolProperty", is_nil=any_of is None),
        "Type": _type(source, what),
        "Items": _any(source.get("items")),
        "Description": _get(source, "description", str, "", what),
        "Enum": Slice([_any(item) for item in enum or ()], is_nil=enum is None),
        "Properties": _properties_map(None if nested is None else _properties(nested, what, depth + 1)),
        "Required": _strings(source, "required", what),
    }
    return Struct("api.ToolProperty", fields, methods={"ToTypeScriptType": lambda: _typescript(fields)})


def _properties_map(properties: dict[str, Struct] | None) -> Struct:
    """The properties of a property: an ordered map, of which a template sees no more than its length."""
    ordered = Struct(
        "orderedmap.Map[string,github.com/ollama/ollama/api.ToolProperty]", properties or {}, is_pointer=True
    )
    return Struct(
        "api.ToolPropertiesMap",
        {"om": ordered},
        methods={"Len": lambda: len(properties or ()), "ToMap": lambda: Map(properties or {}, zero=_property({}, ""))},
        is_pointer=True,
        is_nil=properties is None,
    )


def _type(source: Mapping[str, Any], what: str) -> Slice:
    value = source.get("type")
    if value is None:
        # a null is decoded as the empty string, a missing key leaves the list nil
        value = [""] if "type" in source else None
    elif isinstance(value, str):
        value = [value]
    types = _strings({"type": value}, "type", what)

    def text() -> str:
        return types[0] if len(types) == 1 else "[" + " ".join(types) + "]" if len(types) else ""

    return Slice(types.backing, type_name="api.PropertyType", string=text, is_nil=types.is_nil)


def _typescript(fields: Mapping[str, Value]) -> str:
    if len(fields["AnyOf"]):
        return " | ".join(_typescript(option.fields) for option in fields["AnyOf"])
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in fields["Type"]) or "any"


# ---- messages -------------------------------------------------------------------------------------------------------


def messages_value(messages: Sequence[Mapping[str, Any]]) -> Slice:
    """`.Messages`. Raises BadInput for what Ollama could not decode."""
    values = [_message(message, position) for position, message in enumerate(messages, 1)]
    return Slice(values, type_name="[]*template.templateMessage", is_nil=not values)


def _message(message: Mapping[str, Any], position: int) -> Struct:
    what = f"message {position}"
    calls = _list(message, "tool_calls", what) or ()
    fields: dict[str, Value] = {
        "Role": _get(message, "role", str, "", what).lower(),
        "Content": _get(message, "content", str, "", what),
        "Thinking": _get(message, "thinking", str, "", what),
        "Images": _images(message, what),
        "ToolCalls": Slice(
            [_tool_call(call, what) for call in calls], type_name="[]template.templateToolCall", is_nil=not calls
        ),
        "ToolName": _get(message, "tool_name", str, "", what),
        "ToolCallID": _get(message, "tool_call_id", str, "", what),
    }
    return Struct("template.templateMessage", fields, is_pointer=True)


def _images(message: Mapping[str, Any], what: str) -> Slice:
    images = _list(message, "images", what)
    try:
        decoded = [Slice(_image(image), type_name="api.ImageData") for image in images or ()]
    except (binascii.Error, ValueError, TypeError):
        raise BadInput(f"{what}: an image is not base64") from None
    return Slice(decoded, type_name="[]api.ImageData", is_nil=images is None)


def _image(image: Any) -> bytes:
    return bytes(image) if isinstance(image, (bytes, bytearray)) else base64.b64decode(image, validate=True)


def _tool_call(call: Any, what: str) -> Struct:
    if not isinstance(call, Mapping):
        raise BadInput(f"{what}: a tool call is a {type(call).__name__}, not an object")
    function = _get(call, "function", dict, {}, what)
    given = "arguments" in function
    arguments = _any(_get(function, "arguments", dict, {}, what))
    name = "template.templateToolCall"
    fields = {
        "Index": _get(function, "index", int, 0, what),
        "Name": _get(function, "name", str, "", what),
        "Arguments": Map(
            arguments, type_name="template.templateArgs", string=lambda: to_json(arguments), is_nil=not given
        ),
    }
    return Struct(name, {"ID": _get(call, "id", str, "", what), "Function": Struct(name + "Function", fields)})


# ---- functions ------------------------------------------------------------------------------------------------------


def functions(today: datetime.date | None = None) -> dict[str, Function]:
    """The four functions that Ollama adds. `today` is the local date when None."""

    def date(args: tuple[Value, ...], days: int) -> str:
        if not all(isinstance(arg, str) for arg in args):
            raise ValueError("wrong type for value; expected string")
        return ((today or datetime.date.today()) - datetime.timedelta(days=days)).isoformat()

    return {
        "json": to_json,
        "currentDate": lambda *args: date(args, 0),
        "yesterdayDate": lambda *args: date(args, 1),
        "toTypeScriptType": to_typescript_type,
    }


def to_typescript_type(value: Value) -> str:
    """toTypeScriptType: `any` for what is no property of a tool."""
    is_property = isinstance(value, Struct) and value.type_name == "api.ToolProperty"
    return _typescript(value.fields) if is_property else "any"


FUNCTION_NAMES = frozenset(functions())
