"""Ollama's own routes: a request's bytes to an answer's bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import TypeVar

from migrate.gateway import catalog as shown
from migrate.gateway import decode, embedding, wire
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import ServedModel
from migrate.gateway.endpoint import LARGE
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.serving import Answering
from migrate.gateway.types import ApiError, Chunk
from migrate.gateway.upstreams import UpstreamError

Writer = Callable[[str, Chunk], bytes]
Request = TypeVar("Request")

NO_MANAGEMENT = (
    "this is migrate's gateway in front of vLLM: models are not {verb} here; use `ollama` and `migrate convert`"
)
VERBS = {"pull": "pulled", "push": "pushed", "create": "created", "copy": "copied", "delete": "deleted"}


async def chat(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /api/chat."""
    request = await _read(decode.chat, body)
    if not request.model:
        raise ApiError(400, "model is required")
    model = backend.catalog.require(request.model, empty=ApiError(400, "model is required"))
    answering = await backend.serving.chat(model, request)
    return await _answer(answering, request.model, wire.chat, outcome, stream=request.stream)


async def generate(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /api/generate."""
    request = await _read(decode.generate, body)
    model = backend.catalog.require(request.model)
    answering = await backend.serving.generate(model, request)
    return await _answer(answering, request.model, wire.generate, outcome, stream=request.stream)


async def embed(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /api/embed."""
    request = await _read(decode.embed, body)
    model = embedding.require(backend.catalog, request.model)
    found = await embedding.embed(model, request, backend.upstreams)
    outcome.prompt_tokens = found.metrics.prompt_eval_count
    vectors = await embedding.as_json(found.vectors)
    return Reply(200, wire.JSON_TYPE, wire.embed(request.model, vectors, found.metrics))


async def embeddings(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /api/embeddings, the older route."""
    request = await _read(decode.embeddings, body)
    model = embedding.require(backend.catalog, request.model, empty=ApiError(400, "model is required"))
    vector = await embedding.embeddings(model, request, backend.upstreams)
    [text] = await embedding.as_json([vector]) if vector is not None else [b"[]"]
    return Reply(200, wire.JSON_TYPE, wire.embedding(text))


async def _read(decoded: Callable[[bytes], Request], body: bytes) -> Request:
    """A request; of a large body beside the event loop. Raises ApiError 400."""
    return await asyncio.to_thread(decoded, body) if len(body) > LARGE else decoded(body)


async def _answer(answering: Answering, asked: str, write: Writer, outcome: Outcome, *, stream: bool) -> Reply:
    """The first piece is waited for, so that an error before it has its own status."""
    outcome.notes, outcome.overhead = answering.notes, answering.overhead
    chunks = answering.chunks
    if not stream:
        pieces = [piece async for piece in chunks]
        for piece in pieces:
            count(piece, outcome)
        return Reply(200, wire.JSON_TYPE, write(asked, wire.whole(pieces)))
    first = await anext(chunks, None)
    if first is None:
        return Reply(200, wire.NDJSON_TYPE, b"")
    if first.rendered is not None or first.done_reason in ("load", "unload"):
        await chunks.aclose()
        return Reply(200, wire.JSON_TYPE, write(asked, first))
    return Reply(200, wire.NDJSON_TYPE, _lines(first, chunks, asked, write, outcome))


async def _lines(
    first: Chunk, chunks: AsyncGenerator[Chunk], asked: str, write: Writer, outcome: Outcome
) -> AsyncIterator[bytes]:
    """An error in the middle is a line of its own, as in Ollama: the status has been sent."""
    async with contextlib.aclosing(chunks):
        try:
            count(first, outcome)
            yield write(asked, first) + b"\n"
            async for chunk in chunks:
                count(chunk, outcome)
                yield write(asked, chunk) + b"\n"
        except ApiError as error:
            outcome.failed = isinstance(error, UpstreamError)
            yield wire.error(error.message) + b"\n"


def count(chunk: Chunk, outcome: Outcome) -> None:
    """Takes the token counts from the last piece of an answer."""
    if chunk.done:
        outcome.prompt_tokens, outcome.answer_tokens = chunk.metrics.prompt_eval_count, chunk.metrics.eval_count


# ---- about the models ------------------------------------------------------------------------------------------------


async def show(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
    """POST /api/show."""
    request = decode.show(body)
    model = find_shown(backend, request.model)
    if request.verbose:  # with the whole tokenizer: a second for a large one
        return Reply(
            200, wire.JSON_TYPE, await asyncio.to_thread(lambda: wire.go_json(shown.show(model, verbose=True)))
        )
    return Reply(200, wire.JSON_TYPE, wire.go_json(shown.show(model)))


def find_shown(backend: Backend, name: str) -> ServedModel:
    """Raises ApiError 404, which names the tag here."""
    found = backend.catalog.find(name)
    if found is None:
        raise ApiError(404, f"model '{shown.short_name(name)}' not found")
    return found


async def tags(backend: Backend) -> Reply:
    """GET /api/tags."""
    return Reply(200, wire.JSON_TYPE, wire.go_json(shown.tags(backend.catalog)))


async def ps(backend: Backend) -> Reply:
    """GET /api/ps: models whose server is there."""
    alive = await backend.alive()
    models = [model for model in backend.catalog.models if model.upstream in alive]
    return Reply(200, wire.JSON_TYPE, wire.go_json(shown.ps(models, datetime.now(UTC))))


async def version(backend: Backend) -> Reply:
    """GET /api/version: the Ollama whose behaviour this is."""
    return Reply(200, wire.JSON_TYPE, wire.go_json({"version": backend.version}))


def refuse(backend: Backend, verb: str, body: bytes) -> Reply:
    """Routes that change Ollama's store. A model that is not there is 404, as in Ollama; anything else 403."""
    name = decode.model_of(body, verb)
    if verb in ("delete", "copy", "push") and name and backend.catalog.find(name) is None:
        raise ApiError(404, f"model '{name}' not found")
    raise ApiError(403, NO_MANAGEMENT.format(verb=VERBS[verb]))
