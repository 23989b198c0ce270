"""OpenAI's and Anthropic's routes: with Ollama's semantics, or passed on to vLLM with the names put right.

As Ollama's middleware does, the first kind is a translation: the request becomes one of Ollama's own, the answer is
written from its pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

from pydantic_core import from_json, to_json

from migrate.gateway import anthropic, embedding, go_wire, native, openai, responses, wire
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import ServedModel
from migrate.gateway.endpoint import LARGE, ErrorReply, Handler
from migrate.gateway.passing import body_of
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.serving import Answering
from migrate.gateway.types import ApiError, Chunk
from migrate.gateway.upstreams import JSON, UpstreamError

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream"
LARGE_NUMBERS = 20_000

Request = TypeVar("Request")

Running = tuple[Handler, ErrorReply]
"""What answers a route that runs a model, and how it writes errors."""


class Stream(Protocol):
    """Writes the events of one answer."""

    def feed(self, chunk: Chunk) -> bytes: ...

    def end(self, message: str | None = None, status: int = 500) -> bytes: ...


class Untranslated(ApiError):
    """A request that could not be read. Ollama's middleware answers it itself, as its own routes do: with a charset."""


def openai_error(error: ApiError) -> Reply:
    """OpenAI's form of an error."""
    return _error(error, openai.error(error.status, error.message))


def anthropic_error(error: ApiError) -> Reply:
    """Anthropic's form of an error."""
    return _error(error, anthropic.error(error.status, error.message))


def _error(error: ApiError, content: Mapping[str, Any]) -> Reply:
    if isinstance(error, Untranslated):
        return Reply(error.status, wire.JSON_TYPE, go_wire.encode(content).encode())
    return Reply(error.status, JSON_TYPE, go_wire.body(content))


def running(semantics: Literal["ollama", "vllm"]) -> dict[str, Running]:
    """The routes that run a model: what answers, and how errors are written."""
    if semantics == "vllm":
        found: dict[str, Running] = {}
        passed = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
        found |= {path: (_passing(path), openai_error) for path in passed}
        found |= {path: (_passing(path), anthropic_error) for path in ("/v1/messages", "/v1/messages/count_tokens")}
        return found
    return {
        "/v1/chat/completions": (chat, openai_error),
        "/v1/completions": (completions, openai_error),
        "/v1/embeddings": (embeddings, openai_error),
        "/v1/responses": (respond, openai_error),
        "/v1/messages": (messages, anthropic_error),
    }


# ---- with Ollama's semantics -----------------------------------------------------------------------------------------


