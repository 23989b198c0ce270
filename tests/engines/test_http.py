from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from migrate.engines import http
from migrate.engines.http import JsonClient, base_url
from migrate.engines.supervisor import free_port
from migrate.errors import ServerError, ServerUnreachable, UsageError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("localhost:8000", "http://localhost:8000/"),
        ("http://gpu1:8000/", "http://gpu1:8000/"),
        ("http://gpu1:8000/v1/", "http://gpu1:8000/"),
        (" https://api.example.com/vllm/v1 ", "https://api.example.com/vllm"),
        ("[::1]:8000", "http://[::1]:8000/"),
        ("http://h:1/?key=x#y", "http://h:1/"),
    ],
)
def test_addresses_as_people_write_them(written: str, meant: str) -> None:
    assert str(base_url(written)) == meant


@pytest.mark.parametrize("written", ["", "http://", "ftp://host", "http://host:port"])
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(UsageError, match="no address of a server"):
        base_url(written)


Behaviour = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(behaviour: Behaviour) -> Iterator[str]:
    """Address of an HTTP server that does one thing to every request."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            try:
                behaviour(self)
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.close_connection = True

        do_GET = do_POST = _do

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def answer(status: int, content: bytes) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return behave


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (404, b'{"error":"model \'nope\' not found"}', "model 'nope' not found"),
        (400, b'{"error":{"message":"max_tokens must be at least 1","code":400}}', "max_tokens must be at least 1"),
        (400, b'{"error":{"code":400,"message":"Prompt contains invalid tokens"}}', "Prompt contains invalid tokens"),
        (404, b'{"detail":"Not Found"}', "Not Found"),
        (500, b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (503, b"", "(empty)"),
        (200, b"hello", "something that is not JSON: 'hello'"),
        (200, b"[" * 100_000, "something that is not JSON"),
        (200, b"\xff\xfe\x00", "something that is not JSON"),
    ],
)
def test_errors_say_what_the_server_said(status: int, content: bytes, message: str) -> None:
    with server(answer(status, content)) as url, pytest.raises(ServerError) as caught:
        JsonClient(url, label="vLLM").get("/x")
    assert message in str(caught.value)
    assert "vLLM at http://127.0.0.1" in str(caught.value)
    assert caught.value.status == status


def test_nobody_listens() -> None:
    with pytest.raises(ServerUnreachable, match="Ollama does not answer at http://127") as caught:
        JsonClient(f"127.0.0.1:{free_port()}", label="Ollama").get("/x")
    assert caught.value.hint is not None


def _hang(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3)


def _drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def _break_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"a": ')


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (_hang, r"did not answer /x within 0.5 s"),
        (_drip, r"did not answer /x within 0.5 s"),
        (_break_off, r"broke off while answering /x"),
    ],
)
def test_a_server_that_misbehaves_is_left_in_time(behaviour: Behaviour, message: str) -> None:
    started = time.monotonic()
    with server(behaviour) as url:
        client = JsonClient(url, label="vLLM", timeout=0.5)
        with pytest.raises(ServerUnreachable, match=message):
            client.post("/x", {})
        assert time.monotonic() - started < 2.5


def test_an_answer_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_RESPONSE_BYTES", 1 << 20)
    with (
        server(answer(200, b"[" + b"0," * (1 << 20) + b"0]")) as url,
        pytest.raises(ServerError, match="more than 1 MiB"),
    ):
        JsonClient(url, label="vLLM").get("/x")


def test_the_key_is_sent_and_secrets_stay_out_of_messages() -> None:
    seen: list[str | None] = []

    def behave(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        answer(401, json.dumps({"error": "Unauthorized"}).encode())(handler)

    with server(behave) as url:
        client = JsonClient(url.replace("http://", "http://user:hunter2@"), label="vLLM", api_key="s3cret")
        with pytest.raises(ServerError, match="Unauthorized") as caught:
            client.get("/v1/models")
    assert seen == ["Bearer s3cret"]
    assert "hunter2" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
