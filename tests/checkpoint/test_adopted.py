"""`--tokenizer`: taken over when its vocabulary is the GGUF's, refused when it is another model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from migrate.bundle import write
from migrate.checkpoint.adopted import adds_bos, adopt_tokenizer, load
from migrate.errors import BadInput, MigrateError, NotFound, Refused
from migrate.findings import Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.mapping.migration import Choices, plan
from migrate.ollama.reference import load as load_model
from tests.architectures.test_variants import contents
from tests.gguf.build import build

SAME = ["llama3rope", "qwen3", "gemma4", "bert", "phi3"]


def header_of(shared: Path, model: str) -> GGUFHeader:
    return read_header(shared / "models" / model / "gguf" / "model-bf16.gguf")


@pytest.mark.parametrize("model", SAME)
def test_the_original_is_taken_over(shared: Path, tmp_path: Path, model: str) -> None:
    hf = shared / "models" / model / "hf"
    names, findings = adopt_tokenizer(str(hf), header_of(shared, model), tmp_path)
    assert names[:2] == ["tokenizer.json", "tokenizer_config.json"]
    assert (tmp_path / "tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()
    assert findings[0].status is Status.EQUIVALENT


def test_another_models_is_refused(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"id \d+ is .*, in the GGUF it is .*: another model's tokenizer"):
        adopt_tokenizer(str(shared / "models" / "gemma4" / "hf"), header_of(shared, "qwen3"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_changed_token_is_found(shared: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(shared / "models" / "qwen3" / "hf", tmp_path / "hf"))
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    a, b = [text for text, i in vocabulary.items() if i in (300, 301)]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(Refused, match="id 300 is"):
        adopt_tokenizer(str(directory), header_of(shared, "qwen3"), tmp_path)


def test_what_is_no_tokenizer(shared: Path, tmp_path: Path) -> None:
    header = header_of(shared, "qwen3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"no tokenizer\.json"):
        adopt_tokenizer(str(tmp_path / "empty"), header, tmp_path)
    (tmp_path / "empty" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="not a tokenizer"):
        adopt_tokenizer(str(tmp_path / "empty"), header, tmp_path)
    with pytest.raises(NotFound, match="no such directory, and no name of a repository"):
        adopt_tokenizer("/nowhere/at/all", header, tmp_path)


def test_the_hub_out_of_reach(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MigrateError, match="owner/name"):
        adopt_tokenizer("owner/name", header_of(shared, "qwen3"), tmp_path)


def test_bos_as_the_file_says_else_as_the_tokenizer_does(shared: Path) -> None:
    tokenizer = load(shared / "models" / "llama3rope" / "hf" / "tokenizer.json")
    header = header_of(shared, "llama3rope")
    assert adds_bos(tokenizer, header) is bool(header.get("tokenizer.ggml.add_bos_token", True))


def test_an_unknown_pre_tokenizer_needs_it(shared: Path, tmp_path: Path) -> None:
    metadata, tensors = contents(header_of(shared, "qwen3"))
    path = tmp_path / "odd.gguf"
    path.write_bytes(build(metadata | {"tokenizer.ggml.pre": "brand-new"}, list(tensors.values())))
    model = load_model(str(path))
    refused = plan(model).refused
    assert "pre-tokenizer 'brand-new' is not known" in refused[0].reason
    assert "--tokenizer" in refused[0].action
    original = shared / "models" / "qwen3" / "hf"
    migration = plan(model, Choices(tokenizer=str(original)))
    assert not migration.refused
    written = write.write(migration, tmp_path / "out")
    assert (written.path / "model" / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
    assert json.loads((written.path / "model" / "config.json").read_text())["eos_token_id"] == 733
