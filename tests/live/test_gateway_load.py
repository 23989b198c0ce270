"""The gateway under load, in a process of its own, over a server that replays streams of a real vLLM.

What is tested is what lies between a client's socket and the upstream's: streaming, back-pressure, clients and servers
that go away, limits, memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate import resources
from migrate.bundle import write
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.live import replaying
from tests.live.gateway import Running, gateway
from tests.live.replaying import Replay

pytestmark = pytest.mark.live

QUESTION: dict[str, Any] = {"model": "support-bot", "messages": [{"role": "user", "content": "Tell me a story."}]}
TEXT = "".join(replaying.texts())
WRITE_TIMEOUT_S = 2.0
BODY_TIMEOUT_S = 1.0
MAX_BODY_MB = 1
PACE_MS = 20.0
"""Between two events, where answers are to be under way for a second."""


@dataclass(frozen=True)
class Setup:
    """The gateway, and what it stands before."""

    running: Running
    replay: Replay

    @property
    def url(self) -> str:
        return self.running.url

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.running.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("load") / "bundle"
    write.write(plan(Store(resources.directory("demo-store")).load("support-bot")), out)
    return out


@contextlib.contextmanager
def started(directory: Path, bundle: Path, *urls: str, **limits: float) -> Iterator[Running]:
    models: list[Any] = [{"bundle": bundle, "upstream": "a"}]
    with gateway(directory, {"a": {"url": list(urls)}}, models, limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def shared_setup(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    root = tmp_path_factory.mktemp("gateway")
    limits = {"write_timeout": WRITE_TIMEOUT_S, "body_timeout": BODY_TIMEOUT_S, "max_body_mb": MAX_BODY_MB}
    with (
        replaying.serving(root / "replay.log") as replay,
        started(root, bundle, replay.url, **limits) as running,
    ):
        yield Setup(running, replay)


@pytest.fixture
def setup(shared_setup: Setup) -> Iterator[Setup]:
    """The same servers for all tests, with the replay's settings as they were."""
    shared_setup.replay.set()
    yield shared_setup
    shared_setup.replay.set()
    wait_until(lambda: shared_setup.replay.stats.open == 0, 5.0)


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    """Seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not so within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - began


def answer_of(lines: bytes) -> tuple[str, dict[str, Any]]:
    """Text and last line of an NDJSON answer."""
    rows = [json.loads(line) for line in lines.splitlines()]
    return "".join(row["message"]["content"] for row in rows if "message" in row), rows[-1]


def assert_whole(lines: bytes) -> None:
    text, last = answer_of(lines)
    assert text == TEXT
    assert last["done"] is True
    assert last["done_reason"] == "length"
    assert last["eval_count"] == 64


def connect(setup: Setup, receive_buffer: int | None = None) -> socket.socket:
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    address = httpx.URL(setup.url)
    client.connect((address.host, address.port))
    client.settimeout(10)
    return client


def ask(client: socket.socket, body: dict[str, Any], path: str = "/api/chat") -> None:
    content = json.dumps(body).encode()
    client.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
    )


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", QUESTION),
        ("/api/generate", {"model": "support-bot", "prompt": "Tell me a story."}),
        ("/v1/chat/completions", QUESTION | {"stream": True}),
        ("/v1/messages", QUESTION | {"stream": True, "max_tokens": 64}),
    ],
)
def test_each_chunk_arrives_before_the_next_is_sent(setup: Setup, path: str, body: dict[str, Any]) -> None:
    """The replay lets out one event a step, and a step is taken only when the event before has arrived here."""
    setup.replay.set(locked=True)
    said = [replaying.text(event) for event in replaying.events("/v1/completions")]

    async def run() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            arrived, changed = bytearray(), asyncio.Event()

            async def read() -> None:
                async with client.stream("POST", setup.url + path, json=body) as response:
                    assert response.status_code == 200
                    async for piece in response.aiter_raw():
                        arrived.extend(piece)
                        changed.set()

            reading = asyncio.create_task(read())
            for text in said:
                before = len(arrived)
                await client.post(setup.replay.url + "/replay/step", json={"events": 1})
                wanted = json.dumps(text)[1:-1].encode()
                async with asyncio.timeout(5):
                    while text and wanted not in arrived[before:]:
                        changed.clear()
                        await changed.wait()
            await reading

    asyncio.run(run())


def test_200_streams_at_a_time_are_all_complete(setup: Setup) -> None:
    setup.replay.set(locked=True)
    events = len(replaying.events("/v1/completions"))

    async def run() -> list[bytes]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:

            async def one() -> bytes:
                answer = await client.post(setup.url + "/api/chat", json=QUESTION)
                assert answer.status_code == 200
                return answer.content

            asked = [asyncio.create_task(one()) for _ in range(200)]
            await asyncio.to_thread(wait_until, lambda: setup.replay.stats.open == 200, 30)
            await asyncio.to_thread(setup.replay.step, 200 * events)
            return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    for answer in answers:
        assert_whole(answer)


def test_connections_to_the_upstream_are_kept(setup: Setup) -> None:
    before = setup.replay.stats
    with httpx.Client() as client:
        for i in range(40):
            assert client.post(setup.url + "/api/chat", json=QUESTION | {"stream": i % 2 == 0}).status_code == 200
    after = setup.replay.stats
    assert after.requests - before.requests == 40
    assert after.connections - before.connections <= 1


# ---- clients ---------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_holds_up_nobody_and_is_cut_off(setup: Setup) -> None:
    def others() -> float:
        """Median time of 20 clients' answers, in seconds."""
        times = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(httpx.Client(timeout=30)) for _ in range(20)]
            for client in clients:
                began = time.perf_counter()
                assert_whole(client.post(setup.url + "/api/chat", json=QUESTION).content)
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    others()
    before, files, gone = others(), setup.open_files(), setup.replay.stats.gone
    setup.replay.set(times=4000)
    told = len(setup.running.log.read_text())
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(setup, receive_buffer=4096)) for _ in range(3)]
        for client in slow:
            ask(client, QUESTION)
        wait_until(lambda: setup.replay.stats.open == 3, 5)
        wait_until(_still(setup), 30)
        setup.replay.set()
        meanwhile = others()
        wait_until(lambda: setup.replay.stats.open == 0, WRITE_TIMEOUT_S + 5)
        assert meanwhile < 3 * before + 0.01
        assert setup.replay.stats.gone == gone + 3
        # the gateway's end is closed, though the client still has not read what lies in the buffers
        wait_until(lambda: setup.open_files() <= files + 1, 2 * WRITE_TIMEOUT_S + 5)
    logged = setup.running.log.read_text()[told:]
    assert logged.count("status=499") == 3  # by the gateway, which says so, or by the kernel's own limit


