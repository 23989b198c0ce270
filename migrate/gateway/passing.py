"""Passing a request on as it is, and its answer back as it comes: to Ollama, or to vLLM's own routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.upstreams import UpstreamError
from migrate.parity.traffic.proxy import HOP_BY_HOP

if TYPE_CHECKING:
    from migrate.gateway.backend import Backend
    from migrate.gateway.client import Answer

_NOT_PASSED = HOP_BY_HOP | {b"host", b"content-length", b"authorization", b"x-api-key", b"accept-encoding"}
_NOT_RETURNED = HOP_BY_HOP | {b"content-length", b"content-type", b"date", b"server"}


async def pass_on(backend: Backend, upstream: str, exchange: Any, body: bytes) -> Reply:
    """The answer of another server, byte for byte; headers pass without those of one connection, and without the
    client's key, which is the gateway's. Raises UpstreamError when there is no answer."""
    query: bytes = exchange.scope.get("query_string", b"")
    target = exchange.path + (f"?{query.decode('latin-1')}" if query else "")
    headers = [(name, value) for name, value in exchange.scope["headers"] if name.lower() not in _NOT_PASSED]
    headers.append((b"accept-encoding", b"identity"))
    stack = contextlib.AsyncExitStack()
    try:
        response = await stack.enter_async_context(
            backend.upstreams.send(upstream, exchange.method, target, content=body, headers=headers)
        )
    except BaseException:
        await stack.aclose()
        raise
    # 501 is what Ollama says of an embedding of a chat model
    exchange.outcome.failed = response.status_code >= 500 and response.status_code != 501
    kept = [(name.lower(), value) for name, value in response.raw_headers if name.lower() not in _NOT_RETURNED]
    pieces = body_of(backend, response, stack, exchange.outcome)
    return Reply(response.status_code, response.headers.get("content-type", ""), pieces, kept)


async def body_of(
    backend: Backend, answer: Answer, stack: contextlib.AsyncExitStack, outcome: Outcome
) -> AsyncIterator[bytes]:
    """An answer's body as it comes; `stack`, which holds the answer, is closed at its end. Raises UpstreamError."""
    try:
        async for piece in backend.upstreams.pieces(answer):
            yield piece
    except UpstreamError:
        outcome.failed = True
        raise
    finally:
        await stack.aclose()
