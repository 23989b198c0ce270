"""One request from its first byte to its last, over sockets: size, time, queue, clients that leave or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.gateway.app import build
from migrate.gateway.config import Config
from migrate.gateway.endpoint import BUSY, Keys, Room, _model_of
from migrate.gateway.types import ApiError
from migrate.gateway.upstreams import Upstreams
from tests.gateway import bench
from tests.ollama.replay import recordings

USER = [{"role": "user", "content": "What is 3+4?"}]
RAW = {"model": "support-bot", "raw": True, "options": {"temperature": 0}}


@pytest.fixture
def row(shared: Path) -> dict[str, Any]:
    """A recorded request whose answer has several pieces."""
    return next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == "generate-raw")


@pytest.fixture
def streamed(row: dict[str, Any]) -> dict[str, Any]:
    return {**row["request"]["body"], "stream": True}


def gateway(alone: Path, url: str, **limits: Any) -> Config:
    return bench.config(alone, url, only=["support-bot"], limits=limits)


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def answer_of(connection: socket.socket) -> tuple[int, str, bytes]:
    """Status, head and body of an answer after which the connection is closed, or which has a length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    length = int(lengths[0]) if lengths else None
    while length is None or len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            break
        body += piece
    return int(head.split()[1]), head.decode(), body


# ---- size and time ---------------------------------------------------------------------------------------------------


def test_bodies_that_are_too_large(alone: Path) -> None:
    config = gateway(alone, bench.NOWHERE, max_body_mb=1)
    large = b'{"model": "support-bot", "prompt": "' + b"x" * (1 << 20) + b'"}'
    with bench.listening(config) as url:
        got = httpx.post(url + "/api/generate", content=large)
        assert (got.status_code, got.json()) == (413, {"error": "http: request body too large"})
        assert got.headers["connection"] == "close"

        def pieces() -> Iterator[bytes]:
            yield from (large[i : i + 50_000] for i in range(0, len(large), 50_000))

        try:
            got = httpx.post(url + "/v1/chat/completions", content=pieces())  # without a length
        except httpx.WriteError:  # it hung up while more was coming
            return
        assert got.status_code == 413
        assert got.json()["error"]["message"] == "http: request body too large"
        assert httpx.post(url + "/api/show", content=large).status_code == 413


def test_a_body_that_does_not_come(alone: Path) -> None:
    with bench.listening(gateway(alone, bench.NOWHERE, body_timeout=0.2)) as url, connected(url) as client:
        client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        started = time.monotonic()
        status, _, body = answer_of(client)

    assert (status, json.loads(body)) == (408, {"error": "the request's body did not come"})
    assert 0.1 < time.monotonic() - started < 5


def test_a_client_that_leaves_with_half_a_body(alone: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with bench.listening(gateway(alone, bench.NOWHERE)) as url:
        with connected(url) as client:
            client.sendall(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.2)
        deadline = time.monotonic() + 5
        while "status=499" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
        assert httpx.get(url).text == "Ollama is running"

    assert "path=/api/chat status=499" in caplog.text
    assert "Traceback" not in caplog.text


# ---- queue -----------------------------------------------------------------------------------------------------------


def test_room() -> None:
    room = Room(2)
    with room.one(), room.one():
        with pytest.raises(ApiError) as caught, room.one():
            pass
        assert (caught.value.status, caught.value.message) == (503, BUSY)
        assert room.taken == 2
    assert room.taken == 0
    with contextlib.suppress(ValueError), room.one():
        raise ValueError
    assert room.taken == 0


def test_too_many_requests_are_503_in_ollamas_words(alone: Path, streamed: dict[str, Any]) -> None:
    with bench.vllm() as vllm:
        vllm.fault = "slow"

        async def both() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=url) as client:
                first = asyncio.create_task(client.post("/api/generate", json=streamed))
                while not vllm.asked or vllm.asked[-1][0] != "/v1/completions":
                    await asyncio.sleep(0.01)
                second = await client.post("/api/generate", json=streamed)
                other = await client.post("/v1/chat/completions", json={"model": "support-bot"})
                free = await client.get("/api/version")
                return [await first, second, other, free, await client.post("/api/generate", json=streamed)]

        with bench.listening(gateway(alone, vllm.url, max_in_flight=1)) as url:
            first, second, other, free, third = bench.run(both())

    assert (first.status_code, free.status_code, third.status_code) == (200, 200, 200)
    assert (second.status_code, second.json()) == (503, {"error": BUSY})
    assert second.headers["retry-after"] == "1"
    assert (other.status_code, other.json()["error"]["message"]) == (503, BUSY)


