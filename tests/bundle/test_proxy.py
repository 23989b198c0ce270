"""The emitted nginx.conf in a real nginx: who may ask, what is open, and what happens when a server goes away."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from migrate.bundle import deploy, write
from migrate.bundle.deploy import Options
from migrate.engines.supervisor import free_port
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.bundle.proxy import nginx
from tests.bundle.test_write import STORE

Upstream = tuple[HTTPServer, list[dict[str, object]]]


class Echo(BaseHTTPRequestHandler):
    """Whatever stands behind the proxy: says what came in. It is not meant to be vLLM."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, object]]]

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        got = {"path": self.path, "method": self.command, "bytes": len(self.rfile.read(length))}
        got |= {"headers": {k.lower(): v for k, v in self.headers.items()}}
        self.seen.append(got)
        body = json.dumps(got).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_OPTIONS = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """One that takes its open connections with it, as a process that ends does."""

    daemon_threads = True

    def __init__(self, port: int, handler: type[Echo]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def upstream(port: int) -> Iterator[Upstream]:
    class Handler(Echo):
        seen: ClassVar[list[dict[str, object]]] = []

    server = Server(port, Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server, Handler.seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "support-bot"
    write.write(plan(Store(STORE).load("support-bot")), out)
    return out


def configuration(bundle: Path, out: Path, **options: object) -> tuple[Path, int, list[int]]:
    """nginx.conf for two instances on ports that are free now: its path, the proxy's port, the instances' ports."""
    port, ports = free_port(), [free_port(), free_port()]
    deployment = deploy.read(bundle, Options(instances=2, port=port, **options))  # type: ignore[arg-type]
    text = deploy.files(deployment, ["nginx"])["nginx.conf"]
    for instance, own in zip(deployment.instances, ports, strict=True):
        assert f"127.0.0.1:{instance.port} " in text
        text = text.replace(f"127.0.0.1:{instance.port} ", f"127.0.0.1:{own} ")
    (out / "nginx.conf").write_text(text)
    return out / "nginx.conf", port, ports


@pytest.fixture(scope="module")
def proxy(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Address of a proxy with one of its two servers up, and what that server saw."""
    origins = ("https://chat.example.com", "https://*.example.org")
    path, port, ports = configuration(bundle, tmp_path_factory.mktemp("proxy"), origins=origins)
    with upstream(ports[1]) as (_, seen), nginx(path, port):
        yield f"http://127.0.0.1:{port}", seen


def raw(url: str, target: str, host: str = "localhost") -> int:
    """Status for a request target exactly as given; httpx would tidy it up."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.putrequest("POST", target, skip_host=True)
        connection.putheader("Host", host)
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"{}")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "target",
    [
        "/tokenize",
        "/v1/../tokenize",
        "/v1/%2e%2e/tokenize",
        "/v1/%2E%2E%2Ftokenize",
        "//tokenize",
        "/v1/./../metrics",
        "/V1/models",
        "/invocations?x=/v1/",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1//load_lora_adapter",
        "/",
        "/api/chat",
    ],
)
def test_closed(proxy: tuple[str, list[dict[str, object]]], target: str) -> None:
    url, seen = proxy
    before = len(seen)
    assert raw(url, target) == 404
    assert len(seen) == before, "it did not reach a server"


@pytest.mark.parametrize(
    "target", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/health"]
)
def test_open(proxy: tuple[str, list[dict[str, object]]], target: str) -> None:
    url, seen = proxy
    assert raw(url, target) == 200
    assert seen[-1]["path"] == target


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:8000", 200),
        ("192.168.1.7", 200),
        ("[::1]:8000", 200),
        ("box.local", 200),
        ("a.localhost", 200),
        ("evil.example.com", 403),
        ("localhost.evil.com", 403),
        ("127.0.0.1.evil.com", 403),
    ],
)
def test_host_names_on_loopback_are_checked_as_ollama_does(
    proxy: tuple[str, list[dict[str, object]]], host: str, status: int
) -> None:
    assert raw(proxy[0], "/v1/models", host) == status


