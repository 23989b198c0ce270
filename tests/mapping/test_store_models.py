"""The seven models of a store that a real Ollama wrote: what is read, what moves, what a live server says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.chat_template import BATTERY
from migrate.mapping.inspection import inspection
from migrate.mapping.migration import Choices, plan
from migrate.ollama.api import OllamaAPI
from migrate.ollama.store import Store
from tests.ollama.replay import recordings, replay

MODELS = ("support-bot", "child-bot", "legacy-bot", "native-bot", "q4-bot", "adapter-bot", "renderer-bot")


def inspected(shared: Path, name: str, **choices: Any) -> dict[str, Any]:
    return inspection(plan(Store(shared / "ollama/store").load(name), Choices(**choices)))


@pytest.mark.parametrize(
    ("name", "quantization", "path", "movable"),
    [
        ("support-bot", "Q4_K_M", "go_template", True),
        ("child-bot", "Q4_K_M", "go_template", True),
        ("legacy-bot", "Q8_0", "go_template", True),
        (
            "native-bot",
            "F16",
            "go_template",
            True,
        ),  # `ollama create` attached a template: the recordings show it at work
        ("q4-bot", "Q4_0", "go_template", True),
        ("adapter-bot", "F16", "go_template", True),
        ("renderer-bot", "Q8_0", "renderer", True),
    ],
)
def test_what_each_model_is(shared: Path, name: str, quantization: str, path: str, movable: bool) -> None:
    result = inspected(shared, name)
    assert (result["architecture"], result["quantization"]) == ("llama", quantization)
    assert (result["prompt_path"], result["movable"]) == (path, movable)
    assert result["parameter_count"] == 3541248
    assert result["context_length"] == 2048
    assert result["kv_bytes_per_token"] == 2048


def finding(result: dict[str, Any], item: str, text: str = "") -> dict[str, Any]:
    found: dict[str, Any] = next(f for f in result["findings"] if f["item"] == item and text in f["source"])
    return found


def test_a_renderer_is_written_as_a_chat_template(shared: Path) -> None:
    found = finding(inspected(shared, "renderer-bot"), "RENDERER", "qwen3-coder")
    assert (found["status"], found["target"]) == ("approximate", "chat_template.jinja")  # order of extra schema keys


def test_an_unknown_renderer_is_refused_by_name(shared: Path) -> None:
    model = replace(Store(shared / "ollama/store").load("renderer-bot"), renderer="qwen9")
    (refused,) = plan(model).refused
    assert "'qwen9' is not known" in refused.reason
    assert "--chat-template own" in refused.action


def test_an_adapter_is_served_under_the_models_name(shared: Path) -> None:
    planned = plan(Store(shared / "ollama/store").load("adapter-bot"))
    arguments = {a.name: a.value for a in planned.arguments}
    assert arguments["served-model-name"] == ["adapter-bot-base"]
    assert arguments["lora-modules"] == ["adapter-bot=adapters/lora", "adapter-bot:latest=adapters/lora"]
    assert arguments["max-lora-rank"] in (8, 16)
    assert finding(inspected(shared, "adapter-bot"), "ADAPTER")["status"] == "equivalent"


def test_the_own_template_tells_where_it_differs(shared: Path) -> None:
    result = inspected(shared, "renderer-bot", own_chat_template=True)
    assert result["movable"]
    (reason,) = (f["reason"] for f in result["findings"] if f["item"] == "TEMPLATE" and f["status"] == "approximate")
    assert f"of {len(BATTERY)} conversations compared: " in reason
    assert "tools" in reason
    assert "the first: Ollama " in reason


def test_a_child_says_what_it_inherited(shared: Path) -> None:
    result = inspected(shared, "child-bot")
    origins = {p["name"]: p["origin"] for p in result["parameters"]}
    assert result["parent"] == "support-bot:latest"
    assert origins["top_k"] == "parent support-bot:latest"
    assert origins["temperature"] == "Modelfile"
    assert next(p["value"] for p in result["parameters"] if p["name"] == "stop") == ["<|im_end|>"]
    assert result["system"] == "Answer in one word."


def test_every_parameter_of_a_modelfile_is_in_the_ledger(shared: Path) -> None:
    for name in MODELS:
        model = Store(shared / "ollama/store").load(name)
        items = {f["item"] for f in inspected(shared, name)["findings"]}
        assert {f"PARAMETER {p}" for p in model.parameters} <= items, name


def test_the_penalty_is_ollamas_own(shared: Path) -> None:
    result = inspected(shared, "support-bot")
    assert finding(result, "PARAMETER repeat_penalty")["status"] == "exact"
    assert finding(inspected(shared, "support-bot", penalties="vllm"), "PARAMETER repeat_penalty", "1.1")["target"] == (
        "repetition_penalty 1.1"
    )


def test_older_servers_had_another_default_penalty(shared: Path) -> None:
    old = inspected(shared, "q4-bot", ollama_version="0.31.0")
    assert finding(old, "default repeat_penalty")["target"] == "vllm_xargs repeat_penalty 1.1"
    assert finding(inspected(shared, "q4-bot"), "default repeat_penalty")["status"] == "exact"


@pytest.mark.parametrize("name", MODELS)
def test_a_live_server_says_the_same(shared: Path, name: str) -> None:
    """The recordings of the real server, replayed: inspecting through the API equals inspecting the store."""
    with replay(recordings(shared / "ollama/recordings.jsonl")) as url, OllamaAPI(url) as api:
        live = inspection(plan(api.load_model(name, models_dir=shared / "ollama/store")))
    stored = inspected(shared, name)
    for key in ("architecture", "quantization", "parameter_count", "prompt_path", "template", "system", "movable"):
        assert live[key] == stored[key], key
    own = [p for p in live["parameters"] if not p["origin"].startswith("Ollama default")]
    assert {p["name"]: p["value"] for p in own} == {
        p["name"]: p["value"] for p in stored["parameters"] if not p["origin"].startswith("Ollama default")
    }
    assert live["ollama_version"] == "0.33.0-rc2"
    assert live["ollama_version_known"]


def test_a_deprecated_parameter_is_not_dropped_silently(shared: Path, tmp_path: Path) -> None:
    from migrate.ollama import reference

    gguf = shared / "models/tinychat/gguf/tinychat-q4_0.gguf"
    (tmp_path / "Modelfile").write_text(f"FROM {gguf}\nPARAMETER mirostat 2\nPARAMETER temperature 0.5\n")
    result = inspection(plan(reference.load(str(tmp_path / "Modelfile"))))
    assert finding(result, "PARAMETER mirostat", "2")["status"] == "dropped"
