"""The requests of Ollama's POST /v1/responses.

Source: Ollama 0.33, openai/responses.go and middleware/openai.go. Nothing is stored: `previous_response_id`, `store`,
`background`, `conversation`, `include` and `tool_choice` change nothing, as in Ollama. temperature is 1.0 when absent,
top_p the Modelfile's. The built-in tool web_search, which Ollama has its cloud run, is refused here. The answers are in
responses_replies.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migrate.gateway import decode, openai
from migrate.gateway import go_wire as go
from migrate.gateway.go_decode import BOOL, INT, STRING, STRINGS, Custom, Dict, Pointer, Raw, Slice, Struct, unmarshal
from migrate.gateway.go_syntax import GoError
from migrate.gateway.go_wire import FLOAT64, Body
from migrate.gateway.responses_replies import ResponseStream, error, response_reply
from migrate.gateway.types import ApiError, ChatRequest
from migrate.gotemplate.strconv import quote

__all__ = ["ResponseStream", "decoded", "error", "response_reply", "responses_request"]


# ---- the body -------------------------------------------------------------------------------------------------------

_KIND = go.Anonymous('struct { Type string "json:\\"type\\"" }', Struct("", {"type": STRING}))
_KIND_ROLE = go.Anonymous(
    'struct { Type string "json:\\"type\\""; Role string "json:\\"role\\"" }',
    Struct("", {"type": STRING, "role": STRING}),
)
CONTENTS = {
    "input_text": Struct("openai.ResponsesTextContent", {"type": STRING, "text": STRING}),
    "output_text": Struct("openai.ResponsesOutputTextContent", {"type": STRING, "text": STRING}),
    "input_image": Struct(
        "openai.ResponsesImageContent", dict.fromkeys(("type", "detail", "file_id", "image_url"), STRING)
    ),
    "input_file": Struct(
        "openai.ResponsesFileContent",
        dict.fromkeys(("type", "file_data", "file_id", "file_url", "filename"), STRING),
    ),
}
_SUMMARY = Slice(
    Struct("openai.ResponsesReasoningSummary", {"type": STRING, "text": STRING}), "[]openai.ResponsesReasoningSummary"
)
ITEMS = {
    # these two are only read after their type has been, so that they are objects
    "message": Struct("", {"type": STRING, "role": STRING, "content": Raw()}),
    "function_call": Struct(
        "openai.ResponsesFunctionCall", dict.fromkeys(("id", "type", "call_id", "name", "arguments"), STRING)
    ),
    "function_call_output": Struct("", {"type": STRING, "call_id": STRING, "output": Raw()}),
    "reasoning": Struct(
        "openai.ResponsesReasoningInput",
        {"id": STRING, "type": STRING, "summary": _SUMMARY, "encrypted_content": STRING},
    ),
    "web_search_call": Struct(
        "openai.ResponsesWebSearchCall",
        {
            "id": STRING,
            "type": STRING,
            "status": STRING,
            "action": Pointer(Struct("openai.ResponsesWebSearchAction", {"type": STRING, "query": STRING})),
        },
    ),
}


def _each(values: Sequence[Any], what: str, read: Callable[[Any], Any]) -> list[Any]:
    result = []
    for index, value in enumerate(values):
        try:
            result.append(read(value))
        except GoError as problem:
            raise GoError(f"{what}[{index}]: {problem}") from None
    return result


def _read_content(value: Any) -> dict[str, Any]:
    kind = unmarshal(_KIND, value)["type"]
    if kind not in CONTENTS:
        raise GoError(f"unknown content type: {kind}")
    content: dict[str, Any] = unmarshal(CONTENTS[kind], value)
    return content


def _contents(value: Any, what: str) -> list[dict[str, Any]]:
    """A text or a list of content items. A null is an empty text."""
    if value is None or type(value) is str:
        return [{"type": "input_text", "text": value or ""}]
    if type(value) is not list:
        kind = f"json: cannot unmarshal {go.kind(value)} into Go value of type []json.RawMessage"
        raise GoError(f"{what} must be a string or array: {kind}")
    return _each(value, what, _read_content)


def _read_item(value: Any) -> dict[str, Any]:
    typed = unmarshal(_KIND_ROLE, value)
    kind = typed["type"] or ("message" if typed["role"] else "")
    if kind not in ITEMS:
        problem = f"unknown input item type: {quote(kind)}" if kind else "input item missing required 'type' field"
        raise GoError(problem)
    item: dict[str, Any] = {**unmarshal(ITEMS[kind], value), "type": kind}
    for name in ("content", "output"):
        if name in item:
            sent = any(name == key for key, _ in value)
            item[name] = _contents(item[name], name) if sent else []
    return item


def _read_input(value: Any) -> str | list[dict[str, Any]]:
    if value is None or type(value) is str:
        return value or ""
    if type(value) is not list:
        kind = f"json: cannot unmarshal {go.kind(value)} into Go value of type []json.RawMessage"
        raise GoError(f"input must be a string or array: {kind}")
    return _each(value, "input", _read_item)


_TOOL_FIELDS: dict[str, Any] = {
    "type": STRING,
    "name": STRING,
    "description": Pointer(STRING),
    "strict": Pointer(BOOL),
    "parameters": Dict(),
    "tools": Raw(),
}
TOOL = Struct("openai.ResponsesTool", _TOOL_FIELDS)
_TOOLS = Slice(TOOL, "[]openai.ResponsesTool")
_TOOL_FIELDS["tools"] = _TOOLS
_TEXT_FORMAT = Struct(
    "openai.ResponsesTextFormat", {"type": STRING, "name": STRING, "schema": Raw(), "strict": Pointer(BOOL)}
)
REQUEST = Struct(
    "openai.ResponsesRequest",
    {
        "model": STRING,
        "background": BOOL,
        "conversation": Raw(),
        "include": STRINGS,
        "input": Custom("openai.ResponsesInput", _read_input, ""),
        "instructions": STRING,
        "max_output_tokens": Pointer(INT),
        "reasoning": Struct(
            "openai.ResponsesReasoning", dict.fromkeys(("effort", "generate_summary", "summary"), STRING)
        ),
        "temperature": Pointer(FLOAT64),
        "text": Pointer(Struct("openai.ResponsesText", {"format": Pointer(_TEXT_FORMAT)})),
        "top_p": Pointer(FLOAT64),
        "truncation": Pointer(STRING),
        "tools": _TOOLS,
        "stream": Pointer(BOOL),
    },
)


def decoded(body: Body) -> dict[str, Any]:
    """The body by its fields, as the answer repeats them. Raises ApiError(400) with Ollama's text."""
    return go.bound(REQUEST, body)


