"""Embedding models: no prompt, no sampling; pooled and scaled as Ollama does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from migrate.architectures.bert import pooling_files
from migrate.bundle import write
from migrate.errors import Refused
from migrate.findings import Status
from migrate.gguf.header import read_header
from migrate.mapping.migration import Choices, plan
from migrate.ollama.reference import load
from tests.architectures.families import ROOT
from tests.gguf.build import build


def test_the_bundle_of_an_embedding_model(tmp_path: Path) -> None:
    migration = plan(load(str(ROOT / "nomic_bert" / "model.gguf")), Choices(served_name="nomic"))
    assert migration.pooling
    assert not migration.refused
    written = write.write(migration, tmp_path / "out")
    serve = yaml.safe_load((written.path / "serve.yaml").read_text())
    assert serve["runner"] == "pooling"
    assert serve["max-model-len"] == 2048
    assert not {"chat-template", "generation-config", "middleware"} & serve.keys()
    files = {path.relative_to(written.path / "model").as_posix() for path in (written.path / "model").rglob("*.json")}
    assert files == {"config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json"}
    script = (written.path / "serve.sh").read_text()
    assert "/v1/embeddings" in script
    assert "/v1/completions" not in script
    runbook = (written.path / "MIGRATION.md").read_text()
    assert "/v1/embeddings" in runbook
    assert "chat/completions" not in runbook
    assert written.manifest.target.eos_token_id == []


def test_what_a_modelfile_adds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_text(f"FROM {ROOT / 'bert' / 'model.gguf'}\nPARAMETER temperature 0\nPARAMETER num_ctx 32\nSYSTEM x\n")
    migration = plan(load(str(path)))
    found = {finding.item: finding.status for finding in migration.ledger}
    assert (found["PARAMETER temperature"], found["SYSTEM"]) == (Status.DROPPED, Status.DROPPED)
    assert migration.max_model_len == 32
    assert found["embedding"] is Status.EQUIVALENT


POOLING = [(1, "pooling_mode_mean_tokens"), (2, "pooling_mode_cls_token"), (3, "pooling_mode_lasttoken")]


@pytest.mark.parametrize(("kind", "name"), POOLING)
def test_pooling_modes(tmp_path: Path, kind: int, name: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(build({"general.architecture": "bert", "bert.pooling_type": kind, "bert.embedding_length": 8}))
    files = pooling_files(read_header(path))
    pooling = json.loads(files["1_Pooling/config.json"])
    assert [key for key, value in pooling.items() if value is True] == [name]
    assert [module["type"].rpartition(".")[2] for module in json.loads(files["modules.json"])] == [
        *("Transformer", "Pooling", "Normalize"),
    ]


def test_rankers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(build({"general.architecture": "bert", "bert.pooling_type": 4}))
    with pytest.raises(Refused, match="pooling_type 4"):
        pooling_files(read_header(path))