def test_other_addresses_answer_any_host_name(bundle: Path, tmp_path: Path) -> None:
    text = deploy.files(deploy.read(bundle, Options(host="0.0.0.0")), ["nginx"])["nginx.conf"]
    assert "listen 0.0.0.0:8000;" in text
    assert "map $host $foreign_host { default 0; }" in text


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:8443", True),
        ("app://obsidian.md", True),
        ("vscode-webview://abc", True),
        ("https://chat.example.com", True),
        ("https://a.example.org", True),
        ("https://evil.com", False),
        ("https://chat.example.com.evil.com", False),
        ("https://chatXexample.com", False),
        ("http://localhost.evil.com", False),
        ("null", False),
    ],
)
def test_origins(proxy: tuple[str, list[dict[str, object]]], origin: str, allowed: bool) -> None:
    url, seen = proxy
    before = len(seen)
    headers = {"Origin": origin, "Access-Control-Request-Headers": "authorization,content-type"}
    with httpx.Client(base_url=url, timeout=30) as client:
        asked = client.options("/v1/chat/completions", headers=headers)
        assert len(seen) == before, "nginx itself answers what a browser asks beforehand"
        sent = client.post("/v1/chat/completions", headers=headers, content=b"{}")
    assert (asked.status_code, sent.status_code) == ((204, 200) if allowed else (403, 403))
    for answer in (asked, sent):
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
    if allowed:
        assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
        assert asked.headers["vary"] == "Origin"


def test_a_page_of_the_same_place_may_ask(proxy: tuple[str, list[dict[str, object]]]) -> None:
    answer = httpx.get(f"{proxy[0]}/v1/models", headers={"Origin": "http://box.local", "Host": "box.local"}, timeout=30)
    assert answer.status_code == 200


def test_request_ids(proxy: tuple[str, list[dict[str, object]]]) -> None:
    url, seen = proxy

    def through(given: dict[str, str]) -> str:
        answer = httpx.get(f"{url}/v1/models", headers=given, timeout=30)
        headers = seen[-1]["headers"]
        assert isinstance(headers, dict)
        assert headers["x-request-id"] == answer.headers["x-request-id"]
        return str(headers["x-request-id"])

    assert through({"X-Request-Id": "abc-1.2_3"}) == "abc-1.2_3"
    first, second = through({}), through({})
    assert first != second
    assert len(first) == 32
    assert through({"X-Request-Id": 'evil" id'}) != 'evil" id'


def test_keys_pass_and_bodies_are_bounded(proxy: tuple[str, list[dict[str, object]]]) -> None:
    url, seen = proxy
    with httpx.Client(base_url=url, timeout=60) as client:
        client.get("/v1/models", headers={"Authorization": "Bearer k"})
        headers = seen[-1]["headers"]
        assert isinstance(headers, dict)
        assert headers["authorization"] == "Bearer k"
        assert client.post("/v1/chat/completions", content=b"x" * (31 << 20)).json()["bytes"] == 31 << 20
        assert client.post("/v1/chat/completions", content=b"x" * (33 << 20)).status_code == 413


def test_a_server_that_is_gone_costs_nothing_and_comes_back(bundle: Path, tmp_path: Path) -> None:
    path, port, (one, two) = configuration(bundle, tmp_path)
    with nginx(path, port), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def ask(count: int) -> set[int]:
            return {client.post("/v1/completions", content=b"{}").status_code for _ in range(count)}

        assert ask(1) == {502}, "none is up"
        with upstream(one) as (_, first):
            with upstream(two) as (_, second):
                assert ask(20) == {200}
                assert first
                assert second
            assert ask(20) == {200}, "one is gone: the other answers all"
            count = len(second)
            with upstream(two) as (_, again):
                waited = threading.Event()
                for _ in range(100):
                    assert ask(2) == {200}
                    if again:
                        break
                    waited.wait(0.1)
                assert again, "taken back within seconds"
            assert len(second) == count
