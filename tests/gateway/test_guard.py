"""Who may ask, as Ollama's cors and allowedHostsMiddleware decide it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from migrate.gateway.app import LOCAL_PAGES
from migrate.gateway.guard import Guard, is_loopback, is_own
from tests.gateway import bench


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("", True),
        ("localhost", True),
        ("LOCALHOST:11434", True),
        ("127.0.0.1:11434", True),
        ("127.8.9.1", True),
        ("[::1]:11434", True),
        ("[::1]", True),
        ("0.0.0.0:1", True),
        ("10.0.0.7:80", True),
        ("192.168.1.2", True),
        ("ollama.local", True),
        ("host.docker.internal:11434", True),
        ("a.localhost", True),
        (socket.gethostname(), True),
        ("8.8.8.8", False),
        ("evil.org", False),
        ("evil.org:11434", False),
        ("localhost.evil.org", False),
        ("127.0.0.1.evil.org", False),
        ("[2001:4860:4860::8888]", False),
        ("notlocal", False),
    ],
)
def test_names_of_this_machine(host: str, own: bool) -> None:
    assert is_own(host) is own


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.parametrize(
    ("headers", "names", "admitted"),
    [
        ({"host": "localhost"}, True, True),
        ({"host": "evil.org"}, True, False),
        ({"host": "evil.org"}, False, True),
        ({"host": "localhost", "origin": "http://localhost:3000"}, True, True),
        ({"host": "localhost", "origin": "https://evil.org"}, True, False),
        ({"host": "localhost", "origin": "https://evil.org"}, False, False),
        ({"host": "evil.org", "origin": "http://evil.org"}, True, False),  # a name that points here
        ({"host": "llm.example.com", "origin": "https://llm.example.com"}, False, True),  # a page of its own
        ({"host": "localhost", "origin": "null"}, True, False),
    ],
)
def test_who_may_ask(headers: dict[str, str], names: bool, admitted: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    assert Guard(app, pages=LOCAL_PAGES, names=names).admits(headers) is admitted


@pytest.mark.parametrize(
    ("listen", "keys", "status"), [("127.0.0.1:1", False, 403), ("0.0.0.0:1", False, 200), ("127.0.0.1:1", True, 401)]
)
def test_names_count_where_only_this_machine_can_ask(
    alone: Path, monkeypatch: pytest.MonkeyPatch, listen: str, keys: bool, status: int
) -> None:
    monkeypatch.setenv("KEYS", "k")
    config = bench.config(alone, listen=listen, **({"api_keys_env": "KEYS"} if keys else {}))
    for path in ("/api/tags", "/v1/models"):
        assert bench.ask(config, "GET", path, headers={"host": "evil.org"}).status_code == status


def test_a_page_cannot_send_what_needs_no_permission(alone: Path) -> None:
    """A form can post text/plain to any address without being asked; Ollama answers 403."""
    body = '{"model": "support-bot", "keep_alive": 0}'
    headers = {"origin": "https://evil.org", "content-type": "text/plain"}

    assert bench.ask(bench.config(alone), "POST", "/api/generate", body, headers=headers).status_code == 403
    del headers["origin"]
    assert bench.ask(bench.config(alone), "POST", "/api/generate", body, headers=headers).status_code == 200
