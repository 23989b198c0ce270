"""OpenAI's and Anthropic's routes: with Ollama's semantics, or passed on to vLLM with the names put right.

As Ollama's middleware does, the first kind is a translation: the request becomes one of Ollama's own, the answer is
written from its pieces.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Literal, Protocol

from pydantic_core import from_json, to_json

from migrate.gateway import anthropic, embedding, native, openai, responses, wire
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import ServedModel
from migrate.gateway.endpoint import ErrorReply, Handler
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.serving import Answering
from migrate.gateway.types import ApiError, Chunk
from migrate.gateway.upstreams import JSON, UpstreamError

JSON_TYPE = "application/json"
SSE_TYPE = "text/event-stream"

Running = tuple[Handler, ErrorReply]
"""What answers a route that runs a model, and how it writes errors."""


class Stream(Protocol):
    """Writes the events of one answer."""

    def feed(self, chunk: Chunk) -> bytes: ...

    def end(self, message: str | None = None, status: int = 500) -> bytes: ...


def openai_error(status: int, message: str) -> Reply:
    return Reply(status, JSON_TYPE, wire.go_json(openai.error(status, message)) + b"\n")


def anthropic_error(status: int, message: str) -> Reply:
    return Reply(status, JSON_TYPE, wire.go_json(anthropic.error(status, message)) + b"\n")


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
    request = openai.chat_request(body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = openai.ChatStream(request.model, include_usage=openai.include_usage(body)) if request.stream else None
    return await _answer(answering, outcome, stream, lambda chunk: openai.chat_reply(request.model, chunk))


async def completions(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/completions: the prompt goes through the model's template, as in Ollama."""
    request = openai.completion_request(body)
    model = _required(backend, request.model)
    answering = await backend.serving.generate(model, request)
    usage = openai.include_usage(body)
    stream = openai.CompletionStream(request.model, include_usage=usage) if request.stream else None
    return await _answer(answering, outcome, stream, lambda chunk: openai.completion_reply(request.model, chunk))


async def embeddings(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/embeddings."""
    request = openai.embed_request(body)
    model = _required(backend, request.model)
    found = await embedding.embed(model, request, backend.upstreams)
    outcome.prompt_tokens = found.metrics.prompt_eval_count
    vectors = [vector.tolist() for vector in found.vectors]
    reply = openai.embed_reply(request.model, vectors, outcome.prompt_tokens, openai.encoding_format(body))
    return Reply(200, JSON_TYPE, wire.go_json(reply) + b"\n")


async def respond(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/responses."""
    request, given = responses.responses_request(body), responses.decoded(body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = responses.ResponseStream(request.model, given) if request.stream else None
    return await _answer(
        answering, outcome, stream, lambda chunk: responses.response_reply(request.model, chunk, given)
    )


async def messages(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /v1/messages."""
    request = anthropic.messages_request(body)
    model = _required(backend, request.model)
    answering = await backend.serving.chat(model, request)
    stream = None
    if request.stream:
        estimated = anthropic.estimate_input_tokens(body)
        stream = anthropic.MessageStream(request.model, estimated_input_tokens=estimated)
    return await _answer(answering, outcome, stream, lambda chunk: anthropic.messages_reply(request.model, chunk))


def _required(backend: Backend, name: str) -> ServedModel:
    if not name:
        raise ApiError(400, "model is required")
    return backend.catalog.require(name)


async def _answer(
    answering: Answering, outcome: Outcome, stream: Stream | None, whole: Callable[[Chunk], Mapping[str, Any]]
) -> Reply:
    """The first piece is waited for, so that an error before it has its own status."""
    outcome.notes = answering.notes
    chunks = answering.chunks
    if stream is None:
        pieces = [chunk async for chunk in chunks]
        for chunk in pieces:
            native.count(chunk, outcome)
        return Reply(200, JSON_TYPE, wire.go_json(whole(wire.whole(pieces))) + b"\n")
    first = await anext(chunks, None)
    return Reply(200, SSE_TYPE, _events(first, chunks, stream, outcome))


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
        return Reply(response.status_code, response.headers.get("content-type", ""), _pieces(response, stack, outcome))

    return handler


def _object(body: bytes) -> dict[str, Any]:
    try:
        request = from_json(body)
    except ValueError as error:
        raise ApiError(400, f"the request is no JSON: {error}") from None
    if not isinstance(request, dict):
        raise ApiError(400, "the request is no JSON object")
    return request


async def _pieces(response: Any, stack: contextlib.AsyncExitStack, outcome: Outcome) -> AsyncIterator[bytes]:
    import httpx

    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.TransportError as error:
        outcome.failed = True
        raise UpstreamError(500, str(error) or "unexpected EOF") from None
    finally:
        await stack.aclose()


# ---- lists ----------------------------------------------------------------------------------------------------------


async def models(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """GET /v1/models."""
    listed = sorted(backend.catalog.models, key=lambda model: model.modified_at, reverse=True)
    reply = openai.models_reply((model.name.short, _created(model), _owner(model)) for model in listed)
    return Reply(200, JSON_TYPE, wire.go_json(reply) + b"\n")


def model(name: str) -> Handler:
    """GET /v1/models/{name}."""

    async def handler(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        found = native.find_shown(backend, name)
        return Reply(200, JSON_TYPE, wire.go_json(openai.model_reply(name, _created(found), _owner(found))) + b"\n")

    return handler


def _created(model: ServedModel) -> int:
    return int(datetime.datetime.fromisoformat(model.modified_at).timestamp())


def _owner(model: ServedModel) -> str:
    return model.name.namespace
