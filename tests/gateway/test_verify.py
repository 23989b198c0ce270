"""Is the server the right one? Asked of a recorded vLLM that serves support-bot with 1024 tokens of context."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import Refused, UsageError
from migrate.gateway import server
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import Catalog, ServedModel
from migrate.gateway.config import Config
from migrate.gateway.endpoint import WRONG_SERVER
from migrate.gateway.serving import Serving
from migrate.gateway.upstreams import Upstreams
from migrate.gateway.verify import verify
from tests.gateway import bench
from tests.ollama.replay import serving


@pytest.fixture
def model(alone: Path) -> ServedModel:
    return bench.catalog(alone, only=["support-bot"]).models[0]


def wrong(config: Config, model: ServedModel) -> str:
    """Why the server of the configuration is not the model's; "" when it is."""

    async def asked() -> dict[str, str]:
        upstreams = Upstreams(config)
        try:
            return await verify(Backend(config, Catalog([model]), upstreams, Serving(config, upstreams)))
        finally:
            await upstreams.close()

    found = bench.run(asked())
    assert set(found) <= {model.name.key}
    return found.get(model.name.key, "")


@pytest.fixture
def vllm() -> Iterator[str]:
    with bench.vllm() as found:
        yield found.url


def test_the_right_server(alone: Path, model: ServedModel, vllm: str) -> None:
    assert wrong(bench.config(alone, vllm, only=["support-bot"]), model) == ""


def test_a_server_without_the_model(alone: Path, model: ServedModel, vllm: str) -> None:
    other = dataclasses.replace(model, served_name="nope")

    why = wrong(bench.config(alone, vllm, only=["support-bot"]), other)
    assert why.startswith(f"support-bot:latest: upstream vllm ({vllm}) does not serve it: ")
    assert "The model `nope` does not exist" in why


def test_a_server_with_another_tokenizer(alone: Path, modern_bundles: Path, model: ServedModel, vllm: str) -> None:
    other = dataclasses.replace(model, tokens=bench.catalog(modern_bundles, only=["embed-bot"]).models[0].tokens)

    assert "cuts text into other tokens" in wrong(bench.config(alone, vllm, only=["support-bot"]), other)


def test_a_server_with_less_context(alone: Path, model: ServedModel, vllm: str) -> None:
    other = dataclasses.replace(model, max_model_len=2048)

    why = wrong(bench.config(alone, vllm, only=["support-bot"]), other)
    assert "was started with 1024 tokens of context" in why
    assert "has 2048" in why


def test_a_server_that_is_not_there_is_no_error(alone: Path, model: ServedModel) -> None:
    assert wrong(bench.config(alone, bench.NOWHERE, only=["support-bot"]), model) == ""


@pytest.mark.parametrize("answer", [(500, b"{}"), (200, b"not JSON"), (503, b"")])
def test_a_server_that_cannot_say_now_is_no_error(alone: Path, model: ServedModel, answer: tuple[int, bytes]) -> None:
    with serving(_saying(*answer)) as url:
        assert wrong(bench.config(alone, url, only=["support-bot"]), model) == ""


@pytest.mark.parametrize("answer", [b"[]", b"{}", b'{"tokens": null}', b'{"tokens": [1, 2], "max_model_len": 1024}'])
def test_a_server_that_says_something_else_is_another_one(alone: Path, model: ServedModel, answer: bytes) -> None:
    with serving(_saying(200, answer)) as url:
        assert "other tokens" in wrong(bench.config(alone, url, only=["support-bot"]), model)


def test_each_of_several_servers_is_asked(alone: Path, model: ServedModel, vllm: str) -> None:
    with serving(_saying(200, b'{"tokens": [1]}')) as other:
        for urls in ([vllm, other], [other, vllm]):
            config = bench.config(alone, upstreams={"vllm": {"url": urls}}, only=["support-bot"])
            assert f"({other}) cuts text into other tokens" in wrong(config, model)
    config = bench.config(alone, upstreams={"vllm": {"url": [vllm, bench.NOWHERE]}}, only=["support-bot"])
    assert wrong(config, model) == ""


def _saying(status: int, body: bytes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


# ---- at the start and later ------------------------------------------------------------------------------------------


def test_the_gateway_does_not_start_before_a_wrong_server(alone: Path, vllm: str, caplog: Any) -> None:
    server.check(bench.config(alone, vllm, only=["support-bot"]))
    with serving(_saying(200, b'{"tokens": [1]}')) as url, pytest.raises(Refused, match="it serves another bundle"):
        server.check(bench.config(alone, url, only=["support-bot"]))
    caplog.set_level(logging.WARNING)
    server.check(bench.config(alone, bench.NOWHERE, only=["support-bot"]))
    assert "upstream vllm is not there yet: its models are answered with 503" in caplog.text


def test_a_key_that_is_missing_is_found_at_the_start(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(UsageError, match="NO_SUCH_KEY is not set"):
        server.check(bench.config(alone, api_keys_env="NO_SUCH_KEY"))
    with pytest.raises(UsageError, match="NO_SUCH_KEY is not set"):
        server.check(bench.config(alone, upstreams={"vllm": {"url": bench.NOWHERE, "api_key_env": "NO_SUCH_KEY"}}))


def test_models_of_a_wrong_server_are_answered_with_503(alone: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Found out while it runs: the server was replaced by another one."""
    with serving(_saying(200, b'{"tokens": [1]}')) as url:
        config = bench.config(alone, url, only=["support-bot"])

        async def asked() -> Any:
            async with bench.gateway(config) as client:
                for _ in range(100):
                    got = await client.post("/api/generate", json={"model": "support-bot", "prompt": "x"})
                    if got.status_code == 503:
                        return got
            return got

        got = bench.run(asked())
    assert got.status_code == 503
    assert got.json() == {"error": WRONG_SERVER}
    assert "cuts text into other tokens" in caplog.text


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_log_lines_as_json() -> None:
    formatter = server._Json()
    plain = logging.LogRecord("migrate.gateway", logging.WARNING, "", 1, "upstream %s", ("ä\nb",), None)
    access = logging.LogRecord("migrate.gateway.access", logging.INFO, "", 1, "path=/x", (), None)
    access.request = {"path": "/x", "status": 200}

    line = json.loads(formatter.format(plain))
    assert (line["level"], line["message"]) == ("warning", "upstream ä\nb")
    assert "\n" not in formatter.format(plain)
    assert {"path": "/x", "status": 200}.items() <= json.loads(formatter.format(access)).items()
    try:
        raise ValueError("x")
    except ValueError as error:
        plain.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: x" in json.loads(formatter.format(plain))["exception"]


def test_an_address_that_is_taken(alone: Path) -> None:
    with serving(_saying(200, b"")) as url:
        config = bench.config(alone, listen=url.removeprefix("http://"))
        with pytest.raises(UsageError, match=r"cannot listen at 127\.0\.0\.1:"):
            server._bound(config)
    with pytest.raises(UsageError, match="cannot listen at"):
        server._bound(bench.config(alone, listen="no-such-host.invalid:1"))
    with server._bound(bench.config(alone, listen="127.0.0.1:0")) as made:
        assert made.getsockname()[0] == "127.0.0.1"
