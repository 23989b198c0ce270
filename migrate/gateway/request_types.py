"""The structs of api/types.go that requests are decoded into, and those of its types that decode themselves (0.33)."""

from __future__ import annotations

from typing import Any, cast

from migrate.gateway.go_decode import (
    ANYTHING,
    BOOL,
    INT,
    STRING,
    STRINGS,
    Bytes,
    Custom,
    Dict,
    Pairs,
    Pointer,
    Raw,
    Slice,
    Struct,
    unmarshal,
)
from migrate.gateway.go_duration import parse_duration
from migrate.gateway.go_syntax import GoError
from migrate.gotemplate.strconv import quote

_LONGEST = (1 << 63) - 1
_LEVELS = ("high", "medium", "low", "max")


def _read_message(value: Any) -> Any:
    message = unmarshal(_MESSAGE, value)
    message["role"] = message["role"].lower()
    return message


def _read_duration(value: Any) -> float:
    """Seconds; -1.0 for any that is negative. A number of more than 292 years, which overflows in Ollama, stays."""
    plain = unmarshal(ANYTHING, value)
    match plain:
        case str():
            nanoseconds = parse_duration(plain)
            return -1.0 if nanoseconds < 0 or nanoseconds == _LONGEST else nanoseconds / 1e9
        case bool():
            kind = "bool"
        case dict():
            kind = "map[string]interface {}"
        case list():
            kind = "[]interface {}"
        case _:
            return -1.0 if plain < 0 else float(plain)
    raise GoError(f"Unsupported type: '{kind}'")


def _read_think(value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    if type(value) is not str:
        wanted = ", ".join(quote(level) for level in _LEVELS)
        raise GoError(f"think must be a boolean or string ({wanted}, true, or false)")
    level = cast(str, unmarshal(STRING, value))
    if level not in _LEVELS:
        wanted = ", ".join(quote(known) for known in _LEVELS)
        raise GoError(f"invalid think value: {quote(level)} (must be {wanted}, true, or false)")
    return level


def _read_property_type(value: Any) -> list[str]:
    if value is None or type(value) is str:
        return [unmarshal(STRING, value)]
    return cast("list[str]", unmarshal(STRINGS, value))


def _read_properties(value: Any) -> dict[str, Any]:
    return {key: unmarshal(_PROPERTY, item) for key, item in _ordered(value)}


def _read_arguments(value: Any) -> dict[str, Any]:
    return {key: unmarshal(ANYTHING, item) for key, item in _ordered(value)}


def _ordered(value: Any) -> Pairs:
    """An object of Ollama's ordered map, which reads with a parser of its own and has its texts."""
    if value is None:
        return Pairs()
    if not isinstance(value, Pairs):
        raise GoError("Value looks like object, but can't find closing '}' symbol")
    return value


_PROPERTY_FIELDS: dict[str, Any] = {
    "type": Custom("api.PropertyType", _read_property_type),
    "items": ANYTHING,
    "description": STRING,
    "enum": Slice(ANYTHING, "[]interface {}"),
    "properties": Pointer(Custom("api.ToolPropertiesMap", _read_properties)),
    "required": STRINGS,
}
_PROPERTY = Struct("api.ToolProperty", {"anyOf": Raw(), **_PROPERTY_FIELDS})
_PROPERTY.fields["anyOf"] = Slice(_PROPERTY, "[]api.ToolProperty")  # type: ignore[index]
_PARAMETERS = Struct(
    "api.ToolFunctionParameters",
    {
        "type": STRING,
        "$defs": ANYTHING,
        "items": ANYTHING,
        "required": STRINGS,
        "properties": Pointer(Custom("api.ToolPropertiesMap", _read_properties)),
    },
)
_FUNCTION = Struct("api.ToolFunction", {"name": STRING, "description": STRING, "parameters": _PARAMETERS})
_TOOL = Struct("api.Tool", {"type": STRING, "items": ANYTHING, "function": _FUNCTION})
_CALL = Struct(
    "api.ToolCall",
    {
        "id": STRING,
        "function": Struct(
            "api.ToolCallFunction",
            {
                "index": INT,
                "name": STRING,
                "arguments": Custom("api.ToolCallFunctionArguments", _read_arguments),
            },
        ),
    },
)
_IMAGES = Slice(Bytes("api.ImageData"), "[]api.ImageData")
_MESSAGE = Struct(
    "api.Alias",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": _IMAGES,
        "tool_calls": Slice(_CALL, "[]api.ToolCall"),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
)
_MESSAGES = Slice(Custom("api.Message", _read_message), "[]api.Message")
_SWITCH = Pointer(BOOL)
_KEEP_ALIVE = Pointer(Custom("api.Duration", _read_duration))
_ANSWERING: dict[str, Any] = {
    "stream": _SWITCH,
    "format": Raw(),
    "keep_alive": _KEEP_ALIVE,
    "options": Dict(),
    "think": Pointer(Custom("api.ThinkValue", _read_think)),
    "truncate": _SWITCH,
    "shift": _SWITCH,
    "_debug_render_only": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
}
CHAT = Struct(
    "api.ChatRequest", {"model": STRING, "messages": _MESSAGES, "tools": Slice(_TOOL, "api.Tools"), **_ANSWERING}
)
GENERATE = Struct(
    "api.GenerateRequest",
    {
        **dict.fromkeys(("model", "prompt", "suffix", "system", "template"), STRING),
        "context": Slice(INT, "[]int"),
        "raw": BOOL,
        "images": _IMAGES,
        **_ANSWERING,
    },
)
_LOADING: dict[str, Any] = {"model": STRING, "keep_alive": _KEEP_ALIVE, "options": Dict()}
EMBED = Struct("api.EmbedRequest", {**_LOADING, "input": ANYTHING, "truncate": _SWITCH, "dimensions": INT})
EMBEDDINGS = Struct("api.EmbeddingRequest", {**_LOADING, "prompt": STRING})
_NAMED: dict[str, Any] = {"model": STRING, "name": STRING}
SHOW = Struct("api.ShowRequest", {**_NAMED, "system": STRING, "template": STRING, "verbose": BOOL, "options": Dict()})
_SENT: dict[str, Any] = {**_NAMED, "insecure": BOOL, "username": STRING, "password": STRING, "stream": _SWITCH}
_CREATE = Struct(
    "api.CreateRequest",
    {
        **_NAMED,
        **dict.fromkeys(
            ("quantize", "draft_quantize", "from", "remote_host", "template", "system", "renderer", "parser",
             "requires", "quantization"),
            STRING,
        ),
        "stream": _SWITCH,
        "license": ANYTHING,
        "parameters": Dict(),
        "messages": _MESSAGES,
        "info": Dict(),
    },
)  # fmt: skip
ROUTES = {
    "show": SHOW,
    "delete": Struct("api.DeleteRequest", _NAMED),
    "pull": Struct("api.PullRequest", _SENT),
    "push": Struct("api.PushRequest", _SENT),
    "create": _CREATE,
    "copy": Struct("api.CopyRequest", {"source": STRING, "destination": STRING}),
}
