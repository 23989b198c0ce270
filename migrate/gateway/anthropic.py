"""The requests of Ollama's Anthropic route, POST /v1/messages.

Source: Ollama 0.33, anthropic/anthropic.go and middleware/anthropic.go. `tool_choice`, `metadata` and the thinking
budget are read and change nothing, as in Ollama; temperature, top_p and top_k that are absent are the Modelfile's.
There is no count_tokens. The built-in tool web_search, which Ollama has its cloud run, is refused here. The answers are
in anthropic_replies.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from migrate.gateway import decode
from migrate.gateway import go_wire as go
from migrate.gateway.anthropic_replies import MessageStream, error, messages_reply
from migrate.gateway.go_decode import (
    ANYTHING,
    BOOL,
    INT,
    STRING,
    STRINGS,
    Custom,
    Pairs,
    Pointer,
    Raw,
    Slice,
    Struct,
    unmarshal,
)
from migrate.gateway.go_syntax import GoError
from migrate.gateway.go_wire import FLOAT64, Body
from migrate.gateway.types import ApiError, ChatRequest, Think
from migrate.gotemplate.strconv import quote

__all__ = ["MessageStream", "error", "estimate_input_tokens", "messages_reply", "messages_request"]


def _read_input(value: Any) -> dict[str, Any] | None:
    """api.ToolCallFunctionArguments."""
    if value is None:
        return None
    if not isinstance(value, Pairs):
        raise GoError("Value looks like object, but can't find closing '}' symbol")
    return {key: go.in_order(unmarshal(ANYTHING, item)) for key, item in value}


def _read_message(value: Any) -> dict[str, Any]:
    """MessageParam: a text is one text block, and so is null."""
    message: dict[str, Any] = unmarshal(_MESSAGE_FIELDS, value)
    if message["content"] is None:
        raise GoError("unexpected end of JSON input")
    [content] = message["content"]
    if content is None or type(content) is str:
        content = Pairs([("type", "text"), ("text", content or "")])
        return {**message, "content": [unmarshal(BLOCK, content)]}
    return {**message, "content": unmarshal(_BLOCKS, content)}


_CITATION = Struct(
    "anthropic.Citation", dict.fromkeys(("type", "url", "title", "encrypted_index", "cited_text"), STRING)
)
_SOURCE = Struct("anthropic.ImageSource", dict.fromkeys(("type", "media_type", "data", "url"), STRING))
BLOCK = Struct(
    "anthropic.ContentBlock",
    {
        "type": STRING,
        "text": Pointer(STRING),
        "citations": Slice(_CITATION, "[]anthropic.Citation"),
        "source": Pointer(_SOURCE),
        "id": STRING,
        "name": STRING,
        "input": Custom("api.ToolCallFunctionArguments", _read_input),
        "tool_use_id": STRING,
        "content": ANYTHING,
        "is_error": BOOL,
        "thinking": Pointer(STRING),
        "signature": STRING,
    },
)
_BLOCKS = Slice(BLOCK, "[]anthropic.ContentBlock")
_MESSAGE_FIELDS = Struct(
    'struct { Role string "json:\\"role\\""; Content json.RawMessage "json:\\"content\\"" }',
    {"role": STRING, "content": Custom("json.RawMessage", lambda value: (value,))},
)
TOOL = Struct(
    "anthropic.Tool",
    {"type": STRING, "name": STRING, "description": STRING, "input_schema": Raw(), "max_uses": INT},
)
REQUEST = Struct(
    "anthropic.MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": Slice(Custom("anthropic.MessageParam", _read_message), "[]anthropic.MessageParam"),
        "system": ANYTHING,
        "stream": BOOL,
        "temperature": Pointer(FLOAT64),
        "top_p": Pointer(FLOAT64),
        "top_k": Pointer(INT),
        "stop_sequences": STRINGS,
        "tools": Slice(TOOL, "[]anthropic.Tool"),
        "tool_choice": Pointer(
            Struct("anthropic.ToolChoice", {"type": STRING, "name": STRING, "disable_parallel_tool_use": BOOL})
        ),
        "thinking": Pointer(Struct("anthropic.ThinkingConfig", {"type": STRING, "budget_tokens": INT})),
        "metadata": Pointer(Struct("anthropic.Metadata", {"user_id": STRING})),
        "output_config": Pointer(Struct("anthropic.OutputConfig", {"effort": STRING})),
    },
)


def messages_request(body: Body) -> ChatRequest:
    """POST /v1/messages. Raises ApiError(400) with Ollama's text."""
    given = go.bound(REQUEST, body)
    if not given["model"]:
        raise ApiError(400, "model is required")
    if given["max_tokens"] <= 0:
        raise ApiError(400, "max_tokens is required and must be positive")
    if not given["messages"]:
        raise ApiError(400, "messages is required")
    options = {
        "num_predict": given["max_tokens"],
        "temperature": given["temperature"],
        "top_p": given["top_p"],
        "top_k": given["top_k"],
        "stop": given["stop_sequences"] or None,
    }
    system = _system(given["system"])
    messages = [{"role": "system", "content": system}] if system else []
    for message in given["messages"]:
        messages += _messages(message)
    fields = {
        "model": given["model"],
        "messages": messages,
        "options": {name: value for name, value in options.items() if value is not None},
        "stream": given["stream"],
        "tools": [_tool(tool) for tool in given["tools"] or ()],
        "think": _think(given["thinking"], given["output_config"]),
    }
    return replace(decode.chat(go.written(fields)), relax_thinking=True)


