"""`migrate parity record`: clients ask through us for a while, and what they ask is kept."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.engines.ollama import ollama_url
from migrate.errors import BadInput, MissingExtra, UsageError
from migrate.parity.traffic.recorder import Recorder
from migrate.parity.traffic.redact import Redactor

if TYPE_CHECKING:
    import uvicorn

DEFAULT_LISTEN = "127.0.0.1:11435"
GRACE_S = 300
"""How long answers under way may take to end when recording ends."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What was recorded. `forwarded` counts all requests that went through, `left_out` those not recorded by reason,
    `redacted` the replaced values by kind."""

    path: Path
    recorded: int
    forwarded: int
    seconds: float
    left_out: dict[str, int] = field(default_factory=dict)
    redacted: dict[str, int] = field(default_factory=dict)


def record(
    source: str,
    output: Path,
    *,
    listen: str = DEFAULT_LISTEN,
    redact: bool = False,
    limit: int | None = None,
    seconds: float | None = None,
    with_answers: bool = False,
    force: bool = False,
    on_start: Callable[[str], None] = lambda address: None,
    on_line: Callable[[int], None] = lambda count: None,
    stop: threading.Event | None = None,
) -> Recording:
    """Serves at `listen` what the Ollama at `source` serves, and writes each request that runs a model to `output`.

    Ends after `limit` requests, `seconds`, Ctrl-C or TERM, or when `stop` is set; answers under way are finished first,
    unless it is told to stop once more. `on_start` gets the address, `on_line` the number of requests so far.

    Raises MissingExtra, UsageError (an address), OutputExists, and BadInput when the file can no longer be written.
    """
    uvicorn = _uvicorn()
    import httpx

    from migrate.parity.traffic.proxy import Proxy

    url = ollama_url(source)
    with contextlib.closing(_bound(listen)) as listening:
        host, port = listening.getsockname()[:2]
        behind = httpx.URL(url)
        if behind.port == port and (behind.host == host or {behind.host, host} <= {"localhost", "127.0.0.1", "::1"}):
            raise UsageError(f"{listen} is the server to be recorded", hint="listen at another address with --listen")
        ending = threading.Event()

        def lines(count: int) -> None:
            on_line(count)
            if recorder.full:
                ending.set()

        redactor = Redactor() if redact else None
        recorder = Recorder(output, redactor=redactor, limit=limit, force=force, on_line=lines)
        started = time.monotonic()
        proxy = Proxy(behind, recorder.put, with_answers=with_answers)
        try:
            on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            asyncio.run(_serve(uvicorn, proxy, listening, seconds, [ending, stop] if stop else [ending]))
        finally:
            recorder.close()
    if recorder.error is not None:
        raise BadInput(
            f"{output}: cannot be written after {recorder.count} requests: {recorder.error.strerror}",
            hint="the lines before that are whole; make room and record again",
        )
    return Recording(
        output,
        recorder.count,
        proxy.forwarded,
        round(time.monotonic() - started, 1),
        dict(recorder.left_out),
        dict(redactor.counts) if redactor else {},
    )


async def _serve(
    uvicorn: Any, proxy: Any, listening: socket.socket, seconds: float | None, ends: list[threading.Event]
) -> None:
    config = uvicorn.Config(
        proxy,
        http="h11",
        ws="none",
        lifespan="off",
        interface="asgi3",
        loop="none",
        access_log=False,
        log_config=None,
        log_level="critical",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # ours end the recording, and do not raise
    with _signals(server):
        ending = asyncio.create_task(_end(server, seconds, ends))
        try:
            await server.serve(sockets=[listening])
        finally:
            ending.cancel()
            await proxy.close()


async def _end(server: uvicorn.Server, seconds: float | None, ends: list[threading.Event]) -> None:
    deadline = time.monotonic() + seconds if seconds is not None else None
    while not any(end.is_set() for end in ends) and (deadline is None or time.monotonic() < deadline):
        await asyncio.sleep(0.05)
    server.should_exit = True


@contextlib.contextmanager
def _signals(server: uvicorn.Server) -> Iterator[None]:
    """Ctrl-C and TERM end the server; the second one does not wait for answers under way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _bound(listen: str) -> socket.socket:
    """A socket at HOST:PORT, PORT or [HOST]:PORT. Raises UsageError."""
    host, _, port = listen.strip().removeprefix("http://").rstrip("/").rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{listen!r} is no address to listen at", hint=f"write it as HOST:PORT, say {DEFAULT_LISTEN}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{listen!r} is no address of this machine: {error.strerror}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
        made.setblocking(False)
    except OSError as error:
        made.close()
        raise UsageError(
            f"cannot listen at {listen}: {error.strerror}", hint="choose another address with --listen"
        ) from None
    return made


def _uvicorn() -> Any:
    try:
        import uvicorn
    except ImportError:
        raise MissingExtra(
            "recording needs uvicorn, which is not installed", hint="pip install 'ollama-to-vllm[record]'"
        ) from None
    return uvicorn
