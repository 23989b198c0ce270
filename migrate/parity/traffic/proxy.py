"""A reverse proxy in front of a live Ollama that hears what clients ask. It changes nothing on the way.

Bodies pass in both directions piece by piece as they come, undecoded, with the sender waiting for the receiver; only a
request that will be recorded is kept as well, up to a size. Headers pass without those that belong to one connection
(RFC 9110 section 7.6.1). Host stays the client's where Ollama is on this machine: an Ollama on loopback turns away web
pages that come with another name, and must go on seeing it. Elsewhere it is the name of the server behind. A client
that goes away takes its request with it, as without a proxy: Ollama stops generating.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx

from migrate.engines.http import LOOPBACK
from migrate.parity.traffic.recorder import MAX_BODY_BYTES, Exchange
from migrate.parity.traffic.requests import WORLDS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CONNECT_TIMEOUT_S = 10.0
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


class _ClientGone(Exception):
    """The client went away while it was sending."""


class _Upstream(Exception):
    """The server behind cannot be reached, or broke off before it answered."""


class Proxy:
    """An ASGI application. `tell` gets every finished request that runs a model; it must not block."""

    def __init__(self, source: httpx.URL, tell: Callable[[Exchange], None], *, with_answers: bool = False) -> None:
        self.source = source
        self.forwarded = 0
        self._tell = tell
        self._with_answers = with_answers
        self._prefix = source.raw_path.rstrip(b"/")
        # no limits: the first byte of an answer may take minutes (loading a model)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30),
            trust_env=source.host not in LOOPBACK,
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.forwarded += 1
        passing = _Passing(scope, receive, send, with_answers=self._with_answers)
        forward = asyncio.create_task(self._forward(passing))
        watch = asyncio.create_task(passing.gone())
        try:
            await asyncio.wait({forward, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forward.cancel()
            watch.cancel()
            await asyncio.gather(forward, watch, return_exceptions=True)
            if (exchange := passing.exchange()) is not None:
                self._tell(exchange)
        error = None if forward.cancelled() else forward.exception()
        # after these, returning before the last piece makes the server cut the connection, as the one behind did
        if error is not None and not isinstance(error, _ClientGone | httpx.TransportError):
            raise error

    async def _forward(self, passing: _Passing) -> None:
        try:
            response = await self._send(passing)
        except _Upstream as error:
            await passing.refuse(502, f"{_address(self.source)}: {error}")
            return
        except httpx.InvalidURL:
            await passing.refuse(400, "not a path")
            return
        try:
            await passing.answer(response)
        finally:
            await response.aclose()

    async def _send(self, passing: _Passing) -> httpx.Response:
        target = self._prefix + passing.target
        request = httpx.Request(
            passing.scope["method"],
            self.source.copy_with(raw_path=target),
            headers=self._headers(passing),
            stream=passing,
        )
        try:
            return await self._client.send(request, stream=True)
        except _ClientGone:
            raise
        except httpx.ConnectError as error:
            raise _Upstream(f"no server answers there: {error or 'connection refused'}") from None
        except httpx.ConnectTimeout:
            raise _Upstream("no server answers there: connecting took too long") from None
        except httpx.TransportError as error:
            raise _Upstream(f"the server broke off before it answered: {error or type(error).__name__}") from None

    def _headers(self, passing: _Passing) -> list[tuple[bytes, bytes]]:
        headers = passing.request_headers
        if self.source.host in LOOPBACK and any(key == b"host" for key, _ in headers):
            return headers
        return [(b"host", self.source.netloc), *((key, value) for key, value in headers if key != b"host")]


class _Passing(httpx.AsyncByteStream):
    """One request on its way; iterated, it gives the client's body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, with_answers: bool) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._started = time.time()
        endpoint = scope["path"]
        self._endpoint: str | None = endpoint if scope["method"] == "POST" and endpoint in WORLDS else None
        self._body: bytearray | None = bytearray() if self._endpoint else None
        self._answer: bytearray | None = bytearray() if self._endpoint and with_answers else None
        self._status: int | None = None
        self._whole = asyncio.Event()
        self._ended = False
        names = {name for name, _ in scope["headers"]}
        self._has_body = b"content-length" in names or b"transfer-encoding" in names
        self._chunked = b"content-length" not in names
        if not self._has_body:
            self._whole.set()

    @property
    def target(self) -> bytes:
        query = self.scope["query_string"]
        path: bytes = self.scope["raw_path"]
        return path + b"?" + query if query else path

    @property
    def request_headers(self) -> list[tuple[bytes, bytes]]:
        headers = _end_to_end(self.scope["headers"])
        if self._has_body and self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        return headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._has_body and not self._whole.is_set():
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            piece = message.get("body", b"")
            if self._body is not None and self._endpoint:
                self._body = _kept(self._body, piece)
            if not message.get("more_body"):
                self._whole.set()
            if piece:
                yield piece

    async def gone(self) -> None:
        """Returns when the client has gone away, after it has sent all."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, response: httpx.Response) -> None:
        """Passes an answer on. Raises httpx.TransportError when the server behind breaks off."""
        self._status = response.status_code
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": _end_to_end(response.headers.raw),
            }
        )
        async for piece in response.aiter_raw():
            if self._answer is not None:
                self._answer = _kept(self._answer, piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        self._ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def refuse(self, status: int, reason: str) -> None:
        """An error of the proxy's own, in the form of the API that was asked."""
        self._status = status
        if self._endpoint:  # what was asked is still worth recording
            async for _ in self:
                pass
        error: Any = f"migrate parity record: {reason}"
        if self.scope["path"].startswith("/v1/"):
            error = {"message": error, "type": "api_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        headers = [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        if not self._whole.is_set():
            headers.append((b"connection", b"close"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def exchange(self) -> Exchange | None:
        """What there is to record: a request that runs a model and came as a whole."""
        if self._endpoint is None or not self._has_body or not self._whole.is_set():
            return None
        body = bytes(self._body) if self._body is not None else None
        answer = bytes(self._answer) if self._answer is not None and self._ended else None
        return Exchange(self._endpoint, body, self._started, self._status, answer)


def _kept(buffer: bytearray, piece: bytes) -> bytearray | None:
    """None from the piece on that makes it too large."""
    if len(buffer) + len(piece) > MAX_BODY_BYTES:
        return None
    buffer += piece
    return buffer


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers without those of the connection, and without those that `Connection` names."""
    named = {
        name.strip().lower() for key, value in headers if key.lower() == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key.lower() not in HOP_BY_HOP and key.lower() not in named]


def _address(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=b"")).rstrip("/")
