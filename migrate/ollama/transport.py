"""HTTP to an Ollama server with bounds on time and size, and errors for people. Imports httpx: load it lazily."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
import ollama
from pydantic import BaseModel, ValidationError

from migrate.errors import ServerError, ServerUnreachable, StoreError
from migrate.ollama.bounded import loads_object

Reply = TypeVar("Reply", bound=BaseModel)

MAX_BODY_BYTES = 128 << 20
"""A verbose /api/show of a large vocabulary has some 30 MB."""


class _Cut(httpx.TransportError):
    """The reply passed a bound."""


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def __iter__(self) -> Iterator[bytes]:
        left = MAX_BODY_BYTES
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise _Cut(f"its reply has more than {MAX_BODY_BYTES:,} bytes")
            if time.monotonic() > self._deadline:
                raise _Cut("its reply does not come to an end")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _BoundedTransport(httpx.BaseTransport):
    """Timeouts of httpx are per read; a server that drips would keep us forever, one that floods would fill memory."""

    def __init__(self, inner: httpx.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        seconds = request.extensions.get("timeout", {}).get("read") or float("inf")
        deadline = time.monotonic() + seconds
        response = self._inner.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise _Cut("its reply is compressed although that was not asked for")
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _BoundedStream(response.stream, deadline)
        return response

    def close(self) -> None:
        self._inner.close()


class Client(ollama.Client):
    """The `ollama` package's client, with bounds, errors of this package, and any request as plain JSON.

    The package's types leave out fields that a migration needs (`system` and `messages` of /api/show, ids of tool
    calls, `_debug_info`), so most
    calls here use `json`.
    """

    def __init__(self, base_url: str, *, timeout: float) -> None:
        self.base_url, self.timeout = base_url, timeout
        super().__init__(
            base_url,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"accept-encoding": "identity"},
            follow_redirects=False,
            trust_env=not _is_loopback(base_url),
            transport=_BoundedTransport(httpx.HTTPTransport()),
        )

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Raises ServerUnreachable, ServerError."""
        with self.errors():
            response: httpx.Response = self._request_raw(  # type: ignore[no-untyped-call]
                method, path, json=dict(body) if body is not None else None
            )
            try:
                return loads_object(response.content, path)
            except StoreError as error:
                raise self._no_ollama(str(error), response.status_code) from None

    def typed(self, reply: type[Reply], path: str) -> Reply:
        """What GET `path` gives, as a type of the `ollama` package."""
        with self.errors():
            return reply.model_validate(self.json("GET", path))

    def close(self) -> None:
        super().close()  # type: ignore[no-untyped-call]

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what the libraries raise into ServerUnreachable or ServerError."""
        try:
            yield
        except ollama.ResponseError as error:
            raise ServerError(f"Ollama at {self.base_url}: {_told(error)}", status=error.status_code) from None
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            hint = "Start it (`ollama serve`), or name another one: --host HOST:PORT."
            raise ServerUnreachable(f"no Ollama server answers at {self.base_url}", hint=hint) from None
        except httpx.TimeoutException:
            hint = "A model that is being loaded can take minutes."
            raise ServerUnreachable(
                f"the server at {self.base_url} did not answer within {self.timeout:g} s", hint=hint
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"talking to {self.base_url} failed: {error}") from None
        except (ValidationError, ValueError) as error:
            raise self._no_ollama(str(error).splitlines()[0], 200) from None

    def _no_ollama(self, why: str, status: int) -> ServerError:
        hint = "Is there another server at this address?"
        return ServerError(f"{self.base_url} does not answer like Ollama: {why[:200]}", status=status, hint=hint)


def _told(error: ollama.ResponseError) -> str:
    """The server's own words: {"error": "..."}, OpenAI's {"error": {"message": ...}}, or plain text."""
    text = str(error.error)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = text
    while isinstance(content, Mapping) and (inner := content.get("error") or content.get("message")):
        content = inner
    return str(content).strip()[:500] or f"HTTP status {error.status_code}"


def _is_loopback(base_url: str) -> bool:
    host = httpx.URL(base_url).host
    return host in ("localhost", "::1") or host.startswith("127.")
