"""A request as the conversation that Ollama made of it, or the reason why it cannot be compared.

Sources: ollama.md sections 4.6 (order of messages), 7.2 (fields), 7.4 (what the OpenAI routes make of a request), and
for /api/generate Ollama's server/routes.go: SYSTEM or the request's `system`, then the MESSAGE lines, then the prompt
as a user message go the way of /api/chat, unless the request brings its own template, a suffix, a context or asks for
raw. /api/chat puts a system message of the request *behind* the MESSAGE lines: where a model has such lines, a `system`
of the request's own has no twin among conversations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from migrate.engines.base import Conversation, Message
from migrate.parity.facts import BundleFacts
from migrate.parity.traffic.requests import Entry

IMAGES_NOTE = "images and audio are left out: the text around them is compared"
PARTS_NOTE = (
    "content in several parts: each became a message of its own in Ollama, and is compared so; vLLM joins the parts of "
    "one message by a line break"
)
MAX_MESSAGES = 10_000


class Unusable(ValueError):
    """Why a request cannot be compared."""


@dataclass(frozen=True, slots=True)
class Model:
    """What has to be known of the model. `messages`: it has MESSAGE lines. `bare_generate`: neither a TEMPLATE nor a
    template in the GGUF, so that /api/generate sends the bare prompt where chat falls back to ChatML (ollama.md 4.1).
    """

    system: str = ""
    messages: bool = False
    bare_generate: bool = False

    @classmethod
    def of(cls, facts: BundleFacts) -> Model:
        source = facts.source
        bare = source.prompt_path == "gguf_jinja" and not source.template and not source.chat_template
        return cls(source.system or "", bool(source.messages), bare)


@dataclass(slots=True)
class Asked:
    """What a request asks; one of the two is filled."""

    conversation: Conversation | None = None
    texts: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def asked(entry: Entry, name: str, model: Model) -> Asked:
    """The conversation (called `name`) or the texts of a request. Raises Unusable."""
    body = entry.body
    if body.get("_debug_render_only"):
        raise Unusable("it asks for the prompt only (_debug_render_only)")
    match entry.endpoint:
        case "/api/chat":
            return _chat(body, name)
        case "/api/generate":
            return _generate(body, name, model)
        case "/v1/chat/completions":
            return _openai_chat(body, name)
        case "/v1/completions":
            return _generate({key: body.get(key) for key in ("prompt", "suffix")}, name, model)
        case "/api/embed" | "/v1/embeddings":
            return Asked(texts=_texts(body.get("input")))
        case "/api/embeddings":
            return Asked(texts=_texts(body.get("prompt")))
        case _:
            raise Unusable(f"requests to {entry.endpoint} are not compared")


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise Unusable("its input is no text")
    if not all(texts):
        raise Unusable("its input is empty")
    return tuple(texts)


def _chat(body: Mapping[str, Any], name: str) -> Asked:
    result = Asked()
    messages = [_native_message(row, result) for row in _rows(body)]
    return _conversation(result, name, messages, body, _native_think(body.get("think")))


def _native_message(row: Mapping[str, Any], result: Asked) -> dict[str, Any]:
    content = row.get("content")
    if content is not None and not isinstance(content, str):
        raise Unusable("a message's content is not text: Ollama refuses it")
    message: dict[str, Any] = {"role": _role(row), "content": content or ""}
    if row.get("images"):
        _note(result, IMAGES_NOTE)
    if row.get("tool_calls"):
        message["tool_calls"] = [_native_call(call) for call in _list(row["tool_calls"], "tool_calls")]
    for key in ("thinking", "tool_name", "tool_call_id"):
        if isinstance(row.get(key), str) and row[key]:
            message[key] = row[key]
    return message


def _native_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no function with a name")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise Unusable("a tool call's arguments are no object: Ollama refuses it")
    made: dict[str, Any] = {"function": {"name": function["name"], "arguments": arguments or {}}}
    if isinstance(call.get("id"), str) and call["id"]:
        made["id"] = call["id"]
    return made


def _generate(body: Mapping[str, Any], name: str, model: Model) -> Asked:
    """/api/generate; /v1/completions is the same to Ollama, and knows prompt and suffix of its fields."""
    if body.get("raw"):
        raise Unusable("raw: the client writes the prompt itself")
    if body.get("suffix"):
        raise Unusable("suffix: text is filled in, not a conversation continued")
    if body.get("template"):
        raise Unusable("it brings its own template")
    if body.get("context"):
        raise Unusable("context: the earlier turns are token ids")
    prompt = body.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise Unusable("its prompt is not text")
    if not prompt:
        raise Unusable("it has no prompt: it loads or unloads the model")
    if model.bare_generate:
        raise Unusable("the model has no template: generate sends the bare prompt, chat does not")
    result = Asked()
    messages: list[Message] = []
    system = body.get("system")
    if system is not None and not isinstance(system, str):
        raise Unusable("its system is not text")
    if system and system != model.system:
        if model.messages:
            raise Unusable(
                "its own system stands before the model's MESSAGE lines; in a chat it would stand behind them"
            )
        messages.append({"role": "system", "content": system})
    if body.get("images"):
        _note(result, IMAGES_NOTE)
    messages.append({"role": "user", "content": prompt})
    return _conversation(result, name, messages, {}, _native_think(body.get("think")))


def _openai_chat(body: Mapping[str, Any], name: str) -> Asked:
    result = Asked()
    rows = _rows(body)
    names = _call_names(rows)
    messages: list[Message] = []
    for row in rows:
        messages += _openai_message(row, names, result)
    effort = body.get("reasoning_effort")
    if isinstance(body.get("reasoning"), dict):
        effort = body["reasoning"].get("effort")
    return _conversation(result, name, messages, body, _effort(effort))


def _openai_message(row: Mapping[str, Any], names: Mapping[str, str], result: Asked) -> list[dict[str, Any]]:
    role, content = _role(row), row.get("content")
    extra: dict[str, Any] = {}
    if row.get("tool_calls"):
        extra["tool_calls"] = [_openai_call(call) for call in _list(row["tool_calls"], "tool_calls")]
    if isinstance(row.get("reasoning"), str) and row["reasoning"]:
        extra["thinking"] = row["reasoning"]
    call_id = row.get("tool_call_id")
    if isinstance(call_id, str) and call_id:
        extra["tool_call_id"] = call_id
    if role == "tool":
        tool = row.get("name") or names.get(str(call_id), "")
        if isinstance(tool, str) and tool:
            extra["tool_name"] = tool
    if isinstance(content, str):
        return [{"role": role, "content": content, **extra}]
    if isinstance(content, list):
        texts = [text for part in content if (text := _part(part, result)) is not None]
        if len(texts) > 1:
            _note(result, PARTS_NOTE)
        made = [{"role": role, "content": text} for text in texts]
        if made and "tool_calls" in extra:  # only then Ollama looks at the message's other fields
            made[-1] |= extra
        return made
    if "tool_calls" not in extra:
        raise Unusable("a message has no content: Ollama refuses it")
    extra.pop("tool_name", None)
    return [{"role": role, "content": "", **extra}]


def _part(part: Any, result: Asked) -> str | None:
    """The text of a content part; None for an image."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in ("image_url", "input_audio"):
        _note(result, IMAGES_NOTE)
        return None
    raise Unusable("a content part is neither text nor an image: Ollama refuses it")


