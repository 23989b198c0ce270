"""Three models and an ADAPTER on one copy of the weights: one bundle, one real vLLM, each name as its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.bundle.variants import weights_ids, write_set
from migrate.cli.app import main
from migrate.engines import llamacpp, vllm
from migrate.engines.provision import EnginesEnv
from migrate.mapping.groups import group
from migrate.mapping.migration import plan
from migrate.mapping.variants import plan_set
from migrate.ollama import reference
from migrate.ollama.store import Store
from migrate.parity.report import LayerName, Verdict
from migrate.parity.run import run
from tests.engines.recorded import recorded_conversations, recorded_ollama

pytestmark = pytest.mark.live

THIRD = '''FROM support-bot
TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ range .Messages }}{{ if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
SYSTEM Answer like a pirate.
PARAMETER temperature 0.7
PARAMETER min_p 0.1
PARAMETER num_ctx 512
PARAMETER num_predict 24
PARAMETER stop "."
PARAMETER stop "Pirate:"
'''
NAMES = ("support-bot", "child-bot", "third")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
FORCED = {"structured_outputs": {"choice": ["Hello User: there. Pirate: no"]}}

TUNED = "tuned"
"""A fourth: an ADAPTER on the same weights, with a SYSTEM of its own."""

Served = tuple[Path, llamacpp.LlamaCppEngine, str]


@pytest.fixture(scope="module")
def served(shared: Path, engines: EnginesEnv, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The bundle, llama.cpp on the blob, the address of vLLM on the bundle."""
    root, store = tmp_path_factory.mktemp("set"), shared / "ollama/store"
    modelfile = root / "third" / "Modelfile"
    modelfile.parent.mkdir()
    modelfile.write_text(THIRD)
    tuned = root / TUNED / "Modelfile"
    tuned.parent.mkdir()
    tuned.write_text(f"FROM support-bot\nADAPTER {adapter_of(shared)}\nSYSTEM Answer like a parrot.\n")
    made = (reference.load(str(path), models_dir=store) for path in (modelfile, tuned))
    models = [*(Store(store).load(name) for name in NAMES[:2]), *made]
    (found,) = group([plan(model) for model in models], weights_ids(models))
    bundle = root / "bundle"
    write_set(plan_set(found.migrations), bundle)
    blob = models[0].gguf_path
    assert blob is not None
    with (
        llamacpp.serve(blob, python=str(engines.python), log=logs / "set-llamacpp.log", context=1024) as source,
        vllm.serve(
            bundle,
            vllm=str(engines.vllm),
            args=[*vllm.COMPARE_ARGS, "--enable-scale-out"],  # for /v1/chat/completions/render
            env=vllm.CPU_ENV,
            log=logs / "set-vllm.log",
        ) as server,
    ):
        yield bundle, source, server.url


def adapter_of(shared: Path) -> Path:
    return shared / "models" / "tinychat" / "lora" / "adapter.gguf"


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[2], timeout=60) as client:
        yield client


@pytest.mark.parametrize("name", NAMES)
def test_each_name_answers_as_its_model(name: str, served: Served) -> None:
    """The files, the prompts, the tokens, the numbers and the behaviours of that model, on one server."""
    bundle, source, url = served
    with closing(vllm.VllmEngine(url, model=name)) as target:
        report = run(bundle, source, target, variant=name)
    assert report.model == {"third": "third"}.get(name, f"{name}:latest")
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    assert {layer.name for layer in report.layers} >= {LayerName.PROMPT, LayerName.LOGPROBS, LayerName.BEHAVIOURS}


@pytest.mark.parametrize("name", NAMES[:2])
def test_prompts_are_those_a_real_ollama_made(name: str, served: Served, shared: Path) -> None:
    bundle, _, url = served
    from migrate.engines.ollama import OllamaEngine

    conversations = recorded_conversations(shared, f"render/{name}/")
    assert len(conversations) > 5
    with (
        recorded_ollama(shared) as address,
        closing(OllamaEngine(address, model=name)) as source,
        closing(vllm.VllmEngine(url, model=f"{name}:latest")) as target,
    ):
        report = run(bundle, source, target, layers=[LayerName.PROMPT], battery=conversations, variant=name)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)


def test_another_models_prompt_is_noticed(served: Served) -> None:
    """The same bundle, compared as one model and asked as another."""
    bundle, source, url = served
    with closing(vllm.VllmEngine(url, model="child-bot")) as target:
        report = run(bundle, source, target, layers=[LayerName.PROMPT], variant="support-bot")
    assert report.verdict is Verdict.FAIL
    assert report.layers[0].name is LayerName.PROMPT


def test_an_adapter_is_one_of_the_names(served: Served, shared: Path, engines: EnginesEnv, logs: Path) -> None:
    """Its own prompt and its own numbers, which are not those of the weights alone."""
    bundle, plain, url = served
    layers = [LayerName.PROMPT, LayerName.TOKENS, LayerName.LOGPROBS]
    blob = Store(shared / "ollama/store").load("support-bot").gguf_path
    assert blob is not None
    with (
        llamacpp.serve(
            blob, python=str(engines.python), log=logs / "set-lora.log", adapters=[adapter_of(shared)], context=1024
        ) as tuned,
        closing(vllm.VllmEngine(url, model=TUNED)) as target,
    ):
        report = run(bundle, tuned, target, layers=layers, variant=TUNED)
        without = run(bundle, plain, target, layers=layers, variant=TUNED)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    assert without.verdict is Verdict.FAIL
    assert next(layer.name for layer in without.layers if layer.status == "fail") is LayerName.LOGPROBS


