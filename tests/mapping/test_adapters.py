"""ADAPTER: served beside the model, folded into it, or refused with a reason."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.bundle import write
from migrate.findings import Status
from migrate.mapping.migration import Choices, Migration, plan
from migrate.ollama.reference import load


def modelfile(directory: Path, shared: Path, adapter: str) -> Path:
    path = directory / "Modelfile"
    base = shared / "models" / "tinychat" / "gguf" / "tinychat-q8_0.gguf"
    path.write_text(f'FROM {base}\nADAPTER {adapter}\nTEMPLATE "{{{{ .Prompt }}}}"\n')
    return path


def peft(directory: Path, shared: Path, **config: Any) -> Path:
    """The PEFT directory of tinychat, its configuration varied."""
    target = directory / "peft"
    shutil.copytree(shared / "models" / "tinychat" / "lora", target)
    (target / "adapter.gguf").unlink()
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return target


def planned(directory: Path, shared: Path, adapter: Path, choices: Choices | None = None) -> Migration:
    return plan(load(str(modelfile(directory, shared, str(adapter)))), choices or Choices())


def finding(migration: Migration) -> tuple[Status, str]:
    found = next(f for f in migration.ledger if f.item == "ADAPTER")
    return found.status, found.reason


@pytest.mark.parametrize("name", ["", "adapter_model.safetensors"])
def test_a_peft_directory_is_served_as_it_is(shared: Path, tmp_path: Path, name: str) -> None:
    directory = peft(tmp_path, shared)
    migration = planned(tmp_path, shared, directory / name)
    assert finding(migration)[0] is Status.EQUIVALENT
    written = write.write(migration, tmp_path / "out")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (written.path / "adapters" / "lora" / file).read_bytes() == (directory / file).read_bytes()
    serve = (written.path / "serve.yaml").read_text()
    assert "max-lora-rank: 8" in serve


def test_a_gguf_adapter_is_folded_in(shared: Path, tmp_path: Path) -> None:
    adapter = shared / "models" / "tinychat" / "lora" / "adapter.gguf"
    migration = planned(tmp_path, shared, adapter, Choices(merge_adapter=True))
    written = write.write(migration, tmp_path / "out")
    assert finding(migration) == (
        Status.EQUIVALENT,
        "w + scale b a in float32, rounded once; Ollama adds the product to what the quantized weights give",
    )
    assert not (written.path / "adapters").exists()
    assert "lora" not in (written.path / "serve.yaml").read_text()
    plain = write.write(replace(migration, adapter=None), tmp_path / "plain")
    weights = "model/model.safetensors"
    assert (written.path / weights).read_bytes() != (plain.path / weights).read_bytes()


REFUSED: list[tuple[dict[str, Any], Choices, str]] = [
    ({"use_dora": True}, Choices(), "use_dora"),
    ({"modules_to_save": ["lm_head"]}, Choices(), "modules_to_save"),
    ({"r": 0}, Choices(), "r is 0, not a rank"),
    ({"r": 1024}, Choices(), "ranks up to 512"),
    ({}, Choices(merge_adapter=True), "only a GGUF adapter can be folded in"),
]


@pytest.mark.parametrize(("config", "choices", "reason"), REFUSED)
def test_what_vllm_does_not_serve(
    shared: Path, tmp_path: Path, config: dict[str, Any], choices: Choices, reason: str
) -> None:
    migration = planned(tmp_path, shared, peft(tmp_path, shared, **config), choices)
    assert finding(migration)[0] is Status.REFUSED
    assert reason in finding(migration)[1]


def test_an_incomplete_directory(shared: Path, tmp_path: Path) -> None:
    directory = peft(tmp_path, shared)
    (directory / "adapter_model.safetensors").unlink()
    status, reason = finding(planned(tmp_path, shared, directory))
    assert status is Status.REFUSED
    assert "adapter_model.safetensors is missing" in reason


def test_merging_nothing_is_refused(shared: Path, tmp_path: Path) -> None:
    base = shared / "models" / "tinychat" / "gguf" / "tinychat-q8_0.gguf"
    migration = plan(load(str(base)), Choices(merge_adapter=True))
    assert finding(migration) == (Status.REFUSED, "--merge-adapter, but the model has no ADAPTER")