# ---- clients ---------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_takes_its_request_with_it(
    alone: Path, streamed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with bench.vllm() as vllm:
        vllm.fault = "slow"
        with bench.listening(gateway(alone, vllm.url, max_in_flight=1)) as url:
            with httpx.stream("POST", url + "/api/generate", json=streamed) as answer:
                assert next(answer.iter_lines())
            assert vllm.left.wait(5), "vLLM went on"
            vllm.fault = ""
            deadline = time.monotonic() + 5
            while "status=499" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.02)
            assert httpx.post(url + "/api/generate", json=streamed).status_code == 200  # its room is free again

    assert "path=/api/generate status=499 model=support-bot:latest upstream=vllm" in caplog.text
    assert "failed=True" not in caplog.text


def test_pieces_come_as_they_are_made(alone: Path, streamed: dict[str, Any]) -> None:
    with bench.vllm() as vllm:
        vllm.fault = "slow"
        with bench.listening(gateway(alone, vllm.url)) as url:
            times = []
            with httpx.stream("POST", url + "/api/generate", json=streamed) as answer:
                assert answer.headers["content-type"] == "application/x-ndjson"
                assert answer.headers["transfer-encoding"] == "chunked"
                for line in answer.iter_lines():
                    times.append((time.monotonic(), json.loads(line)["done"]))

    gaps = [b - a for (a, _), (b, _) in pairwise(times)]
    assert len(times) > 4
    assert max(gaps) < 0.5
    assert sum(gap > 0.02 for gap in gaps) >= 3  # 50 ms apart at vLLM


def test_a_client_that_does_not_read_is_cut_off(alone: Path, caplog: pytest.LogCaptureFixture) -> None:
    """/api/show of a model with its tokenizer is large enough to fill the buffers of a socket."""
    config = gateway(alone, bench.NOWHERE, write_timeout=0.5)
    ask = json.dumps({"model": "support-bot", "verbose": True}).encode()
    head = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(ask)
    with bench.listening(config) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, _, port = url.removeprefix("http://").partition(":")
        client.connect((host, int(port)))
        client.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(2000):  # asked again and again without reading
                client.sendall(head + ask)
                if "does not read" in caplog.text:
                    break
        deadline = time.monotonic() + 10
        while "does not read" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        assert httpx.get(url).text == "Ollama is running"

    assert "POST /api/show: the client does not read: cut off" in caplog.text


# ---- what breaks -----------------------------------------------------------------------------------------------------


def test_a_failure_of_our_own_is_500_and_logged(
    alone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **more: Any) -> Any:
        raise ZeroDivisionError("of our own")

    monkeypatch.setattr("migrate.gateway.serving.Serving.generate", broken)
    got = bench.ask(gateway(alone, bench.NOWHERE), "POST", "/api/generate", {"model": "support-bot", "prompt": "x"})

    assert (got.status_code, got.json()) == (500, {"error": "the gateway failed: ZeroDivisionError"})
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/completions", {"prompt": "What is 3+4?", "temperature": 0, "max_tokens": 16}, "error"),
        ("/v1/chat/completions", {"messages": USER, "temperature": 0}, "error"),
        ("/v1/messages", {"messages": USER, "max_tokens": 32}, "event: error"),
    ],
)
def test_an_error_in_the_middle_in_the_form_of_each_protocol(
    alone: Path, path: str, body: dict[str, Any], said: str
) -> None:
    """v1-chat, v1-completions and v1-messages ask vLLM the same: one recording of eight tokens."""
    with bench.vllm() as vllm:
        whole = bench.ask(gateway(alone, vllm.url), "POST", path, {"model": "support-bot", "stream": True, **body})
        vllm.fault = "cut"
        cut = bench.ask(gateway(alone, vllm.url), "POST", path, {"model": "support-bot", "stream": True, **body})
        vllm.fault = "status"
        before = bench.ask(gateway(alone, vllm.url), "POST", path, {"model": "support-bot", "stream": True, **body})

    assert (whole.status_code, cut.status_code) == (200, 200)
    assert "an error was encountered" not in whole.text
    assert said in cut.text
    assert "an error was encountered while running the model" in cut.text
    assert before.status_code == 500
    assert before.headers["content-type"].startswith("application/json")
    assert "the engine is dead" in json.dumps(before.json())


