"""The routes as a whole: what a real Ollama said to the same requests, keys, pages, other servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from migrate.gateway.backend import Backend
from migrate.gateway.catalog import Catalog
from migrate.gateway.config import Config
from migrate.gateway.serving import Serving
from migrate.gateway.upstreams import Upstreams
from tests.gateway import bench
from tests.ollama.replay import recordings, replay, serving

PAGE = "https://page.example.com"
CHAT = {"model": "support-bot", "messages": [{"role": "user", "content": "What is 3+4?"}], "stream": False}


@pytest.fixture
def config(alone: Path) -> Config:
    return bench.config(alone, bench.NOWHERE)


# ---- as Ollama -------------------------------------------------------------------------------------------------------

ELSEWHERE = ("tags", "ps", "show", "render", "chat", "generate", "option", "v1-", "embed")
"""Recordings that are compared in other tests."""


def test_errors_and_the_rest_are_ollamas(bundles: Path, shared: Path) -> None:
    rows = recordings(shared / "ollama" / "recordings.jsonl")
    wanted = [row for row in rows if not row["name"].startswith(ELSEWHERE)]
    more = ("generate-suffix-unsupported", "generate-empty-loads", "chat-empty-loads", "generate-unload",
            "embed-unsupported", "v1-error-unknown-model")  # fmt: skip
    wanted += [row for row in rows if row["name"] in more]

    async def all_of_them() -> None:
        async with bench.gateway(bench.config(bundles, ollama_version="0.33.0-rc2")) as client:
            for row in wanted:
                request, answer = row["request"], row["response"]
                body = request["body"]
                content = body if isinstance(body, str) else json.dumps(body) if body is not None else None
                got = await client.request(request["method"], request["path"], content=content)
                assert got.status_code == answer["status"], row["name"]
                assert got.headers["content-type"] == answer["content_type"], row["name"]
                assert _undated(got.text) == _undated(answer["body"]), row["name"]

    assert len(wanted) > 20
    bench.run(all_of_them())


def _undated(text: str) -> Any:
    try:
        answer = json.loads(text)
    except ValueError:
        return text
    return list(answer.items()) if answer.pop("created_at", None) is None else [("created_at", ""), *answer.items()]


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/", 200, "Ollama is running"),
        ("HEAD", "/", 200, ""),
        ("HEAD", "/api/version", 200, ""),
        ("HEAD", "/api/tags", 200, ""),
        ("GET", "/nope", 404, "404 page not found"),
        ("POST", "/api/nope", 404, "404 page not found"),
        ("GET", "/api/../etc/passwd", 404, "404 page not found"),
        ("GET", "/api/chat", 405, "405 method not allowed"),
        ("PUT", "/api/chat", 405, "405 method not allowed"),
        ("POST", "/api/tags", 405, "405 method not allowed"),
        ("GET", "/api/delete", 405, "405 method not allowed"),
    ],
)
def test_routes(config: Config, method: str, path: str, status: int, text: str) -> None:
    got = bench.ask(config, method, path)

    assert (got.status_code, got.text) == (status, text)
    assert got.headers["content-type"].startswith(("text/plain", "application/json"))


@pytest.mark.parametrize(("verb", "method"), [("pull", "POST"), ("push", "POST"), ("create", "POST"), ("copy", "POST"),
                                              ("delete", "DELETE")])  # fmt: skip
def test_the_store_is_not_changed_here(config: Config, verb: str, method: str) -> None:
    name = {"source": "support-bot", "destination": "x"} if verb == "copy" else {"model": "support-bot"}
    known = bench.ask(config, method, f"/api/{verb}", name)
    unknown = bench.ask(config, method, f"/api/{verb}", {"model": "nope", "source": "nope"})

    assert known.status_code == 403
    assert "gateway in front of vLLM" in known.json()["error"]
    assert unknown.status_code == (403 if verb in ("pull", "create") else 404)


@pytest.mark.parametrize(
    ("versions", "told"), [(["0.9.1", "0.33"], "0.33.0"), (["0.33", "0.33.1-rc2"], "0.33.1-rc2"), (["0.8"], "0.8.0")]
)
def test_the_version_is_the_newest_of_the_bundles(alone: Path, versions: list[str], told: str) -> None:
    models = bench.catalog(alone).models
    found = Catalog(
        replace(model, source=model.source.model_copy(update={"ollama_version": version}))
        for model, version in zip(models, versions, strict=False)
    )

    def version(**more: Any) -> str:
        config = bench.config(alone, **more)
        upstreams = Upstreams(config)
        return Backend(config, found, upstreams, Serving(config, upstreams)).version

    assert version() == told
    assert version(ollama_version="9.9.9") == "9.9.9"


def test_health_names_the_servers_that_are_missing(alone: Path, config: Config) -> None:
    got = bench.ask(config, "GET", "/health")
    assert (got.status_code, got.json()) == (503, {"status": "unhealthy", "missing": ["vllm"]})
    assert bench.ask(config, "GET", "/api/ps").json() == {"models": []}

    with bench.vllm() as vllm:
        got = bench.ask(bench.config(alone, vllm.url), "GET", "/health")
        assert (got.status_code, got.json()) == (200, {"status": "ok", "missing": []})
        models = bench.ask(bench.config(alone, vllm.url), "GET", "/api/ps").json()["models"]
    assert {model["name"] for model in models} == {"support-bot:latest", "renderer-bot:latest", "legacy-bot:latest"}


def test_models_of_openai_by_any_path(config: Config) -> None:
    got = bench.ask(config, "GET", "/v1/models/support-bot")
    assert (got.status_code, got.json()["id"]) == (200, "support-bot")
    assert bench.ask(config, "GET", "/v1/models/library/support-bot").status_code == 200
    missing = bench.ask(config, "GET", "/v1/models/a%0db")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])


# ---- keys ------------------------------------------------------------------------------------------------------------

KEYED = ["/api/tags", "/api/ps", "/v1/models", "/v1/models/support-bot", "/metrics"]


@pytest.fixture
def keyed(alone: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("GATEWAY_KEYS", "first,sécond")
    return bench.config(alone, bench.NOWHERE, api_keys_env="GATEWAY_KEYS", metrics=True)


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({}, False),
        ({"authorization": "Bearer first"}, True),
        ({"authorization": "bearer  first "}, True),
        ({"authorization": "Bearer firs"}, False),
        ({"authorization": "Bearer "}, False),
        ({"authorization": "Bearer first,second"}, False),
        ({"authorization": "Basic first"}, False),
        ({"x-api-key": "first"}, True),
        ({"x-api-key": "wrong"}, False),
        ({"authorization": "Basic xyz", "x-api-key": "first"}, True),
        ({"authorization": "Bearer wrong", "x-api-key": "first"}, False),
    ],
)
def test_keys(keyed: Config, headers: dict[str, str], admitted: bool) -> None:
    for path in KEYED:
        got = bench.ask(keyed, "GET", path, headers=headers)
        assert got.status_code == (200 if admitted else 401), path
        if not admitted:
            assert got.headers["www-authenticate"] == "Bearer"
    chat = bench.ask(keyed, "POST", "/api/chat", CHAT, headers=headers)
    assert chat.status_code == (503 if admitted else 401)
    pull = bench.ask(keyed, "POST", "/api/pull", {"model": "x"}, headers=headers)
    assert pull.status_code == (403 if admitted else 401)


def test_what_load_balancers_ask_takes_no_key(keyed: Config) -> None:
    assert bench.ask(keyed, "GET", "/").status_code == 200
    assert bench.ask(keyed, "GET", "/health").status_code == 503


def test_a_missing_key_in_the_form_of_the_route(keyed: Config) -> None:
    assert bench.ask(keyed, "POST", "/api/chat", CHAT).json() == {"error": "unauthorized"}
    assert bench.ask(keyed, "POST", "/v1/chat/completions", CHAT).json()["error"]["message"] == "unauthorized"
    assert bench.ask(keyed, "POST", "/v1/messages", CHAT).json()["error"]["message"] == "unauthorized"


def test_metrics_can_be_off(config: Config) -> None:
    assert bench.ask(config, "GET", "/metrics").status_code == 404


# ---- web pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:8443", True),
        ("app://obsidian.md", True),
        ("tauri://localhost", True),
        ("https://page.example.com", True),
        ("https://other.example.com", True),
        ("https://page.example.com.evil.org", False),
        ("http://localhost.evil.org", False),
        ("http://localhost:3000.evil.org", False),
        ("https://evil.org", False),
        ("null", False),
    ],
)
def test_pages_that_may_ask(alone: Path, origin: str, allowed: bool) -> None:
    config = bench.config(alone, bench.NOWHERE, origins=["https://*.example.com"])
    wish = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = bench.ask(config, "OPTIONS", "/api/chat", headers={"origin": origin, **wish})
    got = bench.ask(config, "GET", "/api/version", headers={"origin": origin})

    assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
    assert (preflight.status_code, got.status_code) == ((200, 200) if allowed else (403, 403))
    assert (got.headers.get("access-control-allow-origin") == origin) is allowed


# ---- Ollama beside it ------------------------------------------------------------------------------------------------


@pytest.fixture
def ollama(shared: Path) -> Iterator[str]:
    with replay(recordings(shared / "ollama" / "recordings.jsonl")) as url:
        yield url


FORCED = {"x-migrate-upstream": "source"}


def test_answers_of_ollama_are_passed_on_byte_for_byte(alone: Path, shared: Path, ollama: str, tmp_path: Path) -> None:
    config = bench.config(alone, bench.NOWHERE, source=ollama, state=str(tmp_path / "state.json"))
    names = ("chat/support-bot/0", "chat-stream/support-bot", "generate-raw", "error-bad-option-type", "v1-chat-stream",
             "v1-messages", "embed-unsupported", "error-think-unsupported")  # fmt: skip
    rows = [row for row in recordings(shared / "ollama" / "recordings.jsonl") if row["name"] in names]

    async def all_of_them() -> None:
        async with bench.gateway(config) as client:
            for row in rows:
                got = await client.post(row["request"]["path"], json=row["request"]["body"], headers=FORCED)
                assert got.status_code == row["response"]["status"]
                assert got.text == row["response"]["body"]
                assert got.headers["content-type"] == row["response"]["content_type"]

    assert len(rows) == len(names)
    bench.run(all_of_them())


@pytest.mark.parametrize(
    ("upstream", "status"), [("source", 200), ("ollama", 200), ("target", 503), ("vllm", 503), ("moon", 400)]
)
def test_the_upstream_by_header(
    alone: Path, shared: Path, ollama: str, tmp_path: Path, upstream: str, status: int
) -> None:
    row = next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == "generate-raw")
    config = bench.config(alone, bench.NOWHERE, source=ollama, state=str(tmp_path / "state.json"))
    got = bench.ask(config, "POST", "/api/generate", row["request"]["body"], headers={"x-migrate-upstream": upstream})

    assert got.status_code == status, got.text


def test_models_that_are_not_listed_go_to_the_fallback(alone: Path, shared: Path, ollama: str) -> None:
    row = next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == "chat/native-bot/0")
    upstreams = {"old": {"kind": "ollama", "url": ollama}}
    config = bench.config(alone, bench.NOWHERE, upstreams=upstreams, fallback="old")

    assert bench.ask(config, "POST", "/api/chat", row["request"]["body"]).text == row["response"]["body"]
    without = bench.ask(bench.config(alone), "POST", "/api/chat", row["request"]["body"])
    assert (without.status_code, without.json()) == (404, {"error": "model 'native-bot' not found"})


def test_keys_of_the_gateway_are_not_told_to_other_servers(
    alone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("connection", "close")
            self.send_header("set-cookie", "a=b")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    monkeypatch.setenv("KEYS", "client-key")
    monkeypatch.setenv("OLD", "ollama-key")
    with serving(Handler) as url:
        upstreams = {"ollama": {"kind": "ollama", "url": url + "/prefix", "api_key_env": "OLD"}}
        config = bench.config(alone, bench.NOWHERE, upstreams=upstreams, api_keys_env="KEYS", state=str(tmp_path / "s"))
        models = tuple(model.model_copy(update={"source": "ollama"}) for model in config.models)
        config = config.model_copy(update={"models": models})
        headers = FORCED | {
            "authorization": "Bearer client-key",
            "x-api-key": "client-key",
            "x-mine": "1",
            "te": "gzip",
        }
        got = bench.ask(config, "POST", "/api/chat?x=1", CHAT, headers=headers)

    assert got.text == "{}"
    assert "connection" not in got.headers
    (asked,) = seen
    assert asked["authorization"] == "Bearer ollama-key"
    assert "client-key" not in json.dumps(asked)
    assert asked["x-mine"] == "1"
    assert "te" not in asked


def test_the_key_of_vllm_is_sent_to_it(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", "vllm-key")
    with bench.vllm() as vllm:
        config = bench.config(alone, upstreams={"vllm": {"url": vllm.url, "api_key_env": "GPU_KEY"}})
        bench.ask(config, "GET", "/health")

    assert {headers.get("authorization") for headers in vllm.headers} == {"Bearer vllm-key"}
