"""JSON over HTTP with bounds: on time, on size, and with errors that say which server did what."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from migrate.errors import ServerError, ServerUnreachable, UsageError

if TYPE_CHECKING:
    from migrate.engines.supervisor import Process

DEFAULT_TIMEOUT_S = 120.0
"""The first request after a start can take over 10 s (vllm.md section 4)."""
MAX_RESPONSE_BYTES = 64 << 20
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def base_url(url: str) -> httpx.URL:
    """`url` as people write it (no scheme, a trailing slash or /v1) as the root of a server. Raises UsageError."""
    text = url.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parsed = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no address of a server: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"{url!r} is no address of a server", hint="write it as http://HOST:PORT")
    path = parsed.path.rstrip("/").removesuffix("/v1")
    return parsed.copy_with(path=path or "/", query=None, fragment=None)


class JsonClient:
    """Requests to one server. `process` is asked why when a server that we started stops answering."""

    def __init__(
        self,
        url: str,
        *,
        label: str,
        timeout: float = DEFAULT_TIMEOUT_S,
        api_key: str | None = None,
        process: Process | None = None,
    ) -> None:
        root = base_url(url)
        if api_key:
            root = root.copy_with(userinfo=b"")
        self.address = str(root.copy_with(userinfo=b"")).rstrip("/")
        self.label = label
        self.timeout = timeout
        self.process = process
        self._http = httpx.Client(
            base_url=root,
            timeout=httpx.Timeout(timeout, connect=min(10.0, timeout)),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            limits=httpx.Limits(max_keepalive_connections=0),  # servers drop idle ones while we ask the other side
            trust_env=root.host not in LOOPBACK,
        )

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None, *, timeout: float | None = None) -> Any:
        """The decoded JSON of the answer. Raises ServerUnreachable, ServerError, EngineDied."""
        limit = timeout or self.timeout
        with self._told(path, limit):
            status, content = self._exchange(method, path, body, limit)
        return self._decode(path, status, content)

    def stream(self, path: str, body: Any) -> Iterator[dict[str, Any]]:
        """The JSON objects of a streamed answer, one a line, bare (Ollama) or behind "data:" (server-sent events).

        Raises what `request` does; also when a line is no JSON object, or the stream breaks off or never ends.
        """
        content = bytearray()
        with self._told(path, self.timeout):
            status = self._collect("POST", path, body, self.timeout, content)
        if status >= 400:
            self._decode(path, status, bytes(content))
        for line in bytes(content).splitlines():
            text = line.removeprefix(b"data:").strip()
            if not text or text == b"[DONE]" or line.startswith((b":", b"event:")):
                continue
            value = self._decode(path, status, text)
            if not isinstance(value, dict):
                raise ServerError(f"{self.label} at {self.address} streamed from {path} what is no object", status=200)
            if value.get("error"):
                raise ServerError(
                    f"{self.label} at {self.address} broke its stream off: {_error_text(value, text)}", status=500
                )
            yield value

    @contextmanager
    def _told(self, path: str, limit: float) -> Iterator[None]:
        """Turns what httpx raises into our errors, which say who did what."""
        try:
            yield
        except httpx.TimeoutException:
            self._ask_process()
            raise ServerUnreachable(
                f"{self.label} at {self.address} did not answer {path} within {limit:g} s"
            ) from None
        except httpx.ConnectError as error:
            self._ask_process()
            raise ServerUnreachable(
                f"{self.label} does not answer at {self.address}: {error}",
                hint="is it running, and is this its address?",
            ) from None
        except httpx.TransportError as error:
            self._ask_process()
            raise ServerUnreachable(
                f"{self.label} at {self.address} broke off while answering {path}: {error or type(error).__name__}"
            ) from None

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Around code that takes an answer apart: a surprising shape becomes a ServerError."""
        try:
            yield
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ServerError(
                f"{self.label} at {self.address} answered {path} in an unexpected shape ({error!r})",
                status=200,
                hint=f"is this really {self.label}, in a version this tool knows?",
            ) from None

    def close(self) -> None:
        self._http.close()

    def _exchange(self, method: str, path: str, body: Any, limit: float) -> tuple[int, bytes]:
        content = bytearray()
        status = self._collect(method, path, body, limit, content)
        return status, bytes(content)

    def _collect(self, method: str, path: str, body: Any, limit: float, content: bytearray) -> int:
        """Appends the answer to `content` within bounds of time and size; the status."""
        deadline = time.monotonic() + limit
        with self._http.stream(
            method, path, json=body, timeout=httpx.Timeout(limit, connect=min(10.0, limit))
        ) as reply:
            for chunk in reply.iter_bytes():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    raise ServerError(
                        f"{self.label} at {self.address} answered {path} with more than {MAX_RESPONSE_BYTES >> 20} MiB",
                        status=reply.status_code,
                    )
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer never ends")
            return reply.status_code

    def _decode(self, path: str, status: int, content: bytes) -> Any:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if status >= 400:
            self._ask_process(grace=0.5 if status >= 500 else 0.0)
            raise ServerError(
                f"{self.label} at {self.address} answered {path} with {status}: {_error_text(value, content)}",
                status=status,
            )
        if value is None:
            start = content[:80].decode("utf-8", "replace")
            raise ServerError(
                f"{self.label} at {self.address} answered {path} with something that is not JSON: {start!r}",
                status=status,
                hint=f"is this really {self.label}?",
            )
        return value

    def _ask_process(self, grace: float = 0.5) -> None:
        """Raises EngineDied when the server is a child of ours and is gone; a dying one is given `grace` seconds."""
        if self.process is not None:
            self.process.raise_if_dead(grace=grace)


def _error_text(value: Any, content: bytes) -> str:
    """The message inside the error shapes of Ollama, llama.cpp and vLLM."""
    if isinstance(value, dict):
        inner = value.get("error", value.get("detail", value.get("message")))
        if isinstance(inner, dict):
            inner = inner.get("message", inner)
        if inner:
            return str(inner)[:500]
    return content[:200].decode("utf-8", "replace").strip() or "(empty)"
