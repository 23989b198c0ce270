"""What the endpoints tell those who decide: the automatic return end to end, numbers, and who is to blame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.errors import UsageError
from migrate.gateway.config import Config
from migrate.gateway.state import StateFile
from tests.gateway import bench
from tests.ollama.replay import recordings, replay

NAME = "support-bot:latest"


@pytest.fixture
def rows(shared: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in recordings(shared / "ollama" / "recordings.jsonl")}


@pytest.fixture
def ollama(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    with replay(list(rows.values())) as url:
        yield url


def in_phase(tmp_path: Path, phase: Any, weight: float = 0.0) -> StateFile:
    file = StateFile(tmp_path / "state.json")
    file.update(lambda state: state.changed(NAME, phase, weight=weight))
    return file


def cutover(alone: Path, url: str, ollama: str, tmp_path: Path, **more: Any) -> Config:
    settings: dict[str, Any] = {"return": {"min_requests": 5, "window": 60, "max_error_rate": 0.2}}
    state = str(tmp_path / "state.json")
    return bench.config(alone, url, only=["support-bot"], source=ollama, state=state, metrics=True, **settings, **more)


async def asked(client: httpx.AsyncClient, row: dict[str, Any], times: int, **headers: str) -> list[httpx.Response]:
    path, body = row["request"]["path"], row["request"]["body"]
    return [await client.post(path, json=body, headers=headers) for _ in range(times)]


def numbers(text: str, name: str) -> dict[str, float]:
    """label text -> value of a metric, zeros left out."""
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    found = {line[len(name) : line.rindex(" ")]: float(line.rpartition(" ")[2]) for line in lines}
    return {labels: value for labels, value in found.items() if value}


@pytest.mark.parametrize("fault", ["status", "closed", "cut"])
def test_the_model_returns_to_ollama_when_vllm_fails(
    alone: Path, rows: dict[str, Any], ollama: str, tmp_path: Path, fault: str
) -> None:
    row = rows["chat-tools-stream"] if fault == "cut" else rows["generate-raw"]
    file = in_phase(tmp_path, "target")

    async def run(vllm: bench.Vllm) -> list[httpx.Response]:
        async with bench.gateway(cutover(alone, vllm.url, ollama, tmp_path, tools="json")) as client:
            good = await asked(client, rows["generate-raw"], 6)
            assert [answer.status_code for answer in good] == [200] * 6
            assert all(answer.text != rows["generate-raw"]["response"]["body"] for answer in good)
            vllm.fault = fault
            bad = await asked(client, row, 2)
            assert all("error" in answer.text for answer in bad)
            after = await asked(client, row, 3)
            metrics = (await client.get("/metrics")).text
            assert numbers(metrics, "migrate_gateway_automatic_returns_total") == {f'{{model="{NAME}"}}': 1}
            assert sum(numbers(metrics, "migrate_gateway_upstream_errors_total").values()) == 2
            return after

    with bench.vllm() as vllm:
        after = bench.run(run(vllm))

    assert all(answer.text == row["response"]["body"] for answer in after)
    found = file.read().of(NAME)
    assert found is not None
    assert (found.phase, found.automatic) == ("source", True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"options": {"temperature": "hot"}}, 500),
        ({"format": "xml"}, 500),
        ({"template": "{{ .Prompt"}, 500),
        ({"raw": True, "system": "x"}, 400),
        ({"think": True}, 400),
        ({"template": "x" * 70_000}, 400),
    ],
)
def test_what_a_client_asks_wrongly_does_not_speak_against_vllm(
    alone: Path, rows: dict[str, Any], ollama: str, tmp_path: Path, body: dict[str, Any], status: int
) -> None:
    """Ollama says 500 of much that is the client's doing; else one client could undo a cut-over."""
    file = in_phase(tmp_path, "target")

    async def run(vllm: bench.Vllm) -> None:
        async with bench.gateway(cutover(alone, vllm.url, ollama, tmp_path)) as client:
            for _ in range(8):
                got = await client.post("/api/generate", json={"model": "support-bot", "prompt": "x", **body})
                assert got.status_code == status, got.text
            assert (await asked(client, rows["generate-raw"], 1))[0].status_code == 200

    with bench.vllm() as vllm:
        bench.run(run(vllm))

    found = file.read().of(NAME)
    assert found is not None
    assert (found.phase, found.automatic) == ("target", False)


def test_a_schema_that_vllm_refuses_does_not_speak_against_it(alone: Path, ollama: str, tmp_path: Path) -> None:
    request = json.loads((bench.FIXTURES / "vllm-requests.json").read_text())["vllm-bad-schema"]
    file = in_phase(tmp_path, "target")

    async def run(vllm: bench.Vllm) -> None:
        async with bench.gateway(cutover(alone, vllm.url, ollama, tmp_path)) as client:
            for _ in range(8):
                assert (await client.post(request["path"], json=request["body"])).status_code == 400

    with bench.vllm() as vllm:
        bench.run(run(vllm))

    found = file.read().of(NAME)
    assert found is not None
    assert found.phase == "target"


def test_without_an_ollama_nothing_returns(alone: Path, rows: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    config = bench.config(alone, bench.NOWHERE, only=["support-bot"], state=str(tmp_path / "s.json"),
                          **{"return": {"min_requests": 3, "window": 60}})  # fmt: skip

    async def run() -> list[int]:
        async with bench.gateway(config) as client:
            return [answer.status_code for answer in await asked(client, rows["generate-raw"], 5)]

    assert bench.run(run()) == [503] * 5
    assert "there is no Ollama to return to" in caplog.text


def test_numbers_of_an_answer(alone: Path, rows: dict[str, Any], tmp_path: Path) -> None:
    async def run(url: str) -> str:
        config = bench.config(alone, url, only=["support-bot"], metrics=True, state=str(tmp_path / "s.json"))
        async with bench.gateway(config) as client:
            await asked(client, rows["generate-raw"], 2)
            await client.post("/api/generate", json={"model": "support-bot", "prompt": "x", "think": True})
            await client.post("/api/generate", json={"model": "who\nknows", "prompt": "x"})
            return (await client.get("/metrics")).text

    with bench.vllm() as vllm:
        text = bench.run(run(vllm.url))

    tokens = numbers(text, "migrate_gateway_tokens_total")
    assert sorted(tokens.values()) == [16, 40]  # twice 20 tokens of prompt and 8 of answer
    statuses = numbers(text, "migrate_gateway_requests_total")
    assert {labels.partition('status="')[2][:3]: value for labels, value in statuses.items()} == {
        "200": 2, "400": 1, "404": 1,
    }  # fmt: skip
    assert "who" not in text
    assert not numbers(text, "migrate_gateway_in_flight")


def test_models_of_two_ollamas_cannot_be_compared(alone: Path, tmp_path: Path) -> None:
    upstreams = {f"old{i}": {"kind": "ollama", "url": bench.NOWHERE} for i in range(2)}
    config = bench.config(alone, upstreams=upstreams, state=str(tmp_path / "s.json"))
    models = tuple(model.model_copy(update={"source": f"old{i % 2}"}) for i, model in enumerate(config.models))

    with pytest.raises(UsageError, match="copies can be compared with one Ollama only"):
        bench.ask(config.model_copy(update={"models": models}), "GET", "/")
