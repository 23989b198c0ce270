"""The servers behind the gateway: one HTTP client, the least busy of several that serve the same, streams of answers.

A request that could not be connected is tried at the next server; one that was begun never is: it may have run.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx
from pydantic_core import from_json, to_json

from migrate.engines.http import LOOPBACK
from migrate.gateway.client import Answer, BrokeOff, CannotConnect, Client
from migrate.gateway.config import Config, Upstream
from migrate.gateway.types import ApiError

log = logging.getLogger("migrate.gateway")

DOWN_S = 1.0
"""How long a server that could not be connected is asked last."""
MAX_EVENT_BYTES = 32 << 20
MAX_ANSWER_BYTES = 256 << 20
"""Of one answer that is not streamed: embeddings of a large batch."""
UNREACHABLE = "no model server answers"
BROKEN = "an error was encountered while running the model: {detail}"
STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, check the "
    "model server's logs for details"
)


class UpstreamError(ApiError):
    """The server behind failed: not the client's doing. Counts against it in the automatic return."""


class NotServed(UpstreamError):
    """The server behind does not have the model."""


@dataclass(slots=True)
class Server:
    """One address. `busy` requests are under way. `reached`: when it was asked last; its log line is for changes."""

    url: str
    busy: int = 0
    down_until: float = 0.0
    reached: bool = True


@dataclass(slots=True)
class Pool:
    """The servers of one upstream."""

    name: str
    kind: str
    servers: list[Server]
    headers: dict[str, str] = field(default_factory=dict)

    def ordered(self) -> list[Server]:
        """The least busy first; those that could not be reached a moment ago last."""
        now = time.monotonic()
        return sorted(self.servers, key=lambda s: (s.down_until > now, s.busy))


