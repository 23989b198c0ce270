"""The recording proxy in front of a replayed Ollama, and in front of servers that misbehave."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.errors import BadInput, MissingExtra, OutputExists, UsageError
from migrate.parity.traffic import recorder as recorder_module
from migrate.parity.traffic.read import read_requests
from migrate.parity.traffic.record import record
from migrate.parity.traffic.recorder import Exchange, Recorder
from tests.ollama.replay import recordings, replay, serving
from tests.parity.traffic.proxied import Proxied, proxied

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Echo(Handler):
    """Answers with what came: method, path, headers, length and digest of the body."""

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        digest, left = hashlib.sha256(), length
        while left and (piece := self.rfile.read(min(left, 1 << 20))):
            digest.update(piece)
            left -= len(piece)
        told = {
            "method": self.command,
            "path": self.path,
            "headers": {key.lower(): value for key, value in self.headers.items()},
            "length": length,
            "sha256": digest.hexdigest(),
        }
        self.reply(200, json.dumps(told).encode(), content_type="application/json", x_two="a")

    do_GET = do_POST = do_DELETE = do_PUT = answer


def test_a_real_ollama_answers_the_same_through_it(shared: Path, tmp_path: Path) -> None:
    """Every recording: status, type and body byte for byte; and of each request that runs a model a line."""
    rows = [row for row in recordings(shared / "ollama" / "recordings.jsonl") if row["request"]["method"] != "DELETE"]
    rows = rows[::3] + [row for row in rows if row["name"].startswith(("chat-stream", "error", "embed"))]
    path = tmp_path / "requests.jsonl"
    with replay(recordings(shared / "ollama" / "recordings.jsonl")) as url, proxied(url, path) as proxy:
        with httpx.Client(base_url=proxy.url) as through, httpx.Client(base_url=url) as direct:
            for row in rows:
                ask = row["request"]
                content = ask["body"] if isinstance(ask["body"], str) else None
                body = None if content is not None else ask["body"]
                ours, theirs = (
                    client.request(ask["method"], ask["path"], json=body, content=content)
                    for client in (through, direct)
                )
                assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), row["name"]
                assert ours.headers["content-type"] == theirs.headers["content-type"]
        result = proxy.stop()
    runs = [
        row for row in rows if row["request"]["path"] in ("/api/chat", "/api/generate") or row["name"].startswith("v1-")
    ]
    runs = [row for row in runs if isinstance(row["request"]["body"], dict)]
    assert result.forwarded == len(rows)
    assert {row["path"] for row in proxy.rows} >= {"/api/chat", "/api/generate", "/v1/chat/completions", "/api/embed"}
    written = [(row["path"], row["body"], row["status"]) for row in proxy.rows]
    for row in runs:
        if row["name"] != "v1-models":
            assert (row["request"]["path"], row["request"]["body"], row["response"]["status"]) in written
    assert result.recorded == len(written)
    assert read_requests(path, model="support-bot").traffic.used > 5


def test_streaming_is_not_held_back(tmp_path: Path) -> None:
    """A piece arrives before the server sends the next one: the server waits until the client has seen it."""
    seen = threading.Event()

    class Slow(Handler):
        def do_POST(self) -> None:
            self.body()
            self.stream()
            for i in range(5):
                self.chunk(json.dumps({"message": {"content": f"t{i} "}, "done": False}).encode() + b"\n")
                assert seen.wait(10)
                seen.clear()
            self.chunk(b'{"message":{"content":""},"done":true,"done_reason":"stop"}\n')
            self.chunk(b"")

    path = tmp_path / "r.jsonl"
    with serving(Slow) as url, proxied(url, path, with_answers=True) as proxy:
        lines = []
        with httpx.stream("POST", f"{proxy.url}/api/chat", json=CHAT) as response:
            assert response.headers["content-type"] == "application/x-ndjson"
            for line in response.iter_lines():
                lines.append(json.loads(line))
                seen.set()
        assert [line["message"]["content"] for line in lines] == ["t0 ", "t1 ", "t2 ", "t3 ", "t4 ", ""]
        proxy.stop()
    assert proxy.rows[0]["answer"] == {"text": "t0 t1 t2 t3 t4 ", "finish_reason": "stop"}


def test_answers_of_a_real_ollama(shared: Path, tmp_path: Path) -> None:
    """Streamed or not, native or OpenAI's: the same words."""
    rows = {row["name"]: row for row in recordings(shared / "ollama" / "recordings.jsonl")}
    names = ("chat-stream/support-bot", "generate-stream", "v1-chat-stream", "generate/legacy-bot", "v1-completions")
    path = tmp_path / "r.jsonl"
    with replay(list(rows.values())) as url, proxied(url, path, with_answers=True) as proxy:
        for name in names:
            ask = rows[name]["request"]
            assert httpx.post(proxy.url + ask["path"], json=ask["body"]).status_code == 200
        proxy.stop()
    texts = [row["answer"]["text"] for row in proxy.rows]
    ends = [row["answer"]["finish_reason"] for row in proxy.rows]
    assert texts[0] == texts[1]
    assert texts[0].startswith("Once")
    assert "7" in texts[2]
    assert texts[3] == "The capital of Peru is Lima."
    assert texts[4]
    assert set(ends) <= {"stop", "length"}