def _still(setup: Setup) -> Callable[[], bool]:
    """Whether the upstream has sent nothing for a moment: all buffers are full."""
    last = -1

    def still() -> bool:
        nonlocal last
        time.sleep(0.2)
        before, last = last, setup.replay.stats.sent
        return last == before

    return still


@pytest.mark.parametrize("stream", [True, False])
def test_when_a_client_leaves_the_upstream_is_told_within_a_second(setup: Setup, stream: bool) -> None:
    setup.replay.set(pace_ms=50)
    gone = setup.replay.stats.gone
    with connect(setup) as client:
        ask(client, QUESTION | {"stream": stream})
        if stream:
            assert b'"content":"Once "' in _until(client, b"\n{")
        else:
            wait_until(lambda: setup.replay.stats.open == 1, 5)
    left = time.monotonic()
    wait_until(lambda: setup.replay.stats.gone == gone + 1, 5)
    assert setup.replay.stats.gone_at - left < 1.0


def _until(client: socket.socket, mark: bytes) -> bytes:
    got = b""
    while mark not in got.partition(b"\r\n\r\n")[2]:
        piece = client.recv(65536)
        assert piece, got
        got += piece
    return got


def test_cancelled_requests_leave_no_task_behind(bundle: Path, tmp_path: Path) -> None:
    """In this process, where tasks can be counted."""
    import uvicorn

    from migrate.gateway.app import build
    from migrate.gateway.config import Config

    async def run(replay: Replay) -> None:
        config = Config.model_validate(
            {
                "upstreams": {"a": {"url": replay.url}},
                "models": [{"bundle": bundle, "upstream": "a"}],
                "root": tmp_path,
            }
        )
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
            server = uvicorn.Server(
                uvicorn.Config(build(config), log_config=None, access_log=False, ws="none", lifespan="on")
            )
            serving = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            before = len(asyncio.all_tasks())
            async with httpx.AsyncClient(timeout=30, base_url=f"http://127.0.0.1:{port}") as client:
                for stream in (True, False):
                    asked = [
                        asyncio.create_task(client.post("/api/chat", json=QUESTION | {"stream": stream}))
                        for _ in range(20)
                    ]
                    await asyncio.sleep(0.3)
                    for task in asked:
                        task.cancel()
                    await asyncio.gather(*asked, return_exceptions=True)
            async with asyncio.timeout(5):
                while len(asyncio.all_tasks()) > before:
                    await asyncio.sleep(0.02)
            server.should_exit = True
            await serving

    with replaying.serving(tmp_path / "replay.log") as replay:
        replay.set(pace_ms=50)
        asyncio.run(run(replay))
        wait_until(lambda: replay.stats.open == 0, 2)
        assert replay.stats.gone == 40


