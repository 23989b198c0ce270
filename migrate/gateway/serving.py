"""A request to an answer: checks, prompt, vLLM, pieces. The order of the checks and their texts are Ollama's.

Facts: ChatHandler and GenerateHandler in server/routes.go of Ollama 0.33.

Prompts are written here and sent as token ids to /v1/completions, as Ollama sends them to llama-server; so every
variant has its own template, `raw`, `template`, `suffix` and `context` mean what they mean in Ollama, and the model
reads what it read there. Two kinds of request go to vLLM's /v1/chat/completions instead: those with images, and those
whose answers one of Ollama's built-in parsers would read (PARSER, or the GGUF's own template with tools or reasoning).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from migrate.gateway import completions, conversations, truncation
from migrate.gateway.catalog import ServedModel
from migrate.gateway.config import Config
from migrate.gateway.decode import check_format, check_options
from migrate.gateway.reading import AnswerReader
from migrate.gateway.sampling import Sampling, sampling
from migrate.gateway.types import ApiError, ChatRequest, Chunk, Format, GenerateRequest, Message, Metrics, Think
from migrate.gateway.upstreams import Upstreams

log = logging.getLogger("migrate.gateway")


@dataclass(slots=True)
class Clock:
    """When the parts of an answer began, in nanoseconds of a monotonic clock; 0: not yet."""

    started: int
    sent: int = 0
    first: int = 0

    def metrics(self, prompt_tokens: int, answer_tokens: int) -> Metrics:
        """As measured here: up to the first token counts as reading the prompt, the rest as writing the answer."""
        ended = time.perf_counter_ns()
        first = self.first or ended
        return Metrics(
            total_duration=ended - self.started,
            load_duration=max(self.sent - self.started, 1),
            prompt_eval_count=prompt_tokens,
            prompt_eval_duration=max(first - self.sent, 1),
            eval_count=answer_tokens,
            eval_duration=max(ended - first, 1),
        )


@dataclass(slots=True)
class Answering:
    """One request on its way. `notes`: option -> what became of it, for the log and a header."""

    model: ServedModel
    clock: Clock
    notes: Mapping[str, str]
    chunks: AsyncGenerator[Chunk]

    @property
    def overhead(self) -> float:
        """Seconds from the request's arrival to now, when all is ready to ask the server behind."""
        return (time.perf_counter_ns() - self.clock.started) / 1e9


