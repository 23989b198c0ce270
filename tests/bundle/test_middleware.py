"""The middleware in a bundle, called as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import resources

DEFAULTS = {"stop": ["User:"], "seed": 42}
Call = Callable[..., tuple[Any, Any]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Sends a request through the middleware; returns the body and headers that arrive behind it."""
    (tmp_path / "migrate_defaults.py").write_text(resources.text("bundle/migrate_defaults.py"))
    (tmp_path / "request_defaults.json").write_text(json.dumps(DEFAULTS))
    spec = importlib.util.spec_from_file_location("migrate_defaults", tmp_path / "migrate_defaults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def send(*chunks: bytes, path: str = "/v1/chat/completions", method: str = "POST", lost: bool = False) -> Any:
        seen: list[Any] = []
        messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        messages[-1]["more_body"] = lost
        messages += [{"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
            seen.append((body, dict(scope["headers"])))

        headers = [(b"content-type", b"application/json"), (b"content-length", str(sum(map(len, chunks))).encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(module.RequestDefaults(app)(scope, receive, None))
        return seen[0] if seen else (None, None)

    return send


def test_what_is_missing_is_filled_in(call: Call) -> None:
    body, headers = call(b'{"model": "m", ', b'"messages": []}')
    assert json.loads(body) == {"model": "m", "messages": [], **DEFAULTS}
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize("stop", ["x", ["a", "b"], []])
def test_a_requests_own_list_replaces_it(call: Call, stop: Any) -> None:
    body, _ = call(json.dumps({"stop": stop, "seed": 0}).encode())
    assert json.loads(body) == {"stop": stop, "seed": 0}


def test_null_is_not_a_value(call: Call) -> None:
    body, _ = call(b'{"stop": null, "seed": null}')
    assert json.loads(body) == DEFAULTS


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"3"])
def test_what_is_no_request_passes_unchanged(call: Call, body: bytes) -> None:
    assert call(body)[0] == body


@pytest.mark.parametrize(
    ("path", "method"), [("/tokenize", "POST"), ("/v1/embeddings", "POST"), ("/v1/chat/completions", "GET")]
)
def test_other_routes_are_left_alone(call: Call, path: str, method: str) -> None:
    assert call(b'{"a": 1}', path=path, method=method)[0] == b'{"a": 1}'


def test_a_client_that_leaves_never_reaches_the_model(call: Call) -> None:
    assert call(b'{"a"', lost=True) == (None, None)