async def chat(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/chat/completions."""
    request = await _translated(openai.chat_request, body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = openai.ChatStream(request.model, include_usage=openai.include_usage(body)) if request.stream else None
    return await _answer(answering, outcome, stream, lambda chunk: openai.chat_reply(request.model, chunk))


async def completions(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/completions: the prompt goes through the model's template, as in Ollama."""
    request = await _translated(openai.completion_request, body)
    model = backend.catalog.require(request.model)
    answering = await backend.serving.generate(model, request)
    usage = openai.include_usage(body)
    stream = openai.CompletionStream(request.model, include_usage=usage) if request.stream else None
    return await _answer(answering, outcome, stream, lambda chunk: openai.completion_reply(request.model, chunk))


async def embeddings(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/embeddings."""
    request = await _translated(openai.embed_request, body)
    model = embedding.require(backend.catalog, request.model)
    found = await embedding.embed(model, request, backend.upstreams)
    outcome.prompt_tokens = found.metrics.prompt_eval_count
    vectors = [vector.tolist() for vector in found.vectors]
    encoding = openai.encoding_format(body)

    def written() -> bytes:
        return go_wire.body(openai.embed_reply(request.model, vectors, outcome.prompt_tokens, encoding))

    large = sum(map(len, vectors)) > LARGE_NUMBERS
    return Reply(200, JSON_TYPE, await asyncio.to_thread(written) if large else written())


async def respond(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/responses."""
    request = await _translated(responses.responses_request, body)
    given = await _translated(responses.decoded, body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = responses.ResponseStream(request.model, given) if request.stream else None
    return await _answer(
        answering, outcome, stream, lambda chunk: responses.response_reply(request.model, chunk, given)
    )


async def messages(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/messages."""
    request = await _translated(anthropic.messages_request, body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = None
    if request.stream:
        estimated = anthropic.estimate_input_tokens(body)
        stream = anthropic.MessageStream(request.model, estimated_input_tokens=estimated)
    return await _answer(answering, outcome, stream, lambda chunk: anthropic.messages_reply(request.model, chunk))


async def _translated(translate: Callable[[bytes], Request], body: bytes) -> Request:
    """A request in Ollama's form; of a large body off the event loop. Raises Untranslated, a 400 of its own form."""
    try:
        if len(body) > LARGE:
            return await asyncio.to_thread(translate, body)
        return translate(body)
    except ApiError as error:
        raise Untranslated(error.status, error.message) from None


def _required(backend: Backend, name: str) -> ServedModel:
    if not name:
        raise ApiError(400, "model is required")
    return backend.catalog.require(name)


async def _answer(
    answering: Answering, outcome: Outcome, stream: Stream | None, whole: Callable[[Chunk], Mapping[str, Any]]
) -> Reply:
    """The first piece is waited for, so that an error before it has its own status."""
    outcome.notes, outcome.overhead = answering.notes, answering.overhead
    chunks = answering.chunks
    if stream is None:
        pieces = [chunk async for chunk in chunks]
        for chunk in pieces:
            native.count(chunk, outcome)
        return Reply(200, JSON_TYPE, go_wire.body(whole(wire.whole(pieces))))
    first = await anext(chunks, None)
    headers = (
        [] if isinstance(stream, openai.ChatStream | openai.CompletionStream) else [(b"cache-control", b"no-cache")]
    )
    return Reply(200, SSE_TYPE, _events(first, chunks, stream, outcome), headers)


async def _events(
    first: Chunk | None, chunks: AsyncGenerator[Chunk], stream: Stream, outcome: Outcome
) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(chunks):
        try:
            if first is not None:
                native.count(first, outcome)
                if event := stream.feed(first):
                    yield event
                async for chunk in chunks:
                    native.count(chunk, outcome)
                    if event := stream.feed(chunk):
                        yield event
            if event := stream.end():
                yield event
        except ApiError as error:
            outcome.failed = isinstance(error, UpstreamError)
            if event := stream.end(error.message, error.status):
                yield event


# ---- passed on to vLLM ----------------------------------------------------------------------------------------------


def _passing(path: str) -> Handler:
    """vLLM's own route, under the model's name there. The bundle's middleware fills in the model's defaults by it."""

    async def handler(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        request = _object(body)
        name = request.get("model")
        model = _required(backend, name if isinstance(name, str) else "")
        request["model"] = model.served_name
        stack = contextlib.AsyncExitStack()
        try:
            response = await stack.enter_async_context(
                backend.upstreams.send(model.upstream, "POST", path, content=to_json(request), headers=JSON)
            )
        except BaseException:
            await stack.aclose()
            raise
        outcome.failed = response.status_code >= 500
        pieces = body_of(backend, response, stack, outcome)
        return Reply(response.status_code, response.headers.get("content-type", ""), pieces)

    return handler


def _object(body: bytes) -> dict[str, Any]:
    try:
        request = from_json(body)
    except ValueError as error:
        raise ApiError(400, f"the request is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise ApiError(400, "the request is no JSON object")
    return request


# ---- lists ----------------------------------------------------------------------------------------------------------


async def models(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """GET /v1/models."""
    listed = sorted(backend.catalog.models, key=lambda model: model.modified_at, reverse=True)
    reply = openai.models_reply((model.name.short, _created(model), _owner(model)) for model in listed)
    return Reply(200, JSON_TYPE, go_wire.body(reply))


def model(name: str) -> Handler:
    """GET /v1/models/{name}."""

    async def handler(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        found = native.find_shown(backend, name)
        return Reply(200, JSON_TYPE, go_wire.body(openai.model_reply(name, _created(found), _owner(found))))

    return handler


def _created(model: ServedModel) -> int:
    return int(datetime.datetime.fromisoformat(model.modified_at).timestamp())


def _owner(model: ServedModel) -> str:
    return model.name.namespace
