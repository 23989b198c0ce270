"""A cut-over from a recorded Ollama to real vLLM: shadow, report, canary, promote, failure, return, rollback."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live.faulty import in_front_of
from tests.live.gateway import Running, gateway
from tests.live.gateway_fixtures import Upstream
from tests.ollama.replay import recordings, replay

pytestmark = pytest.mark.live

_ENOUGH = {"min_same_status": 0.8, "min_same_prompt": 0.8, "min_same_beginning": 0.8}
"""What 40 pairs without a difference can show at 95 %."""
SEEN_S = 0.7
"""After this a running gateway has seen a changed state: it looks twice a second."""


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[dict[str, Any]]:
    """Greedy chats with support-bot, penalties off."""
    found = recordings(shared / "ollama" / "recordings.jsonl")
    return [row for row in found if row["name"].startswith("chat/support-bot/")]


class Sick:
    """While `now` is set, the server behind answers everything with an error."""

    def __init__(self) -> None:
        self.now = threading.Event()

    def __call__(self, handler: BaseHTTPRequestHandler, number: int) -> bool:
        if not self.now.is_set() or handler.path == "/tokenize":
            return False
        body = b'{"error": {"message": "EngineDeadError", "code": 500}}'
        handler.send_response(500)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return True


Start = Callable[[], Any]


@pytest.fixture
def cutover(vllm_support: Upstream, rows: list[dict[str, Any]], tmp_path: Path) -> Iterator[tuple[Start, Sick, Path]]:
    url, bundle = vllm_support
    sick = Sick()
    with replay(rows) as ollama, in_front_of(url, sick) as vllm:

        def start() -> Any:
            return gateway(
                tmp_path,
                {"vllm": vllm, "ollama": {"kind": "ollama", "url": ollama}},
                [{"bundle": bundle, "upstream": "vllm", "source": "ollama", "names": ["support-bot"]}],
                tools="go",
                shadow={"min_pairs": 20, "max_concurrent": 8, "keep_text": True, **_ENOUGH},
                returning={"min_requests": 5, "window": 60},
            )

        yield start, sick, tmp_path / "gateway.yaml"


def ask(running: Running, row: Mapping[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{running.url}/api/chat", json=row["request"]["body"], headers=headers, timeout=120)


def by_ollama(answer: httpx.Response, row: Mapping[str, Any]) -> bool:
    """The recorded bytes, with the recorded times."""
    return bool(answer.text == row["response"]["body"])


def migrate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "migrate", "gateway", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    time.sleep(SEEN_S)
    return done


def phase(config: Path) -> dict[str, Any]:
    done = migrate("status", config, "--json")
    assert done.returncode == 0, done.stderr
    [model] = json.loads(done.stdout)["models"]
    assert isinstance(model, dict)
    return model


def test_cut_over_and_back(cutover: tuple[Start, Sick, Path], rows: list[dict[str, Any]]) -> None:
    start, sick, config = cutover
    with start() as running:
        # Ollama answers, byte for byte; a header tries vLLM
        assert all(by_ollama(ask(running, row), row) for row in rows)
        tried = ask(running, rows[0], **{"X-Migrate-Upstream": "target"})
        assert tried.status_code == 200
        assert not by_ollama(tried, rows[0])
        assert tried.json()["message"] == json.loads(rows[0]["response"]["body"])["message"]

        # shadow: Ollama goes on answering, copies are compared
        assert migrate("shadow", config, "support-bot").returncode == 0
        for _ in range(5):
            assert all(by_ollama(ask(running, row), row) for row in rows)
            time.sleep(1.0)
        report = _report(config, at_least=20)
        assert report["verdict"] == "pass", report
        assert "What is 3+4?" in (config.parent / "gateway-state.shadow.jsonl").read_text()  # keep_text

        # canary: each conversation stays with its side
        assert migrate("canary", config, "support-bot", "--weight", "50").returncode == 0
        first = [by_ollama(ask(running, row), row) for row in rows]
        assert [by_ollama(ask(running, row), row) for row in rows] == first
        assert migrate("canary", config, "support-bot", "--weight", "100").returncode == 0
        assert not any(by_ollama(ask(running, row), row) for row in rows)

    # the state survives a restart
    with start() as running:
        assert phase(config)["phase"] == "canary"
        assert not by_ollama(ask(running, rows[0]), rows[0])
        assert migrate("promote", config).returncode == 0
        assert not by_ollama(ask(running, rows[1]), rows[1])

        # vLLM fails: clients see errors until the window says enough, then Ollama answers
        sick.now.set()
        failed = 0
        while not by_ollama(answer := ask(running, rows[0]), rows[0]):
            assert answer.status_code == 500
            failed += 1
            assert failed <= 10, "it did not return by itself"
        assert failed >= 4
        model = phase(config)
        assert model["phase"] == "source"
        assert model["by"].startswith("automatic return: ")
        sick.now.clear()
        assert by_ollama(ask(running, rows[0]), rows[0])  # it stays until somebody decides

        metrics = httpx.get(f"{running.url}/metrics").text
        assert 'migrate_gateway_automatic_returns_total{model="support-bot:latest"} 1.0' in metrics
        assert 'migrate_gateway_phase{model="support-bot:latest",phase="source"} 1.0' in metrics

        assert migrate("promote", config).returncode == 0
        assert not by_ollama(ask(running, rows[0]), rows[0])
        assert migrate("rollback", config).returncode == 0
        assert by_ollama(ask(running, rows[0]), rows[0])
        assert phase(config)["by"] == "operator"


def _report(config: Path, *, at_least: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        done = migrate("report", config, "--json")
        assert done.returncode in (0, 1, 4), done.stderr
        found = json.loads(done.stdout)
        [model] = found["models"]
        if model["pairs"] >= at_least or time.monotonic() > deadline:
            assert isinstance(model, dict)
            return model
        time.sleep(1.0)
