"""What of a long conversation the model gets to see: whole old messages go first, then tokens from the middle.

Facts: server/prompt.go (chatPrompt), server/routes.go (truncateNativeChatMessages) and llm/llama_server.go
(completionPromptForRequest, contextShiftPromptLimit) of Ollama 0.33.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrate.gateway.catalog import ServedModel
from migrate.gateway.sampling import Sampling
from migrate.gateway.tokens import THREAD_CHARACTERS
from migrate.gateway.types import ApiError, Message, Think

IMAGE_TOKENS = 768
"""What Ollama counts for an image, whatever its size."""
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_BESIDE = 64
"""Messages and tools from which a prompt is written beside the event loop: some 5 ms."""
_MOST_TRIES = 512
"""Prompts that are written one after the other in search of the one that fits: Ollama has no limit."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`dropped` messages at the front are gone, but for the system ones among them, which head `messages`."""

    prompt: str
    messages: Sequence[Message]
    dropped: int


async def chat_prompt(
    model: ServedModel,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    think: Think,
    num_ctx: int,
    *,
    truncate: bool,
) -> Kept:
    """The prompt of as many of the last messages as fit into `num_ctx` tokens; of the last one at least.

    Only the prompt counts: no room is kept for the answer. Raises ApiError where the template fails.
    """
    large = len(messages) + len(tools) >= _BESIDE
    render = model.prompts.render
    prompt = await asyncio.to_thread(render, messages, tools, think) if large else render(messages, tools, think)
    if not truncate or len(messages) < 2 or await _fits(model, prompt, messages, num_ctx):
        return Kept(prompt, messages, 0)
    search = _Search(model, messages, tools, think, num_ctx)
    return await asyncio.to_thread(search) if large or len(prompt) > THREAD_CHARACTERS else search()


class _Search:
    """The fewest messages to drop so that the rest fits; the count of tokens does not grow as messages go.

    Ollama tries one after the other. Some templates refuse conversations that begin in the middle, without a user's
    message, say: as soon as one does, the rest is tried in Ollama's order, which ends with what fits or that error.
    """

    def __init__(
        self,
        model: ServedModel,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        think: Think,
        num_ctx: int,
    ) -> None:
        self._model, self._messages, self._tools, self._think, self._num_ctx = model, messages, tools, think, num_ctx

    def __call__(self) -> Kept:
        low, high = 1, len(self._messages) - 1
        while low < high:
            middle = (low + high) // 2
            try:
                fits = self._fits(*self._without(middle))
            except ApiError:
                if high - low > _MOST_TRIES:
                    raise
                return self._one_by_one(low)
            if fits:
                high = middle
            else:
                low = middle + 1
        return Kept(*self._without(high), high)

    def _one_by_one(self, dropped: int) -> Kept:
        prompt, kept = self._without(dropped)
        while dropped < len(self._messages) - 1 and not self._fits(prompt, kept):
            dropped += 1
            prompt, kept = self._without(dropped)
        return Kept(prompt, kept, dropped)

    def _fits(self, prompt: str, kept: Sequence[Message]) -> bool:
        return len(self._model.tokens.encode(prompt)) + _images(self._model, kept) <= self._num_ctx

    def _without(self, dropped: int) -> tuple[str, Sequence[Message]]:
        system = [message for message in self._messages[:dropped] if message["role"] == "system"]
        kept = [*system, *self._messages[dropped:]]
        return self._model.prompts.render(kept, self._tools, self._think), kept


async def _fits(model: ServedModel, prompt: str, messages: Sequence[Message], num_ctx: int) -> bool:
    if len(prompt.encode()) + _images(model, messages) <= num_ctx:
        return True  # a token has at least one byte
    return len(await model.tokens.encode_beside(prompt)) + _images(model, messages) <= num_ctx


def _images(model: ServedModel, messages: Sequence[Message]) -> int:
    if "vision" not in model.capabilities:
        return 0
    return IMAGE_TOKENS * sum(len(message.get("images") or ()) for message in messages)


def cut(model: ServedModel, ids: list[int], sampling: Sampling, *, truncate: bool, shift: bool) -> list[int]:
    """The tokens of a prompt, BOS included, that fit: the first num_keep, and the last of what is left.

    Raises ApiError 400 for a prompt that is too long when nothing may be cut.
    """
    limit = sampling.num_ctx - 1
    if truncate and limit >= 1 and len(ids) > limit:
        if not shift:
            raise ApiError(400, TOO_LONG)
        keep, room = _keep(model, sampling), shifted(model, sampling)
        return ids[:keep] + ids[keep + len(ids) - room :]
    if len(ids) >= sampling.num_ctx:
        raise ApiError(400, refused_too_long(len(ids), sampling.num_ctx))
    return ids


def _keep(model: ServedModel, sampling: Sampling) -> int:
    limit = sampling.num_ctx - 1
    return min(sampling.num_keep + (1 if model.source.adds_bos else 0), limit) if sampling.num_keep >= 0 else limit


def shifted(model: ServedModel, sampling: Sampling) -> int:
    """Tokens that are left of a prompt that was too long: half of what num_keep leaves goes."""
    return sampling.num_ctx - max((sampling.num_ctx - _keep(model, sampling)) // 2, 1)


def refused_too_long(tokens: int, context: int) -> str:
    """What llama-server answers, which Ollama hands on as it is."""
    return (
        f'{{"error":{{"code":400,"message":"request ({tokens} tokens) exceeds the available context size '
        f'({context} tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":{tokens},'
        f'"n_ctx":{context}}}}}'
    )
