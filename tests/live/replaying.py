"""A server that replays streams recorded from a real vLLM (fixtures/gateway), in a process of its own.

It says byte for byte what vLLM said, one event a write as vLLM's server does, and counts connections and requests; so
what lies between its sockets and a client's is the gateway alone. Requests are not looked at. How events go out is set
beside the recorded routes, under /replay, for the requests that come after:

    POST /replay/settings  {"pace_ms": wait before each event, "times": how often the events with text come,
                            "locked": whether each event waits for a step}
    POST /replay/step      {"events": how many of all locked answers may go out}
    GET  /replay/stats     Stats

`python -m tests.live.replaying PORT`, or `serving` from tests and benchmarks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from migrate.engines.supervisor import Process

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "gateway"
START_S = 30.0
RECORDED = {"/v1/completions": "completions.sse", "/v1/chat/completions": "chat-completions.sse"}


def events(path: str) -> list[bytes]:
    """The recorded events of a route, each with the empty line that ends it."""
    return [part + b"\n\n" for part in (FIXTURES / RECORDED[path]).read_bytes().split(b"\n\n") if part]


def text(event: bytes) -> str:
    """What one event of either route says; "" for those without text."""
    data = event.removeprefix(b"data:").strip()
    if not data or data == b"[DONE]":
        return ""
    choices = json.loads(data)["choices"]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)


def texts(path: str = "/v1/completions") -> list[str]:
    """What the recorded events say, those without text left out."""
    return [said for event in events(path) if (said := text(event))]


def repeated(recorded: list[bytes], times: int) -> list[bytes]:
    """A longer answer: all but the first event and the last three (the end, the usage, `[DONE]`) come `times` times."""
    return recorded[:1] + recorded[1:-3] * times + recorded[-3:]


@dataclass
class Stats:
    """Of the recorded routes since the start. `open` answers are under way, at most `peak` were. `gone`: answers whose
    client closed the connection before their end, and when the last was noticed. `sent`: events of all answers.
    `times`: when each event of the last answer was handed to the socket. Times are `time.monotonic`, which the
    processes of one Linux share."""

    requests: int = 0
    open: int = 0
    peak: int = 0
    connections: int = 0
    gone: int = 0
    gone_at: float = 0.0
    sent: int = 0
    times: list[float] = field(default_factory=list)


@dataclass
class App:
    """The ASGI application."""

    stats: Stats = field(default_factory=Stats)
    settings: dict[str, Any] = field(default_factory=dict)
    step: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _clients: set[tuple[str, int]] = field(default_factory=set)
    _recorded: dict[str, list[bytes]] = field(default_factory=lambda: {path: events(path) for path in RECORDED})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        if path in self._recorded:
            await self._answer(scope, receive, send)
        elif path == "/health":
            await _whole(send, 200, {})
        elif path == "/replay/settings":
            self.settings, self.step = json.loads(body), asyncio.Semaphore(0)
            await _whole(send, 200, {})
        elif path == "/replay/step":
            for _ in range(json.loads(body)["events"]):
                self.step.release()
            await _whole(send, 200, asdict(self.stats))
        elif path == "/replay/stats":
            await _whole(send, 200, asdict(self.stats))
        else:  # 5xx: the gateway takes it for a server that cannot be asked now
            await _whole(send, 501, {"error": {"message": f"{path} is not recorded"}})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        stats = self.stats
        self._clients.add(tuple(scope["client"]))
        stats.connections = len(self._clients)
        stats.requests += 1
        stats.open += 1
        stats.peak = max(stats.peak, stats.open)
        answer = asyncio.create_task(self._stream(scope["path"], dict(self.settings), send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                stats.gone += 1
                stats.gone_at = time.monotonic()
        finally:
            stats.open -= 1
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _stream(self, path: str, settings: dict[str, Any], send: Any) -> None:
        await send(_head(200, b"text/event-stream; charset=utf-8"))
        pace = settings.get("pace_ms", 0) / 1e3
        times: list[float] = []
        self.stats.times = times
        for event in repeated(self._recorded[path], settings.get("times", 1)):
            if settings.get("locked"):
                await self.step.acquire()
            else:
                await asyncio.sleep(pace)  # 0 lets others run, as vLLM's server does: its events come from a queue
            times.append(time.monotonic())
            await send({"type": "http.response.body", "body": event, "more_body": True})
            self.stats.sent += 1
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(status: int, content_type: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]}


async def _whole(send: Any, status: int, content: dict[str, Any]) -> None:
    await send(_head(status, b"application/json"))
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


# ---- for tests and benchmarks ----------------------------------------------------------------------------------------


@dataclass
class Replay:
    """A running server."""

    url: str
    process: Process

    def set(self, *, pace_ms: float = 0, times: int = 1, locked: bool = False) -> None:
        settings = {"pace_ms": pace_ms, "times": times, "locked": locked}
        httpx.post(self.url + "/replay/settings", json=settings).raise_for_status()

    def step(self, events: int = 1) -> None:
        httpx.post(self.url + "/replay/step", json={"events": events}).raise_for_status()

    @property
    def stats(self) -> Stats:
        return Stats(**httpx.get(self.url + "/replay/stats").raise_for_status().json())


@contextlib.contextmanager
def serving(log: Path, *, port: int | None = None) -> Iterator[Replay]:
    """A server that answers; stopped on leaving. `port`: where another one was before, say."""
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "tests.live.replaying", str(port)]
    with Process(command, name="replay", log=log, cwd=FIXTURES.parents[1]) as process:
        deadline = time.monotonic() + START_S
        while True:
            process.raise_if_dead()
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url + "/health", timeout=2).raise_for_status()
                break
            assert time.monotonic() < deadline, process.tail()
            time.sleep(0.05)
        yield Replay(url, process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(port: int) -> None:
    import uvicorn

    # vLLM's server: uvicorn, uvloop and httptools, connections kept for 5 s
    uvicorn.run(App(), port=port, log_level="error", access_log=False, timeout_keep_alive=5, backlog=2048, ws="none")


if __name__ == "__main__":
    main(int(sys.argv[1]))
