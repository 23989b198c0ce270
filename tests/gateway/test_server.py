"""`migrate gateway serve` as a process: it starts, answers, and ends when it is told to, with its answers finished."""

from __future__ import annotations

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