# ---- servers that go away --------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """One request of a load: when it ran (`time.monotonic`), its status, its body; 0 when the connection broke."""

    began: float
    ended: float
    status: int
    body: bytes

    @property
    def is_whole(self) -> bool:
        return self.status == 200 and answer_of(self.body)[1].get("done") is True

    @property
    def error(self) -> str:
        """In Ollama's form: the whole body, or the last line of a stream."""
        return str(json.loads(self.body.splitlines()[-1]).get("error", ""))


@contextlib.asynccontextmanager
async def load(url: str, clients: int) -> AsyncIterator[list[Asked]]:
    """Clients that ask again as soon as they are answered, every second one for a stream."""
    asked: list[Asked] = []
    done = asyncio.Event()

    async def one(client: httpx.AsyncClient, i: int) -> None:
        while not done.is_set():
            began = time.monotonic()
            answer = await client.post(url + "/api/chat", json=QUESTION | {"stream": i % 2 == 0})
            asked.append(Asked(began, time.monotonic(), answer.status_code, answer.content))
            if answer.status_code == 503:
                await asyncio.sleep(0.05)

    async with httpx.AsyncClient(timeout=30) as client:
        tasks = [asyncio.create_task(one(client, i)) for i in range(clients)]
        try:
            yield asked
        finally:
            done.set()
            await asyncio.gather(*tasks)


async def settled(asked: list[Asked], *servers: Replay) -> None:
    """Waits until everybody has been answered once and all 20 are waiting in the middle of the next answer."""

    def ready() -> bool:
        stats = [server.stats for server in servers]
        return len(asked) >= 20 and sum(s.open for s in stats) == 20 and all(len(s.times) > 3 for s in stats)

    await asyncio.to_thread(wait_until, ready, 30)


