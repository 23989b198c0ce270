"""The whole path on models of a real store: converted, served by real vLLM, compared with llama.cpp on the original."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.bundle import write
from migrate.cli.app import main
from migrate.engines import llamacpp, vllm
from migrate.engines.provision import EnginesEnv
from migrate.engines.supervisor import free_port
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from migrate.parity.report import Verdict
from migrate.parity.run import run
from tests.engines.recorded import recorded_answers, recorded_conversations

pytestmark = pytest.mark.live

Served = tuple[Path, llamacpp.LlamaCppEngine, vllm.VllmEngine]
Serve = Callable[[str], AbstractContextManager[Served]]


@pytest.fixture(scope="module")
def serve(shared: Path, engines: EnginesEnv, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Both servers of a migration: llama.cpp on the blob, vLLM through the bundle's own serve.sh."""

    @contextmanager
    def both(name: str) -> Iterator[Served]:
        model = Store(shared / "ollama/store").load(name)
        bundle = tmp_path_factory.mktemp(name) / "bundle"
        write.write(plan(model), bundle)
        assert model.gguf_path is not None
        adapters = [layer.path for layer in model.adapters if layer.path]
        with (
            llamacpp.serve(
                model.gguf_path, python=str(engines.python), log=logs / f"{name}-llamacpp.log", adapters=adapters
            ) as source,
            vllm.serve(
                bundle,
                vllm=str(engines.vllm),
                args=vllm.COMPARE_ARGS,
                env=vllm.CPU_ENV,
                log=logs / f"{name}-vllm.log",
            ) as server,
            closing(vllm.VllmEngine(server.url, model=name)) as target,
        ):
            yield bundle, source, target

    return both


def check(shared: Path, name: str, served: Served) -> None:
    """Parity passes, and the eight recorded questions get Ollama's recorded answers, or part at a near tie."""
    bundle, source, target = served
    report = run(bundle, source, target)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    assert {layer.status for layer in report.layers} == {"pass"}

    recorded = recorded_answers(shared, f"chat/{name}/")
    conversations = recorded_conversations(shared, f"chat/{name}/")
    assert len(conversations) == 8
    for conversation in conversations:
        said = target.generate(conversation, max_tokens=48, top_logprobs=20, stop=("<never>",))
        answer = recorded[conversation.name]
        if said.text != answer["message"]["content"]:
            assert gap_at_first_difference(said, answer) < 0.3, (conversation.name, said.text, answer["message"])


def gap_at_first_difference(said: Any, answer: dict[str, Any]) -> float:
    """Nats between the two first choices where vLLM's answer leaves the recorded one, by Ollama's own numbers."""
    written = ""
    for entry in answer["logprobs"]:
        if not said.text.startswith(written + entry["token"]):
            best, second = (top["logprob"] for top in entry["top_logprobs"][:2])
            return float(best - second)
        written += entry["token"]
    return 0.0 if said.finish_reason == answer["done_reason"] else float("inf")


def test_support_bot(serve: Serve, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve("support-bot") as served:
        bundle, source, target = served
        check(shared, "support-bot", served)
        with httpx.Client(base_url=target.url, timeout=60) as client:
            stops_by_default(client)
            seed_by_default(client)
            tools_are_accepted(client)
        the_parity_verb_agrees(bundle, source.url, target.url, tmp_path / "report.json", capsys)


def completion(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {"model": "support-bot", "prompt": "1", "max_tokens": 32, "temperature": 0} | fields
    answer: dict[str, Any] = client.post("/v1/completions", json=body).raise_for_status().json()
    choice: dict[str, Any] = answer["choices"][0]
    return choice


def stops_by_default(client: httpx.Client) -> None:
    """The Modelfile's plain-text stop works for requests without one, and only for those."""
    forced = {"structured_outputs": {"choice": ["Hello User: there"]}}
    choice = completion(client, **forced)
    assert (choice["text"], choice["stop_reason"]) == ("Hello ", "User:")
    assert completion(client, **forced, stop=["there"])["text"] == "Hello User: "


def seed_by_default(client: httpx.Client) -> None:
    answers = {completion(client, temperature=2, top_k=0, top_p=1)["text"] for _ in range(3)}
    assert len(answers) == 1, "seed 42 is the default"
    assert len({completion(client, temperature=2, top_k=0, top_p=1, seed=s)["text"] for s in range(4)}) > 1


def tools_are_accepted(client: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    body = {
        "model": "support-bot:latest",
        "messages": [{"role": "user", "content": "What time is it?"}],
        "tools": [tool],
    }
    assert client.post("/v1/chat/completions", json=body).status_code == 200


def the_parity_verb_agrees(
    bundle: Path, source: str, target: str, report: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["parity", str(bundle), "--source", source, "--target", target, "--json", "-o", str(report)])
    assert end.value.code in (0, None)
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    assert json.loads(report.read_text())["verdict"] == "pass"


@pytest.mark.parametrize("name", ["legacy-bot", "native-bot", "adapter-bot"])
def test_store_models(serve: Serve, shared: Path, name: str) -> None:
    with serve(name) as served:
        check(shared, name, served)


@pytest.mark.full
@pytest.mark.parametrize("name", ["child-bot", "q4-bot"])
def test_more_store_models(serve: Serve, shared: Path, name: str) -> None:
    with serve(name) as served:
        check(shared, name, served)


def test_serve_sh_says_why_it_did_not_come_up(shared: Path, engines: EnginesEnv, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write.write(plan(Store(shared / "ollama/store").load("q4-bot")), bundle)
    environment = os.environ | {"VLLM_COMMAND": str(engines.vllm), "SERVE_LOG": str(tmp_path / "log")}
    command = ["bash", str(bundle / "serve.sh"), "--port", str(free_port()), "--no-such-option"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "serve.sh: vLLM did not come up: " in done.stderr
    assert "--no-such-option" in done.stderr.split("did not come up: ")[1].splitlines()[0]


def test_serve_sh_without_vllm(shared: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write.write(plan(Store(shared / "ollama/store").load("q4-bot")), bundle)
    environment = os.environ | {"VLLM_COMMAND": "no-such-program"}
    done = subprocess.run(
        ["bash", str(bundle / "serve.sh")], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "no-such-program is not installed: pip install vllm==" in done.stderr
