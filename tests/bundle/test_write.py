"""A bundle on disk: complete, deterministic, never half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.bundle import write
from migrate.errors import BadInput, GGUFError, NotFound, OutputExists, Refused, StoreError, UsageError
from migrate.mapping.migration import Choices, Migration, plan
from migrate.ollama.store import Store

STORE = resources.directory("demo-store")


def migration(name: str = "support-bot", **choices: object) -> Migration:
    return plan(Store(STORE).load(name), Choices(**choices))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "out"
    write.write(migration(), out)
    return out


def tree(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


def test_everything_is_there(bundle: Path) -> None:
    assert set(tree(bundle)) == {
        "LICENSE",
        "MIGRATION.md",
        "migrate_defaults.py",
        "migration.json",
        "ollama_penalties.py",
        "model/chat_template.jinja",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "ollama_show.json",
        "request_defaults.json",
        "serve.sh",
        "serve.yaml",
    }
    assert os.access(bundle / "serve.sh", os.X_OK)


def test_manifest_says_what_the_files_are(bundle: Path) -> None:
    manifest = bundle_format.read(bundle)
    on_disk = tree(bundle)
    assert {name: entry.sha256 for name, entry in manifest.files.items()} == {
        name: digest for name, digest in on_disk.items() if name != "migration.json"
    }
    assert manifest.source.digests["model"].startswith("sha256:")
    penalties = {"repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert manifest.target.request_defaults == {"stop": ["User:"], "seed": 42, "vllm_xargs": penalties}


def test_parameters_arrive(bundle: Path) -> None:
    generation = json.loads((bundle / "model/generation_config.json").read_text())
    assert generation["temperature"] == 0.2
    assert (generation["top_k"], generation["top_p"], generation["min_p"]) == (20, 0.95, 0.05)
    assert generation["max_new_tokens"] == 64
    assert generation["repetition_penalty"] == 1.0
    assert 733 in generation["eos_token_id"]  # <|im_end|>
    assert 732 in generation["eos_token_id"]  # <|im_start|>, a stop that is a control token
    arguments = yaml.safe_load((bundle / "serve.yaml").read_text())
    assert arguments["max-model-len"] == 1024
    assert arguments["served-model-name"] == ["support-bot", "support-bot:latest"]
    assert arguments["host"] == "127.0.0.1"
    assert arguments["middleware"] == ["migrate_defaults.RequestDefaults"]
    assert arguments["logits-processors"] == ["ollama_penalties:OllamaPenalties"]
    assert "PARAMETER num_ctx 1024" in (bundle / "serve.yaml").read_text()


def test_same_input_same_bytes(bundle: Path, tmp_path: Path) -> None:
    write.write(migration(), tmp_path / "again")
    assert tree(tmp_path / "again") == tree(bundle)


def test_no_machine_path_and_no_date_in_a_bundle(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.suffix in (".json", ".md", ".yaml", ".sh", ".py", ".jinja"):
            text = path.read_text(encoding="utf-8")
            assert str(STORE) not in text
            assert str(bundle.parent) not in text


def test_existing_output_is_kept_without_force(bundle: Path) -> None:
    before = tree(bundle)
    with pytest.raises(OutputExists):
        write.write(migration("q4-bot"), bundle)
    assert tree(bundle) == before


def test_force_keeps_what_is_not_the_bundles(tmp_path: Path) -> None:
    """The runbook has its recordings and proofs written into the bundle's directory."""
    out = tmp_path / "out"
    write.write(migration("q4-bot"), out)
    (out / "proof" / "run").mkdir(parents=True)
    (out / "proof" / "run" / "report.json").write_text("{}")
    (out / "requests.jsonl").write_text("{}\n")
    write.write(migration("child-bot"), out, force=True)
    assert (out / "proof" / "run" / "report.json").read_text() == "{}"
    assert (out / "requests.jsonl").read_text() == "{}\n"
    fresh = tmp_path / "fresh"
    write.write(migration("child-bot"), fresh)
    ours = {name: digest for name, digest in tree(out).items() if not name.startswith(("proof/", "requests"))}
    assert ours == tree(fresh), "nothing of the old bundle is left"