class Serving:
    """Answers requests for the models of a catalog."""

    def __init__(self, config: Config, upstreams: Upstreams) -> None:
        self._config = config
        self._upstreams = upstreams

    # ---- /api/chat --------------------------------------------------------------------------------------------------

    async def chat(self, model: ServedModel, request: ChatRequest) -> Answering:
        """Everything up to the first word. Raises ApiError."""
        clock = Clock(time.perf_counter_ns())
        if not request.messages and request.keep_alive == 0:
            return _single(model, clock, Chunk(done=True, done_reason="unload"))
        think = _think(model, request.model, request.think, relax=request.relax_thinking)
        _require(model, "completion", f'"{request.model}" does not support chat')
        if request.tools:
            _require(model, "tools")
        options = self._options(model, request.options)
        if not request.messages:
            return _single(model, clock, Chunk(done=True, done_reason="load"))
        messages = model.prompts.messages(request.messages)
        kept = await truncation.chat_prompt(
            model, messages, request.tools, think, options.num_ctx, truncate=request.truncate
        )
        images = sum(len(message.get("images") or ()) for message in kept.messages)
        if request.debug_render_only:
            return _single(model, clock, Chunk(rendered=kept.prompt, image_count=images))
        ask = _Ask(
            options,
            check_format(request.format),
            think,
            # of a chat by the GGUF's own template Ollama cuts no tokens: llama-server refuses one that is too long
            truncate=request.truncate and model.source.prompt_path != "gguf_jinja",
            shift=request.shift,
            top_logprobs=request.top_logprobs if request.logprobs else None,
        )
        if images or self._needs_parser(model, request.tools, think):
            if request.truncate and not images and await self._is_full(model, kept.prompt, options):
                room = truncation.shifted(model, options) - 1
                kept = await truncation.chat_prompt(model, messages, request.tools, think, room, truncate=True)
            # vLLM's template adds SYSTEM unless the first message is one, as the first that was kept is
            cut = kept.dropped > len(messages) - len(request.messages)
            own = kept.messages if cut else request.messages
            chunks = self._conversation(model, clock, ask, own, request.tools, kept.prompt, images)
            return Answering(model, clock, options.notes, chunks)
        ids = await self._ids(model, kept.prompt, ask)
        chunks = self._chat(model, clock, ask, kept, request.tools, ids)
        return Answering(model, clock, options.notes, chunks)

    async def _chat(
        self,
        model: ServedModel,
        clock: Clock,
        ask: _Ask,
        kept: truncation.Kept,
        tools: Sequence[Mapping[str, Any]],
        ids: list[int],
    ) -> AsyncGenerator[Chunk]:
        """With a `format` on a model that thinks, Ollama asks twice: freely until the reasoning is over, then again
        with the reasoning as the beginning of the answer and the format in force."""
        reader = AnswerReader.for_chat(
            tags=model.thinking_tags, think=ask.think, prompt=kept.prompt, tools=tools, tag=model.tool_tag
        )
        twice = ask.format is not None and reader.thinks and "thinking" in model.capabilities
        reader.constrain = twice
        thought: list[str] = []
        async with aclosing(
            self._complete(model, clock, replace(ask, format=None) if twice else ask, ids, reader)
        ) as read:
            async for chunk in read:
                thought.append(chunk.thinking)
                yield chunk
        if not reader.switched:
            return
        reader.again()
        messages = [*kept.messages, {"role": "assistant", "content": "", "thinking": "".join(thought)}]
        again = await truncation.chat_prompt(
            model, messages, tools, ask.think, ask.sampling.num_ctx, truncate=ask.truncate
        )
        ids = await self._ids(model, again.prompt, ask)
        async with aclosing(self._complete(model, clock, ask, ids, reader)) as read:
            async for chunk in read:
                yield chunk

    # ---- /api/generate ----------------------------------------------------------------------------------------------

    async def generate(self, model: ServedModel, request: GenerateRequest) -> Answering:
        """Everything up to the first word. Raises ApiError."""
        clock = Clock(time.perf_counter_ns())
        if not request.prompt and request.keep_alive == 0:
            return _single(model, clock, Chunk(done=True, done_reason="unload"))
        if request.raw and (request.template or request.system or request.context):
            raise ApiError(400, "raw mode does not support template, system, or context")
        think = _think(model, request.model, request.think)
        _require(model, "completion", f'"{request.model}" does not support generate')
        if request.suffix:
            _require(model, "insert")
        options = self._options(model, request.options)
        if not request.prompt:
            return _single(model, clock, Chunk(done=True, done_reason="load"))
        prompt = await self._generate_prompt(model, request, think, options)
        if request.debug_render_only:
            return _single(model, clock, Chunk(rendered=prompt, image_count=len(request.images)))
        ask = _Ask(
            options,
            check_format(request.format),
            think,
            truncate=request.truncate,
            shift=request.shift,
            top_logprobs=request.top_logprobs if request.logprobs else None,
            own_prompt=not (request.raw or request.template or request.suffix),
        )
        plain = not (request.raw or request.template or request.suffix or request.context)
        if request.images and not (plain and (request.context is None or not model.source.messages)):
            raise ApiError(400, "images with raw, suffix, template or context cannot be sent to vLLM")
        if request.images or (plain and model.parses_thinking):
            system: list[Message] = [{"role": "system", "content": request.system}] if request.system else []
            chunks = self._conversation(model, clock, ask, [*system, _user(request)], (), prompt, len(request.images))
            return Answering(model, clock, options.notes, chunks)
        ids = await self._ids(model, prompt, ask)
        chunks = self._generate(model, clock, ask, prompt, ids, raw=request.raw)
        return Answering(model, clock, options.notes, chunks)

    async def _generate_prompt(
        self, model: ServedModel, request: GenerateRequest, think: Think, options: Sampling
    ) -> str:
        prompts = model.prompts
        if request.raw:
            return request.prompt
        before = model.tokens.decode(request.context) if request.context is not None else ""
        if request.suffix:
            return before + await asyncio.to_thread(
                prompts.render_suffix, request.template, request.prompt, request.suffix, think
            )
        messages = prompts.messages([_user(request)], system=request.system, with_model=request.context is None)
        if request.template:
            return before + await asyncio.to_thread(prompts.render_template, request.template, messages, think)
        kept = await truncation.chat_prompt(model, messages, (), think, options.num_ctx, truncate=request.truncate)
        return before + kept.prompt

    async def _generate(
        self, model: ServedModel, clock: Clock, ask: _Ask, prompt: str, ids: list[int], *, raw: bool
    ) -> AsyncGenerator[Chunk]:
        reader = AnswerReader.for_generate(tags=model.thinking_tags, think=ask.think, prompt=prompt)
        text: list[str] = []
        async with aclosing(self._complete(model, clock, ask, ids, reader, text)) as read:
            async for chunk in read:
                if chunk.done and not raw:
                    chunk = replace(chunk, context=await model.tokens.encode_beside(prompt + "".join(text)))
                yield chunk

    # ---- shared -----------------------------------------------------------------------------------------------------

    def _options(self, model: ServedModel, options: Mapping[str, Any]) -> Sampling:
        known, unknown = check_options(options)
        for name in unknown:
            log.info("%s: option %.80r is not one of Ollama's: ignored", model.name.short, name)
        return sampling(model, known)

    def _needs_parser(self, model: ServedModel, tools: Sequence[Any], think: Think) -> bool:
        if not model.reads_with_vllm:
            return False
        return bool(tools) or "thinking" in model.capabilities or model.is_harmony

    async def _is_full(self, model: ServedModel, prompt: str, options: Sampling) -> bool:
        """Whether the prompt leaves no room for an answer. Ollama cuts tokens out of its middle then; what goes by
        vLLM's own template can lose whole messages only."""
        return len(await model.tokens.encode_beside(model.prompts.with_bos(prompt))) >= options.num_ctx

    async def _ids(self, model: ServedModel, prompt: str, ask: _Ask) -> list[int]:
        text = model.prompts.with_bos(prompt, own=ask.own_prompt)
        ids = await model.tokens.encode_beside(text)
        return truncation.cut(model, ids, ask.sampling, truncate=ask.truncate, shift=ask.shift)

    async def _complete(
        self,
        model: ServedModel,
        clock: Clock,
        ask: _Ask,
        ids: list[int],
        reader: AnswerReader,
        text: list[str] | None = None,
    ) -> AsyncGenerator[Chunk]:
        body = completions.body(model, ids, ask.sampling, ask.format, ask.top_logprobs, shift=ask.shift)
        clock.sent = clock.sent or time.perf_counter_ns()
        events = self._upstreams.stream(model.upstream, "/v1/completions", body)
        async with aclosing(events), aclosing(completions.pieces(model, events, ask.top_logprobs)) as pieces:
            async for piece in pieces:
                clock.first = clock.first or time.perf_counter_ns()
                if piece.usage is not None:
                    metrics = clock.metrics(*piece.usage)
                    for chunk in reader.finish(piece.done_reason, metrics):
                        yield chunk
                    return
                if text is not None:
                    text.append(piece.text)
                for chunk in reader.add(piece.text, piece.logprobs):
                    yield chunk
                if reader.stuck or reader.switched:
                    return

    async def _conversation(
        self,
        model: ServedModel,
        clock: Clock,
        ask: _Ask,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: str,
        images: int,
    ) -> AsyncGenerator[Chunk]:
        """By vLLM's own template and parsers. Raises ApiError 400 for a prompt that is too long."""
        count = None if images else len(await model.tokens.encode_beside(model.prompts.with_bos(prompt)))
        if count is not None and count >= model.max_model_len and not model.is_harmony:
            raise ApiError(400, truncation.refused_too_long(count, model.max_model_len))
        body = conversations.body(
            model,
            messages,
            tools,
            ask.sampling,
            ask.format,
            ask.think,
            ask.top_logprobs,
            prompt_tokens=count,
        )
        clock.sent = clock.sent or time.perf_counter_ns()
        events = self._upstreams.stream(model.upstream, "/v1/chat/completions", body)
        async with aclosing(events), aclosing(conversations.chunks(events, clock, ask.top_logprobs)) as read:
            async for chunk in read:
                yield chunk


@dataclass(frozen=True, slots=True)
class _Ask:
    """How an answer is asked for. `own_prompt`: it was written by the model's template or renderer."""

    sampling: Sampling
    format: Format
    think: Think
    truncate: bool
    shift: bool
    top_logprobs: int | None
    own_prompt: bool = True


def _think(model: ServedModel, asked: str, think: Think, *, relax: bool = False) -> Think:
    """On unless the request says otherwise, for a model that can. Raises ApiError 400 for one that cannot."""
    if "thinking" in model.capabilities:
        think = True if think is None else think
        return "high" if model.is_harmony and think == "max" else think
    if think and not relax:
        raise ApiError(400, f'"{asked}" does not support thinking')
    return None if think else think


def _require(model: ServedModel, capability: str, message: str | None = None) -> None:
    if capability not in model.capabilities:
        raise ApiError(400, message or f"{model.name} does not support {capability}")


def _user(request: GenerateRequest) -> Message:
    return {"role": "user", "content": request.prompt, "images": list(request.images)}


def _single(model: ServedModel, clock: Clock, chunk: Chunk) -> Answering:
    async def only() -> AsyncGenerator[Chunk]:
        yield chunk

    return Answering(model, clock, {}, only())