SAMPLING: dict[str, dict[str, Any]] = {
    "support-bot": {"temperature": 0.2, "top_k": 20, "min_p": 0.05, "seed": 42, "max_tokens": 64, "stop": ["User:"]},
    "child-bot": {"temperature": 0.0, "seed": 42, "max_tokens": 64, "stop": []},
    "third": {"temperature": 0.7, "top_k": 20, "min_p": 0.1, "seed": 42, "max_tokens": 24, "stop": [".", "Pirate:"]},
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_by_name(name: str, client: httpx.Client) -> None:
    """What vLLM samples with when a request says nothing: its own answer."""
    for served_name in (name, f"{name}:latest"):
        body = {"model": served_name, "messages": QUESTION}
        params = client.post("/v1/chat/completions/render", json=body).raise_for_status().json()["sampling_params"]
        found = {key: params.get(key) for key in SAMPLING[name]}
        assert found == SAMPLING[name]
        assert (732 in params["stop_token_ids"]) == (name == "support-bot"), "<|im_start|>, a stop of that one alone"


def chat(client: httpx.Client, name: str | None, **fields: Any) -> dict[str, Any]:
    body = {"messages": QUESTION, "temperature": 0, **({"model": name} if name else {}), **fields}
    answer: dict[str, Any] = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    return answer


@pytest.mark.parametrize(
    ("name", "text", "stop"),
    [
        ("support-bot", "Hello ", "User:"),
        ("child-bot", "Hello User: there. Pirate: no", None),
        ("third", "Hello User: there", "."),
    ],
)
def test_stops_by_name(client: httpx.Client, name: str, text: str, stop: str | None) -> None:
    choice = chat(client, name, **FORCED, max_tokens=40)["choices"][0]
    assert choice["message"]["content"] == text
    assert (choice["stop_reason"] if stop else None) == stop
    own = chat(client, name, **FORCED, max_tokens=40, stop=["there"])["choices"][0]
    assert own["message"]["content"] == "Hello User: "


def prompts(client: httpx.Client) -> dict[str, str]:
    return {n: chat(client, n, max_tokens=1, return_prompt_text=True)["prompt_text"] for n in NAMES}


def test_the_template_is_not_the_clients_to_choose(client: httpx.Client) -> None:
    own = prompts(client)
    assert len(set(own.values())) == 3
    for name in NAMES:
        for other in NAMES:
            kwargs = {"migrate_variant": other, "x": 1}
            said = chat(client, name, max_tokens=1, return_prompt_text=True, chat_template_kwargs=kwargs)
            assert said["prompt_text"] == own[name]
    assert chat(client, None, max_tokens=1, return_prompt_text=True)["prompt_text"] == own["support-bot"]


def test_other_routes_by_name(client: httpx.Client) -> None:
    """Token counts of the prompt tell which template was used."""
    counts = {}
    for name in NAMES:
        body = {"model": name, "messages": QUESTION}
        tokens = client.post("/tokenize", json=body).raise_for_status().json()["count"]
        usage = chat(client, name, max_tokens=1)["usage"]["prompt_tokens"]
        message = client.post("/v1/messages", json=body | {"max_tokens": 4}).raise_for_status().json()
        counted = client.post("/v1/messages/count_tokens", json=body).raise_for_status().json()
        response = client.post(
            "/v1/responses", json={"model": name, "input": QUESTION[0]["content"], "max_output_tokens": 4}
        )
        counts[name] = tokens
        assert usage == tokens
        assert message["usage"]["input_tokens"] == tokens
        assert counted["input_tokens"] == tokens
        bos = 1  # vLLM 0.32 tokenizes the prompts of /v1/responses with BOS before them, whatever the template prints
        assert response.raise_for_status().json()["usage"]["input_tokens"] == tokens + bos
    assert len(set(counts.values())) == 3


def test_what_one_model_cannot_is_refused_for_it_alone(client: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    statuses = {
        name: client.post(
            "/v1/chat/completions", json={"model": name, "messages": QUESTION, "tools": [tool], "max_tokens": 4}
        ).status_code
        for name in (*NAMES, "nobody")
    }
    assert statuses == {"support-bot": 200, "child-bot": 200, "third": 400, "nobody": 404}


def test_the_parity_verb_goes_through_all(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, source, url = served
    with pytest.raises(SystemExit) as end:
        main(["parity", str(bundle), "--source", source.url, "--target", url, "--variant", "all", "-o", str(tmp_path)])
    assert end.value.code in (0, None)
    told = capsys.readouterr().err
    names = {*NAMES, TUNED}
    assert [line.split(":")[1].strip() for line in told.splitlines() if line.split(":")[0] in names] == ["pass"] * 4
    assert {path.parent.name for path in tmp_path.rglob("report.json")} == names
