"""What passes between the parts of the gateway: a request as Ollama decodes it, and an answer piece by piece.

Every protocol (Ollama's own, OpenAI's, Anthropic's) is translated to these requests and written from these answers, as
Ollama's own middleware does (api/types.go, middleware/openai.go, middleware/anthropic.go, read at 0.33).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
"""role, content, thinking, images (base64 texts), tool_calls, tool_name, tool_call_id."""

Think = bool | str | None
"""The request's `think`: true, false, "low", "medium", "high", "max"; None when it was not sent."""

Format = Literal["json"] | Mapping[str, Any] | None
"""Structured output: any JSON object, or a JSON schema."""


class ApiError(Exception):
    """An answer with an error status, before anything was written. `message` is what the client reads."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """POST /api/chat.

    `keep_alive` is in seconds, None when it was not sent, infinite when negative. `relax_thinking`: `think` on a model
    that cannot is dropped instead of refused (Anthropic's route).
    """

    model: str
    messages: Sequence[Message] = ()
    tools: Sequence[Mapping[str, Any]] = ()
    format: Format = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    think: Think = None
    keep_alive: float | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = False
    relax_thinking: bool = False


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """POST /api/generate. `context` is None when it was not sent."""

    model: str
    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: Sequence[int] | None = None
    raw: bool = False
    images: Sequence[str] = ()
    format: Format = None
    options: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = True
    think: Think = None
    keep_alive: float | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0
    debug_render_only: bool = False


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """POST /api/embed. `dimensions` 0: all."""

    model: str
    input: Sequence[str] = ()
    truncate: bool = True
    dimensions: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive: float | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` keeps the order the model wrote them in. `id` is "" where there is none yet."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True)
class Metrics:
    """Durations in nanoseconds; tokens counted by the server that made them."""

    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer; the last one is `done` and carries `done_reason` and `metrics`.

    `done_reason` is stop, length, load or unload. `logprobs` are as /api/chat has them: token, logprob, bytes,
    top_logprobs. `context` are the tokens of prompt and answer, in the last piece of /api/generate. `rendered` is the
    prompt of `_debug_render_only`, which is the whole answer then.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: Sequence[ToolCall] = ()
    logprobs: Sequence[Mapping[str, Any]] = ()
    done: bool = False
    done_reason: str = ""
    metrics: Metrics = Metrics()
    context: Sequence[int] | None = None
    rendered: str | None = None
    image_count: int = 0
