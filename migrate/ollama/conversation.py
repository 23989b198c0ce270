"""Which messages a template gets to see, and in which order.

Source: Ollama 0.33, server/routes.go (ChatHandler, filterThinkTags), server/prompt.go (imageTaggedMessages) and
template/template.go (collate). Messages are as in Ollama's API: mappings with role, content, tool_calls, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.errors import BadInput

Message = Mapping[str, Any]

SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_OPENING, _CLOSING = "<think>", "</think>"


def ordered(
    messages: Sequence[Message], *, system: str | None = None, model_messages: Sequence[Message] = ()
) -> list[Message]:
    """The messages of a request with what the model brings: SYSTEM, then its MESSAGE lines, then the request's own.

    SYSTEM is left out when the first message of the request has the role system; the MESSAGE lines then still come
    first. Roles are lower-cased, as when Ollama decodes a request.
    """
    request = [_decoded(message) for message in messages]
    result = [_decoded(message) for message in model_messages] + request
    if system and not (request and request[0]["role"] == "system"):
        result.insert(0, {"role": "system", "content": system})
    return result


def _decoded(message: Message) -> Message:
    role, content = message.get("role") or "", message.get("content")
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise BadInput(
            f"a message's role and content have to be text, not {type(role).__name__}, {type(content).__name__}"
        )
    return {**message, "role": role.lower(), "content": content or ""}


def without_thinking(messages: Sequence[Message]) -> list[Message]:
    """Cuts `<think>...</think>` off the start of assistant messages before the last user message.

    Ollama does so for the family qwen3 and for models called deepseek-r1 only (filterThinkTags).
    """
    last_user = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    return [
        {**message, "content": _after_thinking(message["content"])}
        if message["role"] == "assistant" and i < last_user
        else message
        for i, message in enumerate(messages)
    ]


def _after_thinking(content: str) -> str:
    trimmed = content.lstrip(SPACES)
    if trimmed.startswith(_OPENING):
        _, _, remaining = trimmed[len(_OPENING) :].lstrip(SPACES).partition(_CLOSING)
        return remaining.lstrip(SPACES)
    # a parser made for streams waits for the rest of a tag that may have begun: nothing comes out
    return "" if _OPENING.startswith(trimmed) else content


def image_tagged(messages: Sequence[Message]) -> list[Message]:
    """Puts the text [img-N] for each image: in place of a literal [img], else in front of the content."""
    result: list[Message] = []
    count = 0
    for message in messages:
        content, prefix = message["content"], ""
        for _ in message.get("images") or ():
            tag = f"[img-{count}]"
            count += 1
            if "[img]" in content:
                content = content.replace("[img]", tag, 1)
            else:
                prefix += tag
        result.append({**message, "content": prefix + content})
    return result


def collate(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """`.System` and `.Messages`: all system texts, and the messages with neighbours of one role merged.

    Texts are joined by an empty line. Messages of the role tool stay apart. Of merged messages only the first keeps its
    images, thinking and tool calls: those of the others are lost, in Ollama too.
    """
    collated: list[Message] = []
    merged: list[list[str]] = []
    for message in messages:
        if collated and collated[-1]["role"] == message["role"] != "tool":
            merged[-1].append(message["content"])
        else:
            collated.append(message)
            merged.append([message["content"]])
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    joined = zip(collated, merged, strict=True)
    return system, [{**message, "content": "\n\n".join(texts)} for message, texts in joined]
