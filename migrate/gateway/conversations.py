"""vLLM's /v1/chat/completions, for what only it can do: images, and answers that a built-in parser reads."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from migrate.engines.base import to_openai
from migrate.gateway.catalog import ServedModel
from migrate.gateway.completions import done_reason, max_tokens
from migrate.gateway.sampling import Sampling, structured
from migrate.gateway.types import ApiError, Chunk, Format, Message, Think, ToolCall
from migrate.gateway.upstreams import BROKEN, UpstreamError
from migrate.ollama.conversation import SPACES
from migrate.ollama.tool_calls import tool_call_id

if TYPE_CHECKING:
    from migrate.gateway.serving import Clock

_IMAGE_TYPES = {"/9j/": "image/jpeg", "iVBORw0KGgo": "image/png", "UklGR": "image/webp", "R0lGOD": "image/gif"}
"""Beginning of the base64 text of an image, and what it is."""


def body(
    model: ServedModel,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    wanted: Format,
    think: Think,
    top_logprobs: int | None,
    *,
    prompt_tokens: int | None,
) -> dict[str, Any]:
    """`prompt_tokens` None: not known, because of images.

    vLLM's template puts SYSTEM and MESSAGE before the messages itself, but for gpt-oss, whose prompts are code.
    """
    if model.is_harmony:
        messages = model.prompts.messages(messages)
    request: dict[str, Any] = {
        "model": model.served_name,
        "messages": [_with_images(out, message) for out, message in zip(to_openai(messages), messages, strict=True)],
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling.body,
        **structured(wanted),
    }
    if prompt_tokens is not None and not model.is_harmony:
        request["max_tokens"] = max_tokens(model, prompt_tokens, sampling)
    elif sampling.num_predict:
        request["max_tokens"] = min(sampling.num_predict, model.max_model_len)  # vLLM ends it where there is no room
    if tools:
        # Ollama takes any type, or none; vLLM knows functions only
        request |= {"tools": [{**tool, "type": "function"} for tool in tools], "tool_choice": "auto"}
    kwargs: dict[str, Any] = {}
    if model.variant is not None:
        kwargs["migrate_variant"] = model.variant
    if isinstance(think, str):
        kwargs |= {"enable_thinking": True, "reasoning_effort": think}
        if model.is_harmony:
            request["reasoning_effort"] = think
    elif think is not None:
        kwargs["enable_thinking"] = think
    if kwargs:
        request["chat_template_kwargs"] = kwargs
    if top_logprobs is not None:
        request |= {"logprobs": True, "top_logprobs": max(top_logprobs, 1)}
    return request


def _with_images(out: dict[str, Any], message: Message) -> dict[str, Any]:
    if message.get("thinking"):
        out["reasoning"] = message["thinking"]
    if images := message.get("images"):
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": data_uri(image)}} for image in images]
        out["content"] = [*parts, {"type": "text", "text": out["content"]}]
    return out


def data_uri(image: str) -> str:
    """An image of Ollama's API, base64, as a data URI. Raises ApiError 400 for what is none of the usual kinds."""
    for start, media_type in _IMAGE_TYPES.items():
        if image.startswith(start):
            return f"data:{media_type};base64,{image}"
    raise ApiError(400, "an image is neither JPEG, PNG, WebP nor GIF")


async def chunks(
    events: AsyncIterator[Mapping[str, Any]], clock: Clock, top_logprobs: int | None
) -> AsyncGenerator[Chunk]:
    """Pieces of an answer; tool calls come whole, before the end, as Ollama sends them."""
    reason, usage = "", None
    calls: dict[int, _Call] = {}
    spaces = _Spaces()
    async for event in events:
        clock.first = clock.first or time.perf_counter_ns()
        try:
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {}
                for call in delta.get("tool_calls") or ():
                    calls.setdefault(int(call.get("index") or 0), _Call()).add(call)
                chunk = Chunk(
                    thinking=spaces.thinking(delta.get("reasoning") or delta.get("reasoning_content") or ""),
                    content=spaces.content(delta.get("content") or ""),
                    logprobs=_logprobs(choice.get("logprobs"), top_logprobs),
                )
                if choice.get("finish_reason"):
                    reason = done_reason(choice["finish_reason"])
                if chunk.content or chunk.thinking or (chunk.logprobs and not reason):
                    yield chunk
            if event.get("usage"):
                usage = (int(event["usage"]["prompt_tokens"]), int(event["usage"]["completion_tokens"]))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UpstreamError(500, BROKEN.format(detail=f"an event is not vLLM's: {error!r}")) from None
    if usage is None or not reason:
        raise UpstreamError(500, BROKEN.format(detail="the answer of the model server has no end"))
    if calls:
        yield Chunk(tool_calls=tuple(call.made(number) for number, (_, call) in enumerate(sorted(calls.items()))))
    elif left := spaces.left:
        yield Chunk(content=left)
    yield Chunk(done=True, done_reason=reason, metrics=clock.metrics(*usage))


class _Spaces:
    """White space between the parts of an answer, which Ollama's parsers take away and vLLM's leave: around reasoning,
    between reasoning and text, and between text and a tool call (model/parsers/qwen35.go, qwen3coder.go)."""

    def __init__(self) -> None:
        self._thinks = self._thought = self._said = False
        self._after_thinking = self.left = ""

    def thinking(self, text: str) -> str:
        if not text:
            return ""
        self._thinks = True
        text = self._after_thinking + text
        kept = (text if self._thought else text.lstrip(SPACES)).rstrip(SPACES)
        self._after_thinking = text[len(text.rstrip(SPACES)) :]
        self._thought = self._thought or bool(kept)
        return kept

    def content(self, text: str) -> str:
        if not text:
            return ""
        text = self.left + text
        if self._thinks and not self._said:
            text = text.lstrip(SPACES)
        kept = text.rstrip(SPACES)
        self.left = text[len(kept) :]
        self._said = self._said or bool(kept)
        return kept


class _Call:
    """A tool call that comes in pieces."""

    def __init__(self) -> None:
        self._name = ""
        self._arguments = ""

    def add(self, delta: Mapping[str, Any]) -> None:
        function = delta.get("function") or {}
        self._name = function.get("name") or self._name
        self._arguments += function.get("arguments") or ""

    def made(self, index: int) -> ToolCall:
        try:
            arguments = json.loads(self._arguments or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise UpstreamError(
                500, BROKEN.format(detail=f"the arguments of a call of {self._name!r} are no JSON object")
            )
        return ToolCall(self._name, arguments, tool_call_id(), index)


def _logprobs(given: Mapping[str, Any] | None, top: int | None) -> list[dict[str, Any]]:
    if not given or top is None:
        return []
    found = []
    for entry in given.get("content") or ():
        shown = _token(entry)
        if top:
            shown["top_logprobs"] = [_token(other) for other in entry.get("top_logprobs") or ()][:top]
        found.append(shown)
    return found


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"token": entry["token"], "logprob": entry["logprob"]}
    if entry["token"]:
        shown["bytes"] = list(entry["token"].encode("utf-8", "replace"))
    return shown
