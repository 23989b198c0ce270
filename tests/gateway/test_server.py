"""`migrate gateway serve` as a process: it starts, answers, and ends when it is told to, with its answers finished."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from migrate.errors import BadInput, MissingExtra
from migrate.gateway import server
from tests.gateway import bench
from tests.live.gateway import free_port
from tests.ollama.replay import recordings


def start(alone: Path, tmp_path: Path, vllm: str, workers: int = 1) -> tuple[subprocess.Popen[str], str]:
    port = free_port()
    content = {
        "listen": f"127.0.0.1:{port}",
        "upstreams": {"vllm": {"url": vllm}},
        "models": [{"bundle": str(alone / "support-bot"), "upstream": "vllm"}],
    }
    (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "migrate", "gateway", "serve", str(tmp_path / "gateway.yaml")]
    process = subprocess.Popen(
        [*command, "--workers", str(workers)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}", timeout=2).text == "Ollama is running":
                return process, f"http://127.0.0.1:{port}"
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_well_with_its_answers_finished(
    alone: Path, shared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    row = next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == "generate-raw")
    answers: list[httpx.Response] = []
    with bench.vllm() as vllm:
        process, url = start(alone, tmp_path, vllm.url)
        vllm.fault = "slow"
        body: Any = {**row["request"]["body"], "stream": True}
        asking = threading.Thread(target=lambda: answers.append(httpx.post(url + "/api/generate", json=body)))
        asking.start()
        while not any(path == "/v1/completions" for path, _ in vllm.asked):
            time.sleep(0.01)
        process.send_signal(number)
        asking.join(timeout=30)
        _, errors = process.communicate(timeout=30)

    assert process.returncode == 0, errors
    assert "error:" not in errors
    assert bench.lines(answers[0])[-1]["done"] is True


def test_several_processes_share_an_address_and_their_numbers(alone: Path, tmp_path: Path) -> None:
    with bench.vllm() as vllm:
        process, url = start(alone, tmp_path, vllm.url, workers=2)
        try:
            for _ in range(10):
                assert httpx.post(url + "/api/chat", json={"model": "support-bot"}).json()["done_reason"] == "load"
            text = httpx.get(url + "/metrics").text
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=40)

    counted = [line for line in text.splitlines() if line.startswith("migrate_gateway_requests_total{")]
    assert sum(float(line.rpartition(" ")[2]) for line in counted) == 10
    assert process.returncode == 0, errors


def test_all_that_it_logs_is_json_where_that_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("migrate.gateway", "uvicorn")
    before = {n: (logging.getLogger(n).handlers[:], logging.getLogger(n).propagate) for n in names}
    try:
        server.logs(as_json=True)
        logging.getLogger("migrate.gateway.x").info("one\ntwo")
        logging.getLogger("uvicorn.error").warning("of uvicorn")
        logging.getLogger("uvicorn.error").info("not this")
        assert server.LOG_JSON in os.environ  # for the workers
        lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
        assert lines == ["one\ntwo", "of uvicorn"]
        server.logs()
        assert server.LOG_JSON not in os.environ
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).propagate = propagate


def test_a_state_that_cannot_be_kept_is_told(alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for state, told in ((tmp_path / "nowhere" / "state.json", True), (tmp_path / "state.json", False)):
        caplog.clear()
        server.check(bench.config(alone, bench.NOWHERE, source=bench.NOWHERE, state=str(state)))
        assert ("an automatic return is forgotten" in caplog.text) is told


def test_a_damaged_state_is_refused_before_it_listens(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(BadInput, match="damaged"):
        server.check(bench.config(alone, bench.NOWHERE, state=str(tmp_path / "state.json")))


@pytest.mark.parametrize("name", ["uvicorn", "httptools", "starlette", "aiohttp"])
def test_a_missing_library_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=f"needs {name}, which is not installed"):
        server.serve(tmp_path / "gateway.yaml", on_start=print)
