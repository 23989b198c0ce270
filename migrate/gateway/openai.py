"""The requests of Ollama's OpenAI routes: /v1/chat/completions, /v1/completions, /v1/embeddings.

Source: Ollama 0.33, openai/openai.go and middleware/openai.go. Only the fields of their structs are read: `n`,
`max_completion_tokens`, `tool_choice`, `logit_bias` and others change nothing, as in Ollama. temperature and top_p are
1.0 when absent, whatever the Modelfile says. The answers are in openai_replies.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.gateway import decode
from migrate.gateway import go_wire as go
from migrate.gateway.go_decode import ANYTHING, BOOL, INT, STRING, Pointer, Raw, Slice, Struct
from migrate.gateway.go_wire import FLOAT32, FLOAT64, TOOLS, Body
from migrate.gateway.openai_replies import (
    ChatStream,
    CompletionStream,
    chat_reply,
    completion_reply,
    embed_reply,
    error,
    model_reply,
    models_reply,
)
from migrate.gateway.types import ApiError, ChatRequest, EmbedRequest, GenerateRequest, Think
from migrate.gotemplate.strconv import quote

__all__ = [
    "ChatStream",
    "CompletionStream",
    "chat_reply",
    "chat_request",
    "completion_reply",
    "completion_request",
    "embed_reply",
    "embed_request",
    "encoding_format",
    "error",
    "image",
    "include_usage",
    "model_reply",
    "models_reply",
    "sent",
    "think",
]

_FUNCTION = Struct("", {"name": STRING, "arguments": STRING})
_CALL = Struct(
    "openai.ToolCall",
    {
        "id": STRING,
        "index": INT,
        "type": STRING,
        "function": go.Anonymous(
            'struct { Name string "json:\\"name\\""; Arguments string "json:\\"arguments\\"" }', _FUNCTION
        ),
    },
)
_MESSAGE = Struct(
    "openai.Message",
    {
        "role": STRING,
        "content": ANYTHING,
        "reasoning": STRING,
        "tool_calls": Slice(_CALL, "[]openai.ToolCall"),
        "name": STRING,
        "tool_call_id": STRING,
    },
)
_STREAM_OPTIONS = Pointer(Struct("openai.StreamOptions", {"include_usage": BOOL}))
_RESPONSE_FORMAT = Struct(
    "openai.ResponseFormat", {"type": STRING, "json_schema": Pointer(Struct("openai.JsonSchema", {"schema": Raw()}))}
)
CHAT = Struct(
    "openai.ChatCompletionRequest",
    {
        "model": STRING,
        "messages": Slice(_MESSAGE, "[]openai.Message"),
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "max_tokens": Pointer(INT),
        "seed": Pointer(INT),
        "stop": ANYTHING,
        "temperature": Pointer(FLOAT64),
        "frequency_penalty": Pointer(FLOAT64),
        "presence_penalty": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "response_format": Pointer(_RESPONSE_FORMAT),
        "tools": TOOLS,
        "reasoning": Pointer(Struct("openai.Reasoning", {"effort": STRING})),
        "reasoning_effort": Pointer(STRING),
        "logprobs": Pointer(BOOL),
        "top_logprobs": INT,
        "_debug_render_only": BOOL,
    },
)
_STREAMED = Struct("openai.ChatCompletionRequest", {"stream_options": _STREAM_OPTIONS})
COMPLETION = Struct(
    "openai.CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "frequency_penalty": FLOAT32,
        "max_tokens": Pointer(INT),
        "presence_penalty": FLOAT32,
        "seed": Pointer(INT),
        "stop": ANYTHING,
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "temperature": Pointer(FLOAT32),
        "top_p": FLOAT32,
        "suffix": STRING,
        "logprobs": Pointer(INT),
        "_debug_render_only": BOOL,
    },
)
EMBED = Struct(
    "openai.EmbedRequest", {"input": ANYTHING, "model": STRING, "dimensions": INT, "encoding_format": STRING}
)

# ---- /v1/chat/completions -------------------------------------------------------------------------------------------


def chat_request(body: Body) -> ChatRequest:
    """POST /v1/chat/completions. Raises ApiError(400) with Ollama's text. `format` is as decode.chat leaves it."""
    given = go.bound(CHAT, body)
    if not given["messages"]:
        raise ApiError(400, "[] is too short - 'messages'")
    options = {
        "stop": _stop(given["stop"]),
        "num_predict": given["max_tokens"],
        "temperature": 1.0 if given["temperature"] is None else given["temperature"],
        "seed": given["seed"],
        "frequency_penalty": given["frequency_penalty"],
        "presence_penalty": given["presence_penalty"],
        "top_p": 1.0 if given["top_p"] is None else given["top_p"],
    }
    effort = given["reasoning"]["effort"] if given["reasoning"] is not None else given["reasoning_effort"]
    fields = {
        "model": given["model"],
        "messages": _messages(given["messages"]),
        "format": _format(given["response_format"]),
        "options": sent(options),
        "stream": given["stream"],
        "tools": given["tools"],
        "think": think(effort or ""),
        "logprobs": bool(given["logprobs"]),
        "top_logprobs": given["top_logprobs"],
        "_debug_render_only": given["_debug_render_only"],
    }
    return decode.chat(go.written(fields))