def test_client_that_hangs_up_stops_the_server_behind(tmp_path: Path) -> None:
    stopped = threading.Event()

    class Endless(Handler):
        def do_POST(self) -> None:
            self.body()
            self.stream()
            try:
                while not stopped.is_set():
                    self.chunk(b'{"message":{"content":"' + b"x" * 4096 + b'"}}\n')
            except OSError:
                stopped.set()
                self.close_connection = True

    with serving(Endless) as url, proxied(url, tmp_path / "r.jsonl", with_answers=True) as proxy:
        with httpx.stream("POST", f"{proxy.url}/api/chat", json=CHAT) as response:
            next(response.iter_raw())
        assert stopped.wait(20)
        assert proxy.stop().recorded == 1
    (row,) = proxy.rows
    assert (row["status"], row["body"]) == (200, CHAT)
    assert "answer" not in row


def test_client_that_hangs_up_before_there_is_an_answer(tmp_path: Path) -> None:
    """As while a model is loaded: the connection behind is closed at once."""
    asked, closed = threading.Event(), threading.Event()

    class Loading(Handler):
        def do_POST(self) -> None:
            self.body()
            asked.set()
            self.connection.settimeout(20)
            if self.connection.recv(1) == b"":
                closed.set()
            self.close_connection = True

    with serving(Loading) as url, proxied(url, tmp_path / "r.jsonl") as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        data = json.dumps(CHAT).encode()
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data) + data)
            assert asked.wait(20)
        assert closed.wait(20)
        proxy.stop()
    assert "status" not in proxy.rows[0]


def test_client_that_hangs_up_while_it_sends(tmp_path: Path) -> None:
    """Nothing is recorded of half a request."""
    with serving(Echo) as url, proxied(url, tmp_path / "r.jsonl") as proxy:
        host, port = proxy.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /api/chat HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n" + b'{"model":')
        assert httpx.get(f"{proxy.url}/api/tags").status_code == 200
        assert proxy.stop().recorded == 0
    assert not (tmp_path / "r.jsonl").exists()


def test_server_that_dies_while_it_streams(tmp_path: Path) -> None:
    """The client sees what it would see without us: the pieces so far, then a broken connection."""

    class Dying(Handler):
        def do_POST(self) -> None:
            self.body()
            self.stream()
            self.chunk(b'{"message":{"content":"half"}}\n')
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    got: list[bytes] = []
    with serving(Dying) as url, proxied(url, tmp_path / "r.jsonl", with_answers=True) as proxy:
        with httpx.stream("POST", f"{proxy.url}/api/chat", json=CHAT) as response:
            pieces = response.iter_raw()
            got.append(next(pieces))
            with pytest.raises(httpx.RemoteProtocolError):
                got += pieces
        proxy.stop()
    assert got == [b'{"message":{"content":"half"}}\n']
    assert "answer" not in proxy.rows[0]


def test_server_that_hangs_up_before_it_answers(tmp_path: Path) -> None:
    class Gone(Handler):
        def do_POST(self) -> None:
            self.body()
            self.close_connection = True

    with serving(Gone) as url, proxied(url, tmp_path / "r.jsonl") as proxy:
        answer = httpx.post(f"{proxy.url}/api/chat", json=CHAT)
        proxy.stop()
    assert answer.status_code == 502
    assert "broke off" in answer.json()["error"]