def _openai_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Unusable("a tool call has no function with a name")
    try:
        arguments = json.loads(function.get("arguments", ""))
    except (TypeError, ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise Unusable("a tool call's arguments are no JSON object: Ollama refuses it")
    made: dict[str, Any] = {"function": {"name": function["name"], "arguments": arguments}}
    if isinstance(call.get("id"), str) and call["id"]:
        made["id"] = call["id"]
    return made


def _call_names(rows: list[Mapping[str, Any]]) -> dict[str, str]:
    """Id of a tool call -> name of the function; the last call with an id counts."""
    names: dict[str, str] = {}
    for row in rows:
        for call in row.get("tool_calls") or ():
            if isinstance(call, dict) and isinstance(call.get("function"), dict) and isinstance(call.get("id"), str):
                names[call["id"]] = str(call["function"].get("name", ""))
    return names


def _conversation(
    result: Asked, name: str, messages: list[Any], body: Mapping[str, Any], think: bool | str | None
) -> Asked:
    if not any(m["content"] or m.get("tool_calls") for m in messages if m["role"] != "system") and (
        IMAGES_NOTE in result.notes
    ):
        raise Unusable("it asks about images only")
    tools = body.get("tools") or []
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict) and isinstance(tool.get("function"), dict) for tool in tools
    ):
        raise Unusable("a tool is no function")
    result.conversation = Conversation(name, tuple(messages), tuple(tools), think=think)
    return result


def _rows(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = body.get("messages")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Unusable("its messages are no list of objects")
    if not rows:
        raise Unusable("it has no messages: it loads or unloads the model")
    if len(rows) > MAX_MESSAGES:
        raise Unusable(f"it has more than {MAX_MESSAGES} messages")
    return rows


def _role(row: Mapping[str, Any]) -> str:
    if not isinstance(row.get("role"), str) or not row["role"]:
        raise Unusable("a message has no role")
    return str(row["role"]).lower()


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unusable(f"its {what} are no list")
    return value


def _native_think(value: Any) -> bool | str | None:
    if value is None or isinstance(value, bool) or value in ("low", "medium", "high", "max"):
        return value  # type: ignore[no-any-return]
    raise Unusable("Ollama refuses its think")


_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


def _effort(value: Any) -> bool | str | None:
    """OpenAI's effort as Ollama's `think` (ollama.md section 7.4)."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value not in _EFFORTS:
        raise Unusable("Ollama refuses its reasoning effort")
    return _EFFORTS[value]


def _note(result: Asked, note: str) -> None:
    if note not in result.notes:
        result.notes.append(note)
