"""Request bodies as Ollama's routes read them: gin's ShouldBindJSON of the structs in api/types.go (0.33).

Errors are ApiError with status 400 and Go's text, unless said otherwise. What Ollama finds wrong later has a function
of its own here: `check_format` and `check_options`. A body must be bounded in size before it comes here; values of any
type (options, schemas, arguments) may nest 200 deep, where Go allows 10,000.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from migrate.gateway.go_decode import AS_SENT, Pairs, Struct, parse, raw_member, unmarshal
from migrate.gateway.go_syntax import GoError
from migrate.gateway.request_types import CHAT, EMBED, EMBEDDINGS, GENERATE, ROUTES, SHOW
from migrate.gateway.types import ApiError, ChatRequest, EmbedRequest, Format, GenerateRequest
from migrate.gotemplate.strconv import quote
from migrate.ollama.options import OPTIONS

_LONGEST = (1 << 63) - 1


class RawFormat(str):
    """The JSON text of a `format` that is neither "json" nor an object: `check_format` refuses it."""


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """POST /api/show."""

    model: str
    verbose: bool = False


def chat(body: bytes) -> ChatRequest:
    """The body of POST /api/chat. `format` may be a RawFormat and `options` are unchecked."""
    read = _bind(CHAT, body)
    return ChatRequest(
        messages=[_message(message) for message in read["messages"] or ()],
        tools=[_tool(tool) for tool in read["tools"] or ()],
        **_answering(read, CHAT, body),
    )


def generate(body: bytes) -> GenerateRequest:
    """The body of POST /api/generate. `format` may be a RawFormat and `options` are unchecked."""
    read = _bind(GENERATE, body)
    texts = {name: read[name] for name in ("prompt", "suffix", "system", "template", "raw", "context")}
    images = [image or "" for image in read["images"] or ()]
    return GenerateRequest(images=images, **texts, **_answering(read, GENERATE, body))


def embed(body: bytes) -> EmbedRequest:
    """The body of POST /api/embed. An empty text alone is no input."""
    read = _bind(EMBED, body)
    given = read["input"]
    if isinstance(given, str):
        given = [given] if given else []
    if not isinstance(given, list | None) or not all(isinstance(text, str) for text in given or ()):
        raise ApiError(400, "invalid input type")
    return EmbedRequest(
        input=given or [],
        truncate=read["truncate"] is not False,
        dimensions=read["dimensions"],
        **_loading(read),
    )


def embeddings(body: bytes) -> EmbedRequest:
    """The body of POST /api/embeddings, the older route: one text, without which Ollama answers no numbers."""
    read = _bind(EMBEDDINGS, body)
    return EmbedRequest(input=[read["prompt"]] if read["prompt"] else [], **_loading(read))


def show(body: bytes) -> ShowRequest:
    """The body of POST /api/show."""
    read = _bind(SHOW, body)
    if not (read["model"] or read["name"]):
        raise ApiError(400, "model is required")
    return ShowRequest(read["model"] or read["name"], read["verbose"])


def model_of(body: bytes, route: str = "show") -> str:
    """The model a request of another route is about; `route` is show, delete, pull, push, create or copy (its source).

    Empty where none was named, which show and push refuse here and the other routes by their own texts.
    """
    read = _bind(ROUTES[route], body)
    model: str = read["source"] if route == "copy" else read["model"] or read["name"]
    if not model and route in ("show", "push"):
        raise ApiError(400, "model is required")
    return model


def check_format(value: Any) -> Format:
    """The `format` of a decoded request. Raises ApiError 500, which Ollama does when it asks the model."""
    if isinstance(value, RawFormat):
        raise ApiError(500, f'invalid format: {quote(value)}; expected "json" or a valid JSON Schema object')
    return cast(Format, value)


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Options by Ollama's types (api.Options.FromMap) -> those it knows that are set, names of those it ignores.

    A fraction is cut off where an integer is wanted; null is as if not sent. Raises ApiError 500, as scheduling the
    model does.
    """
    known = {
        name: _option(name, OPTIONS[name].kind, value)
        for name, value in options.items()
        if name in OPTIONS and value is not None
    }
    return known, [name for name in options if name not in OPTIONS]