class Upstreams:
    """All pools of a configuration, by name. Close it when the gateway ends."""

    def __init__(self, config: Config) -> None:
        self._limits = config.limits
        self.pools = {name: _pool(name, upstream) for name, upstream in config.upstreams.items()}
        every = [url for upstream in config.upstreams.values() for url in upstream.urls]
        self._trust_env = any(httpx.URL(url).host not in LOOPBACK for url in every)

    @cached_property
    def _client(self) -> Client:
        """Made at the first request: it belongs to the running event loop."""
        return Client(connect_timeout=self._limits.connect_timeout, trust_env=self._trust_env)

    @cached_property
    def client(self) -> httpx.AsyncClient:
        """For copies of requests, which nobody waits for."""
        return httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=self._limits.connect_timeout),
            trust_env=self._trust_env,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Closes what was opened."""
        if "_client" in self.__dict__:
            await self._client.close()
        if "client" in self.__dict__:
            await self.client.aclose()

    @contextlib.asynccontextmanager
    async def send(
        self,
        pool: str,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] | None = None,
        silence: float | None = None,
        only: Server | None = None,
    ) -> AsyncIterator[Answer]:
        """The answer's head; its body is still to be read. Raises UpstreamError when no server can be reached.

        `only`: this server of the pool and no other.
        """
        chosen = self.pools[pool]
        sent = _merged(chosen, headers)
        detail = ""
        for server in chosen.ordered() if only is None else [only]:
            server.busy += 1
            try:
                try:
                    answer = await self._client.send(
                        method, server.url + path, content, sent, silence=silence or self._limits.silence
                    )
                except CannotConnect as error:
                    detail = f"{server.url}: {error}"
                    server.down_until = time.monotonic() + DOWN_S
                    log.log(logging.WARNING if server.reached else logging.DEBUG, "upstream %s: %s", pool, detail)
                    server.reached = False
                    continue
                except BrokeOff as error:
                    if error.silent:
                        raise _silent() from None
                    log.warning("upstream %s: %s broke off: %s", pool, server.url, error)
                    raise UpstreamError(500, STOPPED) from None
                server.down_until = 0.0
                if not server.reached:
                    log.info("upstream %s: %s can be reached again", pool, server.url)
                    server.reached = True
                try:
                    yield answer
                finally:
                    answer.close()
                return
            finally:
                server.busy -= 1
        raise UpstreamError(503, UNREACHABLE, headers={"Retry-After": "1"})

    async def pieces(self, answer: Answer) -> AsyncGenerator[bytes]:
        """An answer's body as it comes. Raises UpstreamError when it breaks off."""
        try:
            async for piece in answer.pieces():
                yield piece
        except BrokeOff as error:
            raise _silent() if error.silent else UpstreamError(500, BROKEN.format(detail=error)) from None

    async def call(
        self,
        pool: str,
        path: str,
        body: Mapping[str, Any],
        *,
        silence: float | None = None,
        only: Server | None = None,
    ) -> Any:
        """The JSON of a POST that is answered as a whole. Raises ApiError with the server's own message."""
        sent = self.send(pool, "POST", path, content=to_json(body), headers=JSON, silence=silence, only=only)
        async with sent as answer:
            content = await self._whole(answer)
            if answer.status_code != 200:
                raise refusal(answer.status_code, content)
        try:
            return from_json(content)
        except ValueError:
            raise UpstreamError(500, BROKEN.format(detail="the model server's answer is no JSON")) from None

    async def get(self, pool: str, path: str, *, timeout: float = 5.0) -> tuple[int, bytes]:
        """Status and body of a GET. Raises UpstreamError."""
        async with self.send(pool, "GET", path, silence=timeout) as answer:
            return answer.status_code, await self._whole(answer)

    async def stream(self, pool: str, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of a streamed answer. Raises ApiError before the first event, UpstreamError when it breaks off."""
        async with self.send(pool, "POST", path, content=to_json(body), headers=JSON) as answer:
            if answer.status_code != 200:
                raise refusal(answer.status_code, await self._whole(answer))
            async for event in self._events(answer):
                yield event

    async def _events(self, answer: Answer) -> AsyncIterator[dict[str, Any]]:
        """Up to `[DONE]`; what follows that is read, too, so that the connection can be used again."""
        buffer, done = b"", False
        async for piece in self.pieces(answer):
            if done:
                continue
            *lines, buffer = (buffer + piece).split(b"\n")
            if len(buffer) > MAX_EVENT_BYTES:
                raise UpstreamError(500, BROKEN.format(detail="an event of the model server is too large"))
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    done = True
                    break
                yield _event(data)
        if not done:
            raise UpstreamError(500, BROKEN.format(detail="unexpected EOF"))

    async def _whole(self, answer: Answer) -> bytes:
        content = bytearray()
        async for piece in self.pieces(answer):
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise UpstreamError(500, BROKEN.format(detail="the model server's answer is too large"))
        return bytes(content)


def _silent() -> UpstreamError:
    return UpstreamError(504, BROKEN.format(detail="the model server fell silent"))


JSON: Mapping[str, str] = {"content-type": "application/json", "accept-encoding": "identity"}


def _pool(name: str, upstream: Upstream) -> Pool:
    key = upstream.api_key
    return Pool(
        name,
        upstream.kind,
        [Server(url) for url in upstream.urls],
        {"authorization": f"Bearer {key}"} if key else {},
    )


def _merged(pool: Pool, headers: Mapping[str, str] | Sequence[tuple[bytes, bytes]] | None) -> list[tuple[str, str]]:
    """`headers`, and the pool's, which take the place of the same ones."""
    if isinstance(headers, Mapping):
        sent = list(headers.items())
    else:
        sent = [(name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in headers or ()]
    return [pair for pair in sent if pair[0].lower() not in pool.headers] + list(pool.headers.items())


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = from_json(data)
    except ValueError:
        raise UpstreamError(500, BROKEN.format(detail="an event of the model server is no JSON")) from None
    if not isinstance(event, dict):
        raise UpstreamError(500, BROKEN.format(detail="an event of the model server is no object"))
    if "error" in event:
        raise _told(event)
    return event


def _told(event: dict[str, Any]) -> ApiError:
    """An error in the middle of a stream, or instead of it: a schema that no grammar can be made of is found out when
    the head of the answer is sent already. What the client asked for wrongly does not count against the server."""
    error, message = event["error"], _message(event) or "unknown"
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 500:
        return ApiError(code, message)
    return UpstreamError(500, BROKEN.format(detail=message))


def refusal(status: int, content: bytes) -> ApiError:
    """What to tell the client when vLLM answers with an error."""
    try:
        message = _message(from_json(content))
    except ValueError:
        message = ""
    message = message or content[:500].decode("utf-8", "replace").strip() or f"status {status}"
    if status in (401, 403):
        return UpstreamError(502, "the model server does not take the gateway's key", headers={})
    if status == 404:
        return NotServed(502, f"the model server does not have this model: {message}")
    if status >= 500:
        return UpstreamError(status if status == 503 else 500, BROKEN.format(detail=message))
    return ApiError(status, message)


def _message(content: Any) -> str:
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or "")
    return str(error)