def _system(system: Any) -> str:
    """A text, or the text blocks of a list without anything between them. What else there is counts for nothing."""
    if isinstance(system, str):
        return system
    return "".join(_block_texts(system)) if isinstance(system, list) else ""


def _block_texts(blocks: Sequence[Any]) -> list[str]:
    return [
        block["text"]
        for block in blocks
        if isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)
    ]


def _think(thinking: Mapping[str, Any] | None, output: Mapping[str, Any] | None) -> Think:
    asked = "" if thinking is None else thinking["type"]
    if asked in ("enabled", "disabled"):
        return asked == "enabled"
    effort: str = "" if output is None else output["effort"].strip().lower()
    if effort == "xhigh":
        return "high"
    return effort if effort in ("high", "medium", "low", "max") else None


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool["type"].startswith("web_search"):
        raise ApiError(400, go.NO_WEB_SEARCH)
    try:
        unmarshal(go.PARAMETERS, tool["input_schema"])
    except GoError as problem:
        raise ApiError(400, f"invalid input_schema for tool {quote(tool['name'])}: {problem}") from None
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"]}
    return {"type": "function", "function": function}


# ---- messages -------------------------------------------------------------------------------------------------------


def _messages(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One message of blocks: a message of its texts, images, calls and thinking, and one per tool result.

    The results of a user's message come before it, those of others behind it.
    """
    role = message["role"].lower()
    texts: list[str] = []
    images: list[str] = []
    calls: list[dict[str, Any]] = []
    thinking = ""
    results: list[dict[str, Any]] = []
    for block in message["content"] or ():
        match block["type"]:
            case "text":
                texts.append(block["text"] or "")
            case "image":
                if block["source"] is None:
                    raise ApiError(400, "invalid image source")
                images.append(_image(block["source"]))
            case "tool_use" | "server_tool_use":
                calls.append(_call(block, checked=block["type"] == "tool_use"))
            case "tool_result":
                content, shown = _tool_result(block["content"])
                results.append(_result(block, content, shown))
            case "web_search_tool_result":
                results.append(_result(block, _search_result(block["content"])))
            case "thinking" if block["thinking"] is not None:
                thinking = block["thinking"]
    content = "".join(texts)
    own = []
    if content or images or calls or thinking:
        own = [{"role": role, "content": content, "images": images, "tool_calls": calls, "thinking": thinking}]
    return results + own if role == "user" else own + results


def _result(block: Mapping[str, Any], content: str, images: Sequence[str] = ()) -> dict[str, Any]:
    return {"role": "tool", "content": content, "images": images, "tool_call_id": block["tool_use_id"]}


def _call(block: Mapping[str, Any], *, checked: bool) -> dict[str, Any]:
    for name in ("id", "name"):
        if checked and not block[name]:
            raise ApiError(400, f"tool_use block missing required '{name}' field")
    return {"id": block["id"], "function": {"name": block["name"], "arguments": block["input"]}}


def _image(source: Mapping[str, Any]) -> str:
    if source["type"] != "base64":
        raise ApiError(400, f"invalid image source type: {source['type']}. Only base64 images are supported.")
    try:
        return go.base64_text(source["data"])
    except ValueError as problem:
        raise ApiError(400, f"invalid base64 image data: {problem}") from None


def _tool_result(content: Any) -> tuple[str, list[str]]:
    """The text and the images of a tool's result."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", []
    images = []
    for block in content:
        if isinstance(block, Mapping) and block.get("type") == "image":
            if not isinstance(source := block.get("source"), Mapping):
                raise ApiError(400, "invalid tool_result image source")
            given = {name: source.get(name) for name in ("type", "data")}
            images.append(_image({name: text if isinstance(text, str) else "" for name, text in given.items()}))
    return "".join(_block_texts(content)), images


def _search_result(content: Any) -> str:
    """What an earlier search found, as the text Ollama shows the model."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping) and content.get("type") == "web_search_tool_result_error":
        return _search_error(content)
    if not isinstance(content, list):
        return go.encode(go.in_order(content))
    lines = []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "web_search_tool_result_error":
            return _search_error(item)
        if kind == "web_search_result":
            title, url = (text if isinstance(text := item.get(name), str) else "" for name in ("title", "url"))
            lines.append(f"- {title}: {url}\n")
    return "".join(lines)


def _search_error(given: Mapping[str, Any]) -> str:
    code = given.get("error_code")
    return f"web_search_tool_result_error: {code}" if code and isinstance(code, str) else "web_search_tool_result_error"


# ---- the estimate of message_start ----------------------------------------------------------------------------------


def estimate_input_tokens(body: Body) -> int:
    """Ollama's guess at the prompt's tokens, a quarter of its bytes, for the first event of a stream.

    A schema counts as compact JSON; Ollama counts it as it was sent. Raises ApiError(400).
    """
    given = go.bound(REQUEST, body)
    total = _any_length(given["system"])
    for message in given["messages"] or ():
        total += len(message["role"].encode()) + sum(map(_block_length, message["content"] or ()))
    for tool in given["tools"] or ():
        schema = tool["input_schema"]
        total += sum(len(tool[name].encode()) for name in ("name", "description"))
        total += 0 if schema is None else len(go.encode(schema).encode())
    return total // 4 or int(bool(given["messages"]) or given["system"] is not None)


def _any_length(content: Any) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return len(content.encode())
    if not isinstance(content, list):
        return len(go.encode(go.in_order(content)).encode())
    total = 0
    for item in content:
        try:
            total += _block_length(go.bound(BLOCK, item))
        except ApiError:
            continue
    return total


def _block_length(block: Mapping[str, Any]) -> int:
    total = len((block["text"] or "").encode()) + len((block["thinking"] or "").encode())
    if block["type"] in ("tool_use", "tool_result"):
        source = block["source"]
        fields = {
            **block,
            "source": source and {name: text for name, text in source.items() if text or name == "type"},
            "content": go.in_order(block["content"]),
        }
        always = ("type", "text", "content", "thinking")
        kept = {k: v for k, v in fields.items() if v is not None and (k in always or v not in ("", [], False))}
        total += len(go.encode(kept).encode())
    return total