def test_ollama_that_breaks_off_breaks_off_here(alone: Path, tmp_path: Path) -> None:
    """The head is out: what Ollama's client would see is a connection that ends."""
    from http.server import BaseHTTPRequestHandler

    from tests.ollama.replay import serving

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n")
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as ollama:
        config = bench.config(alone, only=["support-bot"], source=ollama, state=str(tmp_path / "s.json"))
        said = []
        with (
            bench.listening(config) as url,
            httpx.stream("POST", url + "/api/generate", json=RAW, headers={"x-migrate-upstream": "source"}) as answer,
            contextlib.suppress(httpx.RemoteProtocolError),
        ):
            for piece in answer.iter_raw():
                said.append(piece)
            said.append(b"the end")
        assert said == [b"hello"]


# ---- logs ------------------------------------------------------------------------------------------------------------


def test_a_line_for_each_request_without_what_was_asked(
    alone: Path, row: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="migrate")
    body = {**row["request"]["body"], "options": {"temperature": 0, "repeat_penalty": 1.3, "mirostat\nFAKE": 1}}
    with bench.vllm() as vllm:
        headers = {"authorization": "Bearer secret-key"}
        bench.ask(gateway(alone, vllm.url), "POST", "/api/generate", body, headers=headers)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "migrate.gateway.access"]

    assert line.startswith("path=/api/generate status=")
    assert "model=support-bot:latest upstream=vllm" in line
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert "secret-key" not in everything
    assert "What is 3+4?" not in everything
    assert "option 'mirostat\\nFAKE' is not one of Ollama's: ignored" in everything


@pytest.mark.parametrize("path", ["/v1/models/a%0db", "/v1/models/%1b%5b31mred", "/v1/models/a%20b"])
def test_paths_do_not_write_into_the_log(alone: Path, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.ask(gateway(alone, bench.NOWHERE), "GET", path)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "migrate.gateway.access"]

    assert line.isprintable()
    assert "status=404" in line


def test_notes_are_told_in_a_header(alone: Path, streamed: dict[str, Any]) -> None:
    body = {"model": "support-bot", "prompt": "x", "options": {"temperature": 0.5}, "_debug_render_only": True}
    assert "x-migrate-notes" not in bench.ask(gateway(alone, bench.NOWHERE), "POST", "/api/generate", body).headers
    with bench.vllm() as vllm:
        got = bench.ask(gateway(alone, vllm.url), "POST", "/api/generate", streamed)
    assert set(got.headers.get("x-migrate-notes", "").split(", ")) <= {"", "repeat_penalty"}


@pytest.mark.parametrize("given", ["", "é", "\xff", "a" * 10_000])
def test_no_key_of_any_kind_breaks_the_comparison(given: str) -> None:
    assert not Keys(frozenset({"kéy", "b"})).admits({"authorization": f"Bearer {given}"})
    assert Keys(frozenset()).admits({})


# ---- nothing is left behind ------------------------------------------------------------------------------------------


def test_clients_that_leave_at_any_moment_leave_nothing_behind(
    alone: Path, streamed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 requests, each given up after another time from nothing to the whole of an answer."""
    import uvicorn

    made: list[Upstreams] = []
    rooms: list[Room] = []

    def keep_upstreams(self: Upstreams, config: Config) -> None:
        made.append(self)
        upstreams(self, config)

    def keep_room(self: Room, limit: int) -> None:
        rooms.append(self)
        room(self, limit)

    upstreams, room = Upstreams.__init__, Room.__init__
    monkeypatch.setattr(Upstreams, "__init__", keep_upstreams)
    monkeypatch.setattr(Room, "__init__", keep_room)

    async def run(url: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(build(gateway(alone, url)), port=port, log_config=None, lifespan="on"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        before = len(asyncio.all_tasks())

        async def leave(after: float) -> None:
            async with httpx.AsyncClient() as client:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(after):
                        await client.post(f"http://127.0.0.1:{port}/api/generate", json=streamed)

        for start in range(0, 60, 10):
            await asyncio.gather(*(leave(0.01 * (start + i)) for i in range(10)))
        deadline = time.monotonic() + 5
        while (len(asyncio.all_tasks()) > before or rooms[0].taken) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        assert rooms[0].taken == 0
        assert [server.busy for pool in made[0].pools.values() for server in pool.servers] == [0]
        assert len(asyncio.all_tasks()) <= before
        server.should_exit = True
        await serving

    with bench.vllm() as vllm:
        vllm.fault = "slow"
        bench.run(run(vllm.url))


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        ({"model": "a"}, "a"),
        ({"Model": "a"}, "a"),
        ({"MODEL": "a", "model": "b"}, "b"),
        ({"model": 3, "MODEL": "a"}, ""),
        ({}, ""),
        ({"model": None}, ""),
    ],
)
def test_models_by_any_spelling_of_the_key(request_: dict[str, Any], model: str) -> None:
    """Go reads keys in any case: a request must not get past the cut-over by that."""
    assert _model_of(request_) == model
