"""One request from its first byte to its last: key, size, queue, which side answers, the answer, what is told of it.

A client that goes away takes its request with it: the answer's task is cancelled, its connection to the server behind
is closed, and vLLM stops generating. A client that does not read is waited for piece by piece and holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from migrate.gateway import passing, wire
from migrate.gateway.backend import Backend
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.shadow import read_request
from migrate.gateway.types import ApiError
from migrate.gateway.upstreams import UpstreamError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from migrate.gateway.observing import Observer
    from migrate.gateway.routing import Decision

log = logging.getLogger("migrate.gateway")
access = logging.getLogger("migrate.gateway.access")

BUSY = "server busy, please try again.  maximum pending requests exceeded"
WRONG_SERVER = "the server behind this model serves something else: see the gateway's log"
CLIENT_GONE = 499
REST_S = 5.0
"""How long the rest of a body that is too large may come."""
LARGE = 256 << 10
"""Bytes of a request from which it is read beside the event loop: some 10 ms."""

Handler = Callable[[Backend, bytes, Outcome], Awaitable[Reply]]
ErrorReply = Callable[[ApiError], Reply]
"""An error in the form of a route."""


def native_error(error: ApiError) -> Reply:
    """As Ollama's own routes write errors."""
    return Reply(error.status, wire.JSON_TYPE, wire.error(error.message))


class ClientGone(Exception):
    """The client went away."""


class BrokenOff(Exception):
    """The server behind broke off after the head of its answer was out: the connection is cut, as Ollama's would be."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys that clients may use; none: no key is asked for."""

    known: frozenset[str]

    def admits(self, headers: Mapping[str, str]) -> bool:
        """By `Authorization: Bearer KEY`, or by `x-api-key` as Anthropic's clients send it. In constant time."""
        if not self.known:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        found = [hmac.compare_digest(given.encode(), key.encode()) for key in self.known]
        return any(found)


class Room:
    """How many requests may be under way."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    @contextlib.contextmanager
    def one(self) -> Any:
        """Raises ApiError 503 when there is no room, in Ollama's words."""
        if self.taken >= self.limit:
            raise ApiError(503, BUSY, headers={"Retry-After": "1"})
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


@dataclass(frozen=True, slots=True)
class Ends:
    """What all endpoints of a process share."""

    keys: Keys
    room: Room
    observer: Observer
    stalled: Stalled