def include_usage(body: Body) -> bool:
    """`stream_options.include_usage`, which decides on the events of a stream. Raises ApiError(400)."""
    options = go.bound(_STREAMED, body)["stream_options"]
    return options is not None and bool(options["include_usage"])


def sent(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options without those that were not given."""
    return {name: value for name, value in options.items() if value is not None}


def think(effort: str) -> Think:
    """A reasoning effort of OpenAI's scale as Ollama's `think`; None leaves it to the model. Raises ApiError(400)."""
    efforts: dict[str, Think] = {"": None, "none": False, "minimal": "low", "xhigh": "max", "ultra": "max"}
    efforts |= {level: level for level in ("low", "medium", "high", "max")}
    if effort in efforts:
        return efforts[effort]
    allowed = '"minimal", "low", "medium", "high", "xhigh", "ultra", "max", or "none"'
    raise ApiError(400, f"invalid reasoning value: {quote(effort)} (must be {allowed})")


def _stop(stop: Any, *, texts_only: bool = False) -> list[str] | None:
    """`stop`: what is no text in a list is left out, or refused by /v1/completions. An empty list says nothing."""
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list):
        return None
    for item in stop:
        if texts_only and not isinstance(item, str):
            raise ApiError(400, f"invalid type for 'stop' field: {go.type_name(item)}")
    return [item for item in stop if isinstance(item, str)] or None


def _format(response_format: Mapping[str, Any] | None) -> Any:
    kind = "" if response_format is None else response_format["type"].strip().lower()
    if kind == "json_object":
        return "json"
    if response_format is not None and kind == "json_schema" and response_format["json_schema"] is not None:
        return response_format["json_schema"]["schema"]
    return None


def _messages(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every element of a content array becomes a message of its own."""
    messages: list[dict[str, Any]] = []
    for message in given:
        role, content, calls = message["role"].lower(), message["content"], message["tool_calls"]
        if calls is None and not isinstance(content, str | list):
            raise ApiError(400, f"invalid message content type: {go.type_name(content)}")
        rest = {"thinking": message["reasoning"], "tool_calls": calls, "tool_call_id": message["tool_call_id"]}
        if isinstance(content, list):
            messages += [_part(role, part) for part in content]
            if calls and messages:  # with an empty array it is the message before that gets them
                last = messages.pop()
                messages.append(_message(**{**last, **rest, "tool_name": _tool_name(role, message, given)}))
        elif isinstance(content, str):
            messages.append(_message(role, content, tool_name=_tool_name(role, message, given), **rest))
        else:  # content of any other type is dropped
            messages.append(_message(role, **rest))
    return messages


def _message(
    role: str,
    content: str = "",
    *,
    thinking: str = "",
    images: Sequence[str] = (),
    tool_calls: Sequence[Mapping[str, Any]] | None = None,
    tool_name: str = "",
    tool_call_id: str = "",
) -> dict[str, Any]:
    """An api.Message, with what is empty left out."""
    message = {
        "thinking": thinking,
        "images": list(images),
        "tool_calls": [_tool_call(call) for call in tool_calls or ()],
        "tool_name": tool_name,
        "tool_call_id": tool_call_id,
    }
    return {"role": role, "content": content, **{name: value for name, value in message.items() if value}}


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = go.arguments(arguments)
        except ValueError:
            raise ApiError(400, "invalid tool call arguments") from None
    return {**({"id": call["id"]} if call.get("id") else {}), "function": {"name": name, "arguments": arguments}}


def _tool_name(role: str, message: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> str:
    """A tool message without a name has the name of the call it answers; of equal ids the last one counts."""
    if role != "tool":
        return ""
    name: str = message["name"]
    if not name and message["tool_call_id"]:
        for other in reversed(messages):
            for call in other["tool_calls"] or ():
                if call["id"] == message["tool_call_id"]:
                    return str(call["function"]["name"])
    return name


def _part(role: str, part: Any) -> dict[str, Any]:
    """One element of a content array."""
    invalid = ApiError(400, "invalid message format")
    if not isinstance(part, Mapping):
        raise invalid
    match part.get("type"):
        case "text":
            if not isinstance(text := part.get("text"), str):
                raise invalid
            return _message(role, text)
        case "image_url":
            url = part.get("image_url")
            if isinstance(url, Mapping):
                url = url.get("url")
            if not isinstance(url, str):
                raise invalid
            return _message(role, images=[image(url)])
        case "input_audio":
            return _message(role, images=[_audio(part.get("input_audio"))])
    raise invalid


def image(url: str) -> str:
    """The base64 text of a data URI: jpeg, jpg, png, webp, or without a type. Raises ApiError(400)."""
    if url.startswith(("http://", "https://")):
        raise ApiError(400, "image URLs are not currently supported, please use base64 encoded data instead")
    for kind in ("", *(f"image/{name}" for name in ("jpeg", "jpg", "png", "webp"))):
        if url.startswith(prefix := f"data:{kind};base64,"):
            try:
                return go.base64_text(url[len(prefix) :])
            except ValueError:
                break
    raise ApiError(400, "invalid image input")


def _audio(given: Any) -> str:
    if not isinstance(given, Mapping):
        raise ApiError(400, "invalid input_audio format")
    if not isinstance(data := given.get("data"), str):
        raise ApiError(400, "invalid input_audio format: missing data")
    try:
        return go.base64_text(data)
    except ValueError as problem:
        raise ApiError(400, f"invalid input_audio base64 data: {problem}") from None


# ---- /v1/completions and /v1/embeddings -----------------------------------------------------------------------------


def completion_request(body: Body) -> GenerateRequest:
    """POST /v1/completions, which is /api/generate: the prompt goes through the template. Raises ApiError(400)."""
    given = go.bound(COMPLETION, body)
    options = {
        "stop": _stop(given["stop"], texts_only=True),
        "num_predict": given["max_tokens"],
        "temperature": 1.0 if given["temperature"] is None else given["temperature"],
        "seed": given["seed"],
        "frequency_penalty": given["frequency_penalty"],
        "presence_penalty": given["presence_penalty"],
        "top_p": given["top_p"] or 1.0,
    }
    logprobs = max(given["logprobs"] or 0, 0)
    fields = {
        "model": given["model"],
        "prompt": given["prompt"],
        "suffix": given["suffix"],
        "options": sent(options),
        "stream": given["stream"],
        "logprobs": logprobs > 0,
        "top_logprobs": logprobs,
        "_debug_render_only": given["_debug_render_only"],
    }
    return decode.generate(go.written(fields))


def embed_request(body: Body) -> EmbedRequest:
    """POST /v1/embeddings. Raises ApiError(400)."""
    given = go.bound(EMBED, body)
    encoding, texts = given["encoding_format"], given["input"]
    if encoding.casefold() not in ("", "float", "base64"):
        supported = "Supported values: ['float', 'base64']."
        raise ApiError(400, f"Invalid value for 'encoding_format' = {encoding}. {supported}")
    if texts is None or texts == []:
        raise ApiError(400, "invalid input")
    if texts == "":
        texts = [""]
    return decode.embed(go.written({"model": given["model"], "input": texts, "dimensions": given["dimensions"]}))


def encoding_format(body: Body) -> str:
    """How the numbers of /v1/embeddings are wanted, for `embed_reply`. Raises ApiError(400)."""
    wanted: str = go.bound(EMBED, body)["encoding_format"]
    return wanted