def _option(name: str, kind: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    shown = quote(name)
    match kind:
        case "int":
            if not number:
                raise ApiError(500, f"option {shown} must be of type integer")
            whole = int(value)
            return whole if -_LONGEST <= whole <= _LONGEST else -_LONGEST - 1  # as amd64 converts a float64
        case "float":
            if not number:
                raise ApiError(500, f"option {shown} must be of type float32")
            return float(value)
        case "bool":
            if not isinstance(value, bool):
                raise ApiError(500, f"option {shown} must be of type boolean")
            return value
    if not isinstance(value, list | tuple):
        raise ApiError(500, f"option {shown} must be of type array")
    if not all(isinstance(item, str) for item in value):
        raise ApiError(500, f"option {shown} must be of an array of strings")
    return list(value)


# ---- from Go's structs to ours --------------------------------------------------------------------------------------


def _bind(struct: Struct, body: bytes) -> dict[str, Any]:
    try:
        read: dict[str, Any] = unmarshal(struct, parse(body))
    except GoError as error:
        raise ApiError(400, str(error)) from None
    return read


def _loading(read: Mapping[str, Any]) -> dict[str, Any]:
    return {"model": read["model"], "options": read["options"] or {}, "keep_alive": read["keep_alive"]}


def _answering(read: Mapping[str, Any], struct: Struct, body: bytes) -> dict[str, Any]:
    if not 0 <= read["top_logprobs"] <= 20:
        raise ApiError(400, "top_logprobs must be between 0 and 20")
    return {
        **_loading(read),
        "format": _format(read["format"], struct, body),
        "stream": read["stream"] is not False,
        "think": read["think"],
        "truncate": read["truncate"] is not False,
        "shift": read["shift"] is not False,
        "logprobs": read["logprobs"],
        "top_logprobs": read["top_logprobs"],
        "debug_render_only": read["_debug_render_only"],
    }


def _format(value: Any, struct: Struct, body: bytes) -> Any:
    """Ollama compares the JSON text: null and "" are no format, "json" is one when it is spelled so."""
    if value is None:
        return None
    raw = raw_member(body, struct, "format")
    if isinstance(value, Pairs):
        try:
            return unmarshal(AS_SENT, value)
        except GoError:  # a number no float64 can hold, or too deep
            return RawFormat(raw)
    if raw == '""':
        return None
    return "json" if raw == '"json"' else RawFormat(raw)


def _message(read: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what is empty; `tool_calls` in the form that Ollama writes them in."""
    message = {"role": read["role"], "content": read["content"]}
    message |= {name: read[name] for name in ("thinking", "tool_name", "tool_call_id") if read[name]}
    if read["images"]:
        message["images"] = [image or "" for image in read["images"]]
    if read["tool_calls"]:
        message["tool_calls"] = [
            ({"id": call["id"]} if call["id"] else {})
            | {"function": call["function"] | {"arguments": call["function"]["arguments"] or {}}}
            for call in read["tool_calls"]
        ]
    return message


def _tool(read: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as api.Tool marshals: keys of a schema that its structs do not have are gone."""
    function = read["function"]
    described = {"description": function["description"]} if function["description"] else {}
    parameters = function["parameters"]
    schema: dict[str, Any] = {"type": parameters["type"]}
    schema |= {name: parameters[name] for name in ("$defs", "items") if parameters[name] is not None}
    if parameters["required"]:
        schema["required"] = parameters["required"]
    schema["properties"] = _properties(parameters["properties"])
    items = {} if read["items"] is None else {"items": read["items"]}
    return {
        "type": read["type"],
        **items,
        "function": {"name": function["name"], **described, "parameters": schema},
    }


def _properties(read: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if read is None else {name: _property(value) for name, value in read.items()}


def _property(read: Mapping[str, Any]) -> dict[str, Any]:
    types: list[str] = read["type"] or []
    written = {
        "anyOf": [_property(option) for option in read["anyOf"] or ()],
        "type": types[0] if len(types) == 1 else types,
        "items": read["items"],
        "description": read["description"],
        "enum": read["enum"],
        "properties": _properties(read["properties"]),
        "required": read["required"],
    }
    wanted = {"items": read["items"] is not None, "properties": read["properties"] is not None, "type": bool(types)}
    return {name: value for name, value in written.items() if wanted.get(name, bool(value))}
