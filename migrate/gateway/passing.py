"""Passing a request on as it is, and its answer back as it comes: to Ollama, or to vLLM's own routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx

from migrate.gateway.reply import Reply
from migrate.gateway.upstreams import BROKEN, UpstreamError
from migrate.parity.traffic.proxy import HOP_BY_HOP

if TYPE_CHECKING:
    from migrate.gateway.backend import Backend

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
    kept = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in _NOT_RETURNED]
    content_type = response.headers.get("content-type", "")
    return Reply(response.status_code, content_type, _body(response, stack, exchange.outcome), kept)


async def _body(response: httpx.Response, stack: contextlib.AsyncExitStack, outcome: Any) -> AsyncIterator[bytes]:
    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.TransportError as error:
        outcome.failed = True
        raise UpstreamError(500, BROKEN.format(detail=str(error) or "unexpected EOF")) from None
    finally:
        await stack.aclose()