def test_no_server_behind(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        source = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
    with proxied(source, tmp_path / "r.jsonl") as proxy:
        native = httpx.post(f"{proxy.url}/api/chat", json=CHAT)
        openai = httpx.post(f"{proxy.url}/v1/chat/completions", json=CHAT)
        head = httpx.head(f"{proxy.url}/api/tags")
        proxy.stop()
    assert (native.status_code, openai.status_code, head.status_code) == (502, 502, 502)
    assert "no server answers" in native.json()["error"]
    assert openai.json()["error"]["type"] == "api_error"
    assert head.content == b""
    assert "secret" not in native.text
    assert [row["status"] for row in proxy.rows] == [502, 502]
    assert read_requests(tmp_path / "r.jsonl").traffic.duplicates == 1


def test_what_is_passed_on(tmp_path: Path) -> None:
    """Method, path, query, headers and a large body; the headers of the connection are the proxy's own."""
    blob = os.urandom(1 << 20) * 48
    headers = {
        b"authorization": b"Bearer sk-very-secret-0123456789",
        b"x-custom": "ü".encode(),
        b"te": b"trailers",
        b"connection": b"close, x-hop",
        b"x-hop": b"1",
        b"cookie": b"a=b",
    }
    with serving(Echo) as url, proxied(url, tmp_path / "r.jsonl") as proxy, httpx.Client(base_url=proxy.url) as client:
        told = client.post("/api/blobs/sha256:1?a=%20b&c", content=blob, headers=headers).json()
        assert (told["method"], told["path"]) == ("POST", "/api/blobs/sha256:1?a=%20b&c")
        assert (told["length"], told["sha256"]) == (len(blob), hashlib.sha256(blob).hexdigest())
        seen = told["headers"]
        assert seen["authorization"].startswith("Bearer sk-")
        assert seen["cookie"] == "a=b"
        assert seen["host"] == proxy.url.removeprefix("http://")
        assert "x-hop" not in seen
        assert "te" not in seen
        answer = client.delete("/api/delete")
        assert (answer.json()["method"], answer.headers["x-two"]) == ("DELETE", "a")
        assert "server" not in answer.headers or "uvicorn" not in answer.headers["server"]
        assert client.post("/api/chat", json=CHAT, headers=headers).status_code == 200
        assert proxy.stop().recorded == 1
    assert "very-secret" not in (tmp_path / "r.jsonl").read_text()


def test_host(tmp_path: Path) -> None:
    """The client's for an Ollama on this machine, which turns strange names away; else the name of the server."""
    with serving(Echo) as url, proxied(url, tmp_path / "a.jsonl") as proxy:
        told = httpx.get(f"{proxy.url}/api/tags", headers={"host": "evil.example"}).json()
        assert told["headers"]["host"] == "evil.example"
    with serving(Echo) as url:
        machine = url.replace("127.0.0.1", "127.1")
        with proxied(machine, tmp_path / "b.jsonl") as proxy:
            told = httpx.get(f"{proxy.url}/api/tags", headers={"host": "evil.example"}).json()
            assert told["headers"]["host"] == machine.removeprefix("http://")


def test_memory_does_not_grow_with_a_body(tmp_path: Path) -> None:
    import tracemalloc

    def pieces() -> Any:
        for _ in range(200):
            yield bytes(1 << 20)

    class Sink(Handler):
        def do_POST(self) -> None:
            total = 0
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size)
                self.rfile.readline()
                total += size
            self.rfile.readline()
            self.reply(200, str(total).encode())

    with serving(Sink) as url, proxied(url, tmp_path / "r.jsonl") as proxy:
        tracemalloc.start()
        answer = httpx.post(f"{proxy.url}/api/blobs/sha256:0", content=pieces(), timeout=60)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.text == str(200 << 20)
        assert peak < 24 << 20
        proxy.stop()


def test_requests_too_large_to_record_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.parity.traffic.proxy.MAX_BODY_BYTES", 1000)
    with serving(Echo) as url, proxied(url, tmp_path / "r.jsonl") as proxy:
        for content in ("x", "y" * 2000):
            body = {"model": "m", "messages": [{"role": "user", "content": content}]}
            assert httpx.post(f"{proxy.url}/api/chat", json=body).json()["length"] > len(content)
        assert httpx.post(f"{proxy.url}/api/chat", content=b"[1").status_code == 200
        result = proxy.stop()
    assert result.recorded == 1
    assert result.left_out == {"larger than 32 MiB": 1, "its body is no JSON object": 1}


def test_many_clients_at_once(tmp_path: Path) -> None:
    """Every line is whole, and every request is there once."""
    path = tmp_path / "r.jsonl"

    def ask(number: int) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": f"{number} " + "é" * (number * 37 % 5000)}]}
        return str(client.post("/api/chat", json=body).json()["sha256"])

    with serving(Echo) as url, proxied(url, path) as proxy, httpx.Client(base_url=proxy.url) as client:
        with ThreadPoolExecutor(16) as pool:
            digests = list(pool.map(ask, range(200)))
        assert proxy.stop().recorded == 200
    assert len(set(digests)) == 200
    assert {int(row["body"]["messages"][0]["content"].split()[0]) for row in proxy.rows} == set(range(200))
    assert read_requests(path).traffic.used == 200