def test_force_replaces_a_bundle_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write.write(migration("q4-bot"), out)
    (out / "mine.txt").write_text("x")
    write.write(migration("child-bot"), out, force=True)
    assert bundle_format.read(out).source.name == "child-bot:latest"
    assert (out / "mine.txt").read_text() == "x"

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="not a bundle"):
        write.write(migration("q4-bot"), other, force=True)
    assert (other / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, existing: bool) -> None:
    out = tmp_path / "out"
    if existing:
        write.write(migration("child-bot"), out)
    before = tree(tmp_path)
    copy = tmp_path / "store"
    shutil.copytree(STORE, copy)
    store_before = tree(copy)
    model = Store(copy).load("q4-bot")
    planned = plan(model)
    assert model.gguf_path is not None
    os.truncate(model.gguf_path, model.gguf_path.stat().st_size - 100_000)
    with pytest.raises((BadInput, GGUFError)):
        write.write(planned, out, force=True)
    os.truncate(model.gguf_path, 0)
    assert set(tree(copy)) == set(store_before)
    shutil.rmtree(copy)
    assert tree(tmp_path) == before


def test_a_damaged_blob_is_found_by_its_digest(tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(STORE, copy)
    model = Store(copy).load("q4-bot")
    assert model.gguf_path is not None
    with model.gguf_path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x01\x02\x03")
    with pytest.raises(StoreError, match="damaged"):
        write.write(plan(Store(copy).load("q4-bot")), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["store"]


def test_neighbours_of_the_output_are_left_alone(tmp_path: Path) -> None:
    for name in (".out.old", ".out.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
    write.write(migration("q4-bot"), tmp_path / "out")
    write.write(migration("q4-bot"), tmp_path / "out", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.old", ".out.partial", "out"]
    assert (tmp_path / ".out.old/mine").exists()


def test_an_unknown_layer_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(STORE, copy)
    path = copy / "manifests/registry.ollama.ai/library/q4-bot/latest"
    content = json.loads(path.read_text())
    content["layers"].append(content["layers"][-1] | {"mediaType": "application/vnd.ollama.image.mystery"})
    path.write_text(json.dumps(content))
    with pytest.raises(Refused, match="mystery"):
        write.write(plan(Store(copy).load("q4-bot")), tmp_path / "out")


def test_a_refused_model_writes_nothing(tmp_path: Path) -> None:
    planned = plan(replace(Store(STORE).load("q4-bot"), renderer="nobody"))
    with pytest.raises(Refused, match="'nobody' is not known"):
        write.write(planned, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no directory"):
        write.write(migration(), tmp_path / "no" / "where")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, NotFound, "not a bundle"),
        ("{", BadInput, "not JSON"),
        ("[]", BadInput, "schema_version"),
        ('{"schema_version": 99}', BadInput, "99"),
        ('{"schema_version": 1}', BadInput, "generator"),
    ],
)
def test_damaged_manifests(tmp_path: Path, content: str | None, error: type[Exception], words: str) -> None:
    if content is not None:
        (tmp_path / "migration.json").write_text(content)
    with pytest.raises(error, match=words):
        bundle_format.read(tmp_path)


def test_scripts_pass_shellcheck(bundle: Path) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([str(shellcheck), "serve.sh"], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["$(touch pwned).gguf", "a b;c.gguf", "--help.gguf", "ä\n.gguf"])
def test_hostile_file_names_stay_names(tmp_path: Path, name: str) -> None:
    from migrate.ollama import reference

    blob = Store(STORE).load("q4-bot").gguf_path
    assert blob is not None
    source = tmp_path / name
    shutil.copyfile(blob, source)
    out = tmp_path / "out"
    planned = plan(reference.load(str(source)))
    for served in planned.served_names:
        assert not set(served) & set("$()`;\"' \n\\")
    write.write(planned, out)
    done = subprocess.run(["bash", "serve.sh", "--help"], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0
    assert not (out / "pwned").exists()
