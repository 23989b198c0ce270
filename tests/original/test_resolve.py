"""`migrate resolve` and `convert --weights original` from the command line, against a local Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from migrate.checkpoint.tokenizer import write_tokenizer
from migrate.cli.app import app
from migrate.errors import MigrateError
from migrate.gguf.header import read_header
from tests.architectures import families
from tests.original.hub import SHA, Hub, serving
from tests.original.test_prove import changed, lora

pytest.importorskip("huggingface_hub")


@pytest.fixture
def tinychat(shared: Path) -> Path:
    return shared / "models" / "tinychat"


@pytest.fixture
def hub(tinychat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    base = changed(tinychat / "hf", tmp_path / "base", lora(0.02))
    with serving(Hub({"acme/tinychat": tinychat / "hf", "acme/base": base, "acme/shy": base},
                     gated=frozenset(["acme/shy"]))) as server:  # fmt: skip
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and standard output; errors as `main` would turn them into codes."""
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, MigrateError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def with_metadata(source: Path, target: Path, metadata: dict[str, str]) -> Path:
    """A copy of a GGUF that says more about where it comes from."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            element = entry.types[-1] if entry.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), entry.types[0], sub_type=element)
    for key, value in metadata.items():
        writer.add_string(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_the_first_that_is_proved_wins(hub: Hub, tinychat: Path, tmp_path: Path) -> None:
    """The metadata names the base, a gated one, none, and the right one: each is told, the last is proved."""
    path = with_metadata(
        tinychat / "gguf" / "tinychat-q4_k_m.gguf",
        tmp_path / "mine.gguf",
        {
            "general.source.huggingface.repository": "acme/base",
            "general.source.repo_url": "https://huggingface.co/acme/shy",
            "general.source.url": "https://huggingface.co/acme/none",
            "general.repo_url": "https://huggingface.co/acme/tinychat",
        },
    )
    code, out = run("resolve", str(path), "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    assert found["proved"]
    verdicts = [(a["repository"], a["proof"] and a["proof"]["verdict"]) for a in found["attempts"]]
    assert verdicts == [("acme/base", "related"), ("acme/shy", None), ("acme/none", None), ("acme/tinychat", "proved")]
    assert found["attempts"][-1]["proof"]["revision"] == SHA
    assert "gated" in found["attempts"][1]["error"]
    code, out = run("resolve", str(path))
    assert code == 0
    assert f"acme/tinychat@{SHA[:12]}" in out
    assert "fine-tune" in out


@pytest.mark.parametrize(
    ("repository", "code", "said"),
    [
        ("acme/base", 3, "fine-tune"),
        ("acme/shy", 3, "gated"),
        ("acme/none", 2, "no such repository"),
        ("acme/tinychat@v7", 2, "no such revision"),
        ("nonsense", 2, "no name of a repository"),
        (f"acme/tinychat@{SHA}", 0, "proved"),
    ],
)
def test_a_named_repository(hub: Hub, tinychat: Path, repository: str, code: int, said: str) -> None:
    found = run("resolve", str(tinychat / "gguf" / "tinychat-q4_0.gguf"), "--hf-repo", repository)
    assert found[0] == code
    assert said in found[1]


def test_nothing_is_known(tinychat: Path) -> None:
    code, said = run("resolve", str(tinychat / "gguf" / "tinychat-q4_0.gguf"))
    assert code == 3
    assert "which checkpoint it was made from" in said
    code, said = run("resolve", str(tinychat / "hf"))
    assert code == 3
    assert "a checkpoint already" in said


def test_unreachable_is_undecided(hub: Hub, tinychat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    source = {"general.source.huggingface.repository": "acme/tinychat"}
    path = with_metadata(tinychat / "gguf" / "tinychat-q4_0.gguf", tmp_path / "mine.gguf", source)
    code, out = run("resolve", str(path), "--json")
    assert code == 4
    assert "cannot be reached" in json.loads(out)["attempts"][0]["error"]


def test_the_bundle_has_the_originals_weights(hub: Hub, tinychat: Path, tmp_path: Path) -> None:
    gguf, out = tinychat / "gguf" / "tinychat-q4_k_m.gguf", tmp_path / "out"
    code, _ = run("convert", str(gguf), "--weights", "original", "--hf-repo", "acme/tinychat", "-o", str(out))
    assert code == 0
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (out / "model" / name).read_bytes() == (tinychat / "hf" / name).read_bytes()
    manifest = json.loads((out / "migration.json").read_text())
    assert manifest["original"]["repository"] == "acme/tinychat"
    assert manifest["original"]["revision"] == SHA
    assert manifest["original"]["judgements"] == {"identical": 9, "within": 30}
    assert manifest["source"]["digests"]["model"].startswith("sha256:")
    (weights,) = [f for f in manifest["findings"] if f["item"] == "FROM"]
    assert weights["status"] == "approximate"
    assert f"acme/tinychat@{SHA}" in weights["target"]


def test_an_unquantized_file_loses_nothing(tinychat: Path, tmp_path: Path) -> None:
    gguf, out = tinychat / "gguf" / "tinychat-f16.gguf", tmp_path / "out"
    code, _ = run("convert", str(gguf), "--weights", "original", "--hf-path", str(tinychat / "hf"), "-o", str(out))
    assert code == 0
    manifest = json.loads((out / "migration.json").read_text())
    assert [f["status"] for f in manifest["findings"] if f["item"] == "FROM"] == ["exact"]
    assert (manifest["original"]["revision"], manifest["target"]["dtype"]) == ("", "bfloat16")


def test_a_dry_run_downloads_nothing(hub: Hub, tinychat: Path, tmp_path: Path) -> None:
    gguf = tinychat / "gguf" / "tinychat-q4_k_m.gguf"
    code, out = run("convert", str(gguf), "--weights", "original", "--hf-repo", "acme/tinychat", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["movable"]
    assert not (tmp_path / "cache").exists()
    size = (tinychat / "hf" / "model.safetensors").stat().st_size
    assert hub.served < size / 2


def test_what_is_not_proved_is_not_used(hub: Hub, tinychat: Path, tmp_path: Path) -> None:
    gguf, out = str(tinychat / "gguf" / "tinychat-q4_k_m.gguf"), tmp_path / "out"
    code, said = run("convert", gguf, "--weights", "original", "--hf-repo", "acme/base", "-o", str(out))
    assert code == 3
    assert "is not proved" in said
    assert not out.exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--hf-repo", "acme/tinychat"),
        ("--weights", "dense", "--hf-path", "."),
        ("--weights", "original", "--tokenizer", "."),
        ("--weights", "original", "--hf-path", ".", "--hf-repo", "acme/tinychat"),
    ],
)
def test_options_that_cannot_be_meant(tinychat: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    gguf = str(tinychat / "gguf" / "tinychat-q4_k_m.gguf")
    assert run("convert", gguf, *options, "-o", str(tmp_path / "out"))[0] == 2


def test_embedding_models_keep_their_ggufs_weights(tmp_path: Path) -> None:
    family, original = families.load("nomic_bert"), tmp_path / "original"
    original.mkdir()
    families.convert(family, original)
    code, out = run("resolve", str(family.gguf), "--hf-path", str(original))
    assert (code, "proved" in out) == (0, True)
    options = ("--weights", "original", "--hf-path", str(original), "-o", str(tmp_path / "out"))
    code, said = run("convert", str(family.gguf), *options)
    assert code == 3
    assert "not for embedding models" in said


def test_a_download_that_breaks_leaves_no_bundle(
    hub: Hub, tinychat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migrate.original.repository import HubRepository

    real = HubRepository.fetched

    def lost(self: HubRepository) -> Path:
        shutil.rmtree(hub.repositories["acme/base"])
        hub.repositories = {"acme/tinychat": tmp_path / "gone"}
        return real(self)

    monkeypatch.setattr(HubRepository, "fetched", lost)
    gguf, out = str(tinychat / "gguf" / "tinychat-q4_0.gguf"), tmp_path / "out"
    code, _ = run("convert", gguf, "--weights", "original", "--hf-repo", "acme/tinychat", "-o", str(out))
    assert code in (2, 4)
    assert not out.exists()


def test_an_original_without_tokenizer_json_gets_one_of_the_gguf(shared: Path, tmp_path: Path) -> None:
    """What transformers makes of its tokenizer.model begins texts otherwise than Ollama did."""
    mistral = shared / "models" / "mistral"
    out = tmp_path / "out"
    options = ["-o", str(out), "--weights", "original", "--hf-path", str(mistral / "hf")]
    code, text = run("convert", str(mistral / "gguf" / "model-bf16.gguf"), *options)
    assert code == 0, text
    assert not (mistral / "hf" / "tokenizer.json").exists()
    alone = tmp_path / "alone"
    alone.mkdir()
    write_tokenizer(read_header(mistral / "gguf" / "model-bf16.gguf"), alone)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / "model" / name).read_bytes() == (alone / name).read_bytes()
    finding = next(f for f in json.loads((out / "migration.json").read_text())["findings"] if f["item"] == "tokenizer")
    assert (finding["status"], finding["target"]) == ("exact", "tokenizer.json")