# ---- the request ----------------------------------------------------------------------------------------------------


def responses_request(body: Body) -> ChatRequest:
    """POST /v1/responses. Raises ApiError(400) with Ollama's text."""
    given = decoded(body)
    items = given["input"]
    messages: list[dict[str, Any]] = []
    if given["instructions"]:
        messages.append({"role": "system", "content": given["instructions"]})
    if isinstance(items, str):
        messages += [{"role": "user", "content": items}] if items else []
    else:
        _add_items(messages, items)
    options = {
        "temperature": 1.0 if given["temperature"] is None else given["temperature"],
        "top_p": given["top_p"],
        "num_predict": given["max_output_tokens"],
    }
    wanted = None if given["text"] is None else given["text"]["format"]
    fields = {
        "model": given["model"],
        "messages": messages,
        "options": openai.sent(options),
        "think": openai.think(given["reasoning"]["effort"]),
        "tools": [function for tool in given["tools"] or () for function in _functions(tool)],
        "format": wanted["schema"] if wanted is not None and wanted["type"] == "json_schema" else None,
        "stream": bool(given["stream"]),
    }
    return decode.chat(go.written(fields))


def _add_items(messages: list[dict[str, Any]], items: Sequence[Mapping[str, Any]]) -> None:
    """The input items as messages: reasoning joins what the assistant says next, calls its message before."""
    thinking = ""
    for position, item in enumerate(items):
        match item["type"]:
            case "reasoning":
                thinking = item["encrypted_content"]
            case "message":
                content, images = _content(item["content"])
                message: dict[str, Any] = {"role": item["role"], "content": content, "images": images}
                if item["role"] == "assistant" and thinking:
                    message["thinking"], thinking = thinking, ""
                following = items[position + 1] if position + 1 < len(items) else {"type": ""}
                if not _joined(messages, message, following):
                    messages.append(message)
            case "function_call":
                if not (messages and messages[-1]["role"] == "assistant"):
                    messages.append({"role": "assistant", "content": ""})
                messages[-1].setdefault("tool_calls", []).append(_call(item))
                if thinking:
                    messages[-1]["thinking"], thinking = thinking, ""
            case "function_call_output":
                content, images = _content(item["output"])
                messages.append({"role": "tool", "content": content, "images": images, "tool_call_id": item["call_id"]})
    if thinking:
        messages.append({"role": "assistant", "content": "", "thinking": thinking})


def _joined(messages: list[dict[str, Any]], message: Mapping[str, Any], following: Mapping[str, Any]) -> bool:
    """An assistant's words between a call and its result belong to the message of the call."""
    if message["role"] != "assistant" or following["type"] != "function_call_output" or not following["call_id"]:
        return False
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or following["call_id"] not in [
        call["id"] for call in last.get("tool_calls", ())
    ]:
        return False
    between = "\n" if last["content"] and message["content"] else ""
    last["content"] += between + message["content"]
    last["images"] = [*last.get("images", ()), *message["images"]]
    if message.get("thinking"):
        last["thinking"] = message["thinking"]
    return True


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] | None = {}
    if item["arguments"]:
        try:
            arguments = go.arguments(item["arguments"])
        except ValueError as problem:
            raise ApiError(400, f"failed to parse function call arguments: {problem}") from None
    return {"id": item["call_id"], "function": {"name": item["name"], "arguments": arguments}}


def _content(contents: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The texts of content items in one, and the images."""
    if any(content["type"] == "input_file" for content in contents):
        raise ApiError(400, "file inputs are not currently supported")
    texts = [content["text"] for content in contents if "text" in content]
    return "".join(texts), [openai.image(content["image_url"]) for content in contents if content.get("image_url")]


def _functions(tool: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A tool, or the members of a namespace under names that begin with its name."""
    if tool["type"] == "web_search":
        raise ApiError(400, go.NO_WEB_SEARCH)
    if tool["type"] != "namespace":
        return [{"type": tool["type"], "function": _function(tool)}]
    functions = [function for member in tool["tools"] or () for function in _functions(member)]
    prefix = f"{tool['name']}." if tool["name"] else ""
    for function in functions:
        if not function["function"]["name"].startswith(prefix):
            function["function"]["name"] = prefix + function["function"]["name"]
    return functions


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    parameters = tool["parameters"]
    if parameters is not None:
        parameters = go.in_order(parameters)  # it is a map, so its order is lost
        try:
            go.checked(go.PARAMETERS, parameters)
        except ApiError as problem:
            raise ApiError(400, f"failed to unmarshal tool parameters: {problem.message}") from None
    return {"name": tool["name"], "description": tool["description"] or "", "parameters": parameters}