class Endpoint:
    """An ASGI application for one route.

    `runs`: the route runs a model, so it takes room, and may be Ollama's to answer. `error` writes errors in the
    route's own form.
    """

    def __init__(
        self, backend: Backend, handler: Handler, ends: Ends, *, error: ErrorReply = native_error, runs: bool = False
    ) -> None:
        self._backend = backend
        self._handler = handler
        self._keys = ends.keys
        self._room = ends.room
        self._observer = ends.observer
        self._stalled = ends.stalled
        self._error = error
        self._runs = runs
        self._limits = backend.config.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers

        outcome = Outcome()
        started = time.perf_counter()
        exchange = _Exchange(scope, Headers(scope=scope), receive, send, self._limits, outcome)
        task = asyncio.create_task(self._serve(exchange))
        gone = asyncio.create_task(exchange.gone())
        self._stalled.exchanges[exchange] = task
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._stalled.exchanges[exchange]
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)
            self._told(exchange, started, task)

    def _told(self, exchange: _Exchange, started: float, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        left = task.cancelled() or isinstance(error, ClientGone)
        if left:
            exchange.outcome.status = CLIENT_GONE
        elif error is not None and not isinstance(error, BrokenOff):
            log.error("%s %s: %s", exchange.method, exchange.path, error, exc_info=error)
        if exchange.runs:
            self._observer.answered(exchange.path, exchange.outcome, started, left=left)
        else:
            self._observer.logged(exchange.path, exchange.outcome, started)

    async def _serve(self, exchange: _Exchange) -> None:
        try:
            if not self._keys.admits(exchange.headers):
                raise ApiError(401, "unauthorized", headers={"WWW-Authenticate": "Bearer"})
            if not self._runs:
                body = await exchange.body()
                await exchange.answer(await self._handler(self._backend, body, exchange.outcome))
                return
            try:
                with self._room.one():
                    await self._run(exchange, await exchange.body())
            except ApiError as error:
                if error.message == BUSY:
                    self._observer.refused("")
                raise
        except ApiError as error:
            exchange.outcome.failed = isinstance(error, UpstreamError)
            if exchange.outcome.status:
                raise BrokenOff from error
            reply = self._error(error)
            reply.headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
            await exchange.answer(reply)
        except (ClientGone, BrokenOff, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("%s %s", exchange.method, exchange.path)
            exchange.outcome.failed = True
            if not exchange.outcome.status:
                failure = ApiError(500, f"the gateway failed: {type(error).__name__}")
                await exchange.answer(self._error(failure))

    async def _run(self, exchange: _Exchange, body: bytes) -> None:
        outcome, observer = exchange.outcome, self._observer
        exchange.runs = True
        large = len(body) > LARGE
        request = (await asyncio.to_thread(read_request, body) if large else read_request(body)) or {}
        streamed = request.get("stream", not exchange.path.startswith("/v1/"))
        exchange.streams = streamed is not False and "embed" not in exchange.path
        name = _model_of(request)
        model = self._backend.catalog.find(name) if name else None
        outcome.model = model.name.short if model is not None else ""
        observer.begun(outcome.model)
        if model is None:
            fallback = self._backend.config.fallback
            if fallback is not None and name:
                outcome.upstream = fallback
                await exchange.answer(await passing.pass_on(self._backend, fallback, exchange, body))
                return
            await exchange.answer(await self._handler(self._backend, body, outcome))
            return
        decision = observer.decide(model.name.short, exchange.headers, request)
        taken = observer.take(decision, exchange.path, body, request)
        if decision.upstream == "source" and model.ollama is not None:
            outcome.upstream = model.ollama
            reply = await passing.pass_on(self._backend, model.ollama, exchange, body)
        else:
            outcome.upstream = model.upstream
            if model.name.key in self._backend.wrong:
                raise UpstreamError(503, WRONG_SERVER)
            reply = await self._handler(self._backend, body, outcome)
        if decision.remember or taken is not None:
            reply.body = observer.heard(decision, taken, reply, outcome)
        await exchange.answer(reply)


def _model_of(request: Mapping[str, Any]) -> str:
    """Its model, "" for none; by a key in any case, as Go reads it: a request must not get round the cut-over."""
    given = request["model"] if "model" in request else {key.lower(): request[key] for key in request}.get("model")
    return given if isinstance(given, str) else ""


class _Exchange:
    """A client's request and the way back to it."""

    def __init__(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send, limits: Any, outcome: Outcome
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"] if scope["path"].isprintable() else quote(scope["path"], safe="/:")
        self.runs = False
        self.streams = True
        self.blocked_since: float | None = None
        self.scope = scope
        self.headers = headers
        self.outcome = outcome
        self._receive = receive
        self._send = send
        self._limits = limits
        self._whole = asyncio.Event()

    async def body(self) -> bytes:
        """The request's body. Raises ApiError 413 for one that is too large, 408 for one that does not come."""
        limit = self._limits.max_body_mb << 20
        try:
            if int(self.headers.get("content-length", "0")) > limit:
                await self._rest({"more_body": "expect" not in self.headers})
                raise ApiError(413, "http: request body too large", headers={"Connection": "close"})
        except ValueError:
            raise ApiError(400, "Content-Length is no number") from None
        pieces: list[bytes] = []
        size = 0
        while True:
            try:
                async with asyncio.timeout(self._limits.body_timeout):
                    message = await self._receive()
            except TimeoutError:
                raise ApiError(408, "the request's body did not come", headers={"Connection": "close"}) from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                pieces.clear()
                await self._rest(message)
                raise ApiError(413, "http: request body too large", headers={"Connection": "close"})
            pieces.append(piece)
            if not message.get("more_body"):
                self._whole.set()
                return b"".join(pieces)

    async def _rest(self, message: MutableMapping[str, Any]) -> None:
        """Lets go of what still comes, for a while: a client that is cut off while it sends does not read why."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REST_S):
                while message.get("more_body"):
                    message = await self._receive()

    async def gone(self) -> None:
        """Returns when the client has gone away, after it has sent all."""
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, reply: Reply) -> None:
        """Sends it all."""
        headers = list(reply.headers)
        if reply.content_type:
            headers.append((b"content-type", reply.content_type.encode()))
        if self.outcome.notes:
            headers.append((b"x-migrate-notes", _notes(self.outcome.notes)))
        if isinstance(reply.body, bytes):
            self.outcome.status = reply.status
            headers.append((b"content-length", str(len(reply.body)).encode()))
            await self._write({"type": "http.response.start", "status": reply.status, "headers": headers})
            content = b"" if self.method == "HEAD" else reply.body
            await self._write({"type": "http.response.body", "body": content})
            return
        await self._stream(reply.status, headers, reply.body)

    async def _stream(self, status: int, headers: list[tuple[bytes, bytes]], pieces: AsyncIterator[bytes]) -> None:
        self.outcome.status = status
        try:
            await self._write({"type": "http.response.start", "status": status, "headers": headers})
            async for piece in pieces:
                if not self.outcome.first and self.streams:
                    self.outcome.first = time.perf_counter()
                await self._write({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            if (close := getattr(pieces, "aclose", None)) is not None:
                await close()
        await self._write({"type": "http.response.body", "body": b""})

    async def _write(self, message: dict[str, Any]) -> None:
        """Waits while the client does not read; `Stalled` ends that."""
        self.blocked_since = time.monotonic()
        await self._send(message)
        self.blocked_since = None


class Stalled:
    """Ends answers whose client does not read. One look a second at all costs less than a timer for each piece."""

    def __init__(self, limit_s: float) -> None:
        self._limit = limit_s
        self.exchanges: dict[_Exchange, asyncio.Task[None]] = {}

    async def watch(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self._limit / 4))
            self.look()

    def look(self) -> None:
        now = time.monotonic()
        for exchange, task in list(self.exchanges.items()):
            if exchange.blocked_since is not None and now - exchange.blocked_since > self._limit:
                log.warning("%s %s: the client does not read: cut off", exchange.method, exchange.path)
                task.cancel()


def _notes(notes: Mapping[str, str]) -> bytes:
    """What of the request's options has another meaning here, as a header: names only, the words are in the log."""
    return ", ".join(notes).encode("ascii", "replace")


__all__ = ["BUSY", "ClientGone", "Decision", "Endpoint", "Keys", "Room"]