def test_file(tmp_path: Path) -> None:
    """Mode 0600, images left out, redacted when asked, and a line is there as soon as the request is done."""
    path = tmp_path / "r.jsonl"
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "I am ada@corp.io", "images": ["aGVsbG8=" * 1000]}],
        "options": {"temperature": 0.1},
    }

    class Answer(Handler):
        def do_POST(self) -> None:
            self.body()
            self.reply(200, b'{"message":{"content":"hello ada@corp.io"},"done":true}', content_type="application/json")

    written = threading.Event()
    with (
        serving(Answer) as url,
        proxied(url, path, redact=True, with_answers=True, on_line=lambda count: written.set()) as proxy,
    ):
        httpx.post(f"{proxy.url}/api/chat", json=body)
        assert written.wait(20)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (row,) = proxy.rows
        result = proxy.stop()
    text = row["body"]["messages"][0]["content"]
    assert text.startswith("I am ")
    assert text.endswith(".example")
    assert row["answer"]["text"] == "hello " + text.removeprefix("I am ")
    assert row["body"]["options"] == {"temperature": 0.1}
    assert "aGVsbG8" not in path.read_text()
    assert "corp" not in path.read_text()
    assert result.redacted == {"e-mail": 2}


def test_limit_and_time_end_it(tmp_path: Path) -> None:
    with serving(Echo) as url:
        with proxied(url, tmp_path / "a.jsonl", limit=3) as proxy:
            for _ in range(3):
                httpx.post(f"{proxy.url}/api/chat", json=CHAT)
            assert proxy.join().recorded == 3
        with proxied(url, tmp_path / "b.jsonl", seconds=0.05) as proxy:
            assert proxy.join().recorded == 0
    assert not (tmp_path / "b.jsonl").exists()


def test_an_answer_under_way_is_finished(tmp_path: Path) -> None:
    go = threading.Event()

    class Waits(Handler):
        def do_POST(self) -> None:
            self.body()
            self.stream()
            self.chunk(b"1\n")
            assert go.wait(20)
            self.chunk(b"2\n")
            self.chunk(b"")

    with (
        serving(Waits) as url,
        proxied(url, tmp_path / "r.jsonl") as proxy,
        httpx.stream("POST", f"{proxy.url}/api/chat", json=CHAT) as response,
    ):
        pieces = response.iter_lines()
        assert next(pieces) == "1"
        proxy._stop.set()
        go.set()
        assert list(pieces) == ["2"]
        assert proxy.join().recorded == 1


def test_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    for listen in ("nowhere", "127.0.0.1:99999", "127.0.0.1:", "999.1.1.1:80"):
        with pytest.raises(UsageError):
            record("127.0.0.1:1", path, listen=listen)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match="cannot listen"):
            record("127.0.0.1:1", path, listen=address)
    with pytest.raises(UsageError, match="is the server to be recorded"):
        record(address, path, listen=address)
    assert not path.exists()
    path.write_text("kept\n")
    with pytest.raises(OutputExists):
        record("127.0.0.1:1", path, listen="127.0.0.1:0")
    assert path.read_text() == "kept\n"
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(MissingExtra, match="uvicorn"):
        record("127.0.0.1:1", path)


def test_force_replaces_a_file_and_does_not_follow_a_link(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "r.jsonl"
    other.write_text("untouched")
    path.symlink_to(other)
    recorder = Recorder(path, force=True)
    recorder.put(Exchange("/api/chat", json.dumps(CHAT).encode(), 0.0, 200))
    recorder.close()
    assert other.read_text() == "untouched"
    assert json.loads(path.read_text()) == {
        "time": "1970-01-01T00:00:00.000Z",
        "path": "/api/chat",
        "status": 200,
        "body": CHAT,
    }


def test_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "r.jsonl", os.write
    calls = []

    def write(file: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 2:
            return real(file, bytes(data)[:10])
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(file, data)

    monkeypatch.setattr(os, "write", write)
    recorder = Recorder(path)
    for _ in range(3):
        recorder.put(Exchange("/api/chat", json.dumps(CHAT).encode(), 0.0, 200))
    recorder.close()
    assert recorder.full
    assert (recorder.count, str(recorder.error)) == (1, "[Errno 28] No space left on device")
    assert len(path.read_text().splitlines()) == 1
    assert path.read_text().endswith("\n")


def test_full_disk_ends_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Recorder, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, "_append", full)
    proxy = Proxied(tmp_path / "r.jsonl")
    with serving(Echo) as url:
        proxy.start(url, listen="127.0.0.1:0")
        assert httpx.post(f"{proxy.url}/api/chat", json=CHAT).status_code == 200
        with pytest.raises(BadInput, match="No space left"):
            proxy.join()


def test_a_slow_disk_loses_lines_and_not_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_WAITING_BYTES", 1000)
    go = threading.Event()

    def wait(count: int) -> None:
        go.wait(20)

    recorder = Recorder(tmp_path / "r.jsonl", on_line=wait)
    for _ in range(100):
        recorder.put(Exchange("/api/chat", json.dumps(CHAT).encode(), 0.0, 200))
    go.set()
    recorder.close()
    assert recorder.count + recorder.left_out["the disk did not keep up"] == 100
    assert recorder.left_out["the disk did not keep up"] > 90