def test_a_server_that_is_killed_loses_what_was_in_flight_and_no_more(bundle: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(replaying.serving(tmp_path / "replay.log"))
        first.set(pace_ms=PACE_MS)
        running = stack.enter_context(started(tmp_path, bundle, first.url))

        async def run() -> tuple[list[Asked], float, float]:
            async with load(running.url, 20) as asked:
                await settled(asked, first)
                killed = time.monotonic()
                os.kill(first.process.pid, signal.SIGKILL)
                await asyncio.sleep(1.0)
                port = httpx.URL(first.url).port
                await asyncio.to_thread(stack.enter_context, replaying.serving(tmp_path / "again.log", port=port))
                up = time.monotonic()
                await asyncio.to_thread(wait_until, lambda: sum(a.began > up for a in asked) >= 20, 20)
            return asked, killed, up

        asked, killed, up = asyncio.run(run())
    lost = [a for a in asked if not a.is_whole]
    in_flight = [a for a in lost if a.began < killed]
    refused = [a for a in lost if a.began >= killed]
    assert 0 < len(in_flight) <= 20
    assert all(a.ended >= killed for a in in_flight)
    assert {a.status for a in in_flight} == {200, 500}  # streams that had begun, and whole answers
    assert all("an error was encountered while running the model" in a.error for a in in_flight)
    assert refused
    assert all(a.began < up for a in refused)
    assert {a.status for a in refused} == {503}
    assert all("no model server answers" in a.error for a in refused)
    assert all(a.is_whole for a in asked if a.began >= up)


def test_with_two_servers_the_other_takes_over(bundle: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(replaying.serving(tmp_path / f"{name}.log")) for name in "ab")
        for one in (a, b):
            one.set(pace_ms=PACE_MS)
        running = stack.enter_context(started(tmp_path, bundle, a.url, b.url))

        async def run() -> tuple[list[Asked], float, int]:
            async with load(running.url, 20) as asked:
                await settled(asked, a, b)
                with_a, killed = (await asyncio.to_thread(lambda: a.stats)).open, time.monotonic()
                os.kill(a.process.pid, signal.SIGKILL)
                await asyncio.to_thread(wait_until, lambda: sum(one.began > killed for one in asked) >= 20, 20)
            return asked, killed, with_a

        asked, killed, with_a = asyncio.run(run())
    lost = [one for one in asked if not one.is_whole]
    assert 5 < with_a < 15  # the least busy is chosen
    assert 0 < len(lost) <= with_a
    assert all(one.began < killed < one.ended for one in lost)


# ---- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit(setup: Setup, chunked: bool) -> None:
    body = json.dumps(QUESTION | {"padding": "x" * (8 << 20)}).encode()
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
    answer = httpx.post(setup.url + "/api/chat", content=pieces if chunked else body, timeout=20)
    assert answer.status_code == 413
    assert answer.json() == {"error": "http: request body too large"}


def test_a_client_that_sends_all_before_it_reads_sees_why(setup: Setup) -> None:
    """Python's http.client is one: cut off while it sends, it would only see a broken pipe."""
    host, port = setup.url.removeprefix("http://").split(":")
    client = http.client.HTTPConnection(host, int(port), timeout=20)
    with contextlib.closing(client):
        client.request("POST", "/api/chat", body=b"x" * (64 << 20))
        answer = client.getresponse()
        assert (answer.status, json.loads(answer.read())) == (413, {"error": "http: request body too large"})


def test_a_body_that_does_not_come(setup: Setup) -> None:
    with connect(setup) as client:
        began = time.monotonic()
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        got = b""
        while piece := client.recv(65536):
            got += piece
    assert BODY_TIMEOUT_S <= time.monotonic() - began < BODY_TIMEOUT_S + 2
    assert got.startswith(b"HTTP/1.1 408 ")
    assert json.loads(got.partition(b"\r\n\r\n")[2]) == {"error": "the request's body did not come"}


def test_more_requests_than_fit(bundle: Path, tmp_path: Path) -> None:
    with (
        replaying.serving(tmp_path / "replay.log") as replay,
        started(tmp_path, bundle, replay.url, max_in_flight=3) as running,
    ):
        replay.set(pace_ms=30)

        async def run() -> list[httpx.Response]:
            async with httpx.AsyncClient(timeout=30) as client:
                asked = [asyncio.create_task(client.post(running.url + "/api/chat", json=QUESTION)) for _ in range(3)]
                await asyncio.to_thread(wait_until, lambda: replay.stats.open == 3, 5)
                refused = [await client.post(running.url + "/api/chat", json=QUESTION) for _ in range(2)]
                answered = [await task for task in asked]
                return [*refused, *answered, await client.post(running.url + "/api/chat", json=QUESTION)]

        answers = asyncio.run(run())
    assert [a.status_code for a in answers] == [503, 503, 200, 200, 200, 200]
    busy = {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert all(a.json() == busy for a in answers[:2])
    for answer in answers[2:]:
        assert_whole(answer.content)


# ---- memory ----------------------------------------------------------------------------------------------------------


async def _many(setup: Setup, count: int) -> None:
    """Requests of four kinds: streamed, whole, left in the middle, refused."""
    async with httpx.AsyncClient(timeout=60) as client:

        async def one(kind: int) -> None:
            url = setup.url + "/api/chat"
            if kind == 2:
                async with client.stream("POST", url, json=QUESTION) as response:
                    await anext(response.aiter_raw())
                return
            body = QUESTION | {"stream": kind == 0} | ({"model": "nobody"} if kind == 3 else {})
            status = (await client.post(url, json=body)).status_code
            assert status == (404 if kind == 3 else 200)

        for _ in range(count // 16):
            await asyncio.gather(*(one(i % 4) for i in range(16)))


@pytest.mark.parametrize(("first", "whole"), [(400, 1_600), pytest.param(1_000, 10_000, marks=pytest.mark.full)])
def test_memory_does_not_grow(setup: Setup, first: int, whole: int) -> None:
    asyncio.run(_many(setup, first))
    before = setup.running.memory
    asyncio.run(_many(setup, whole - first))
    assert setup.running.memory < 1.1 * before
