"""What a bundle keeps of a model, against what a real Ollama answered to /api/tags and /api/show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.bundle import source as sources
from migrate.bundle import write
from migrate.mapping.migration import plan
from migrate.ollama.reference import load
from migrate.ollama.store import Store
from tests.ollama.replay import recordings

MODELS = [
    *(("ollama", f"{name}-bot") for name in ("support", "child", "legacy", "native", "q4", "adapter", "renderer")),
    *(("ollama/modern", f"{name}-bot") for name in ("gemma", "qwen35", "oss", "think", "embed")),
]


def recorded(root: Path, name: str) -> dict[str, Any]:
    rows = {row["name"]: row["response"]["body"] for row in recordings(root / "recordings.jsonl")}
    content: dict[str, Any] = json.loads(rows[name])
    return content


@pytest.mark.parametrize(("folder", "name"), MODELS)
def test_as_a_real_ollama_lists_and_shows_it(folder: str, name: str, shared: Path) -> None:
    root = shared / folder
    migration = plan(Store(root / "store").load(name))
    source, shown = sources.source(migration), sources.shown(migration)

    (listed,) = (m for m in recorded(root, "tags")["models"] if m["name"] == f"{name}:latest")
    assert source.name == listed["name"]
    assert source.size == listed["size"]
    assert source.manifest_digest == listed["digest"]
    assert source.details == listed["details"]
    assert list(source.details) == list(listed["details"])
    assert source.capabilities == listed["capabilities"]

    show = recorded(root, f"show/{name}")
    assert shown["model_info"] == show["model_info"]
    assert list(shown["model_info"]) == list(show["model_info"])
    assert shown["tensors"] == show["tensors"]
    assert source.capabilities == show["capabilities"]
    assert "\n".join(source.licenses) == show.get("license", "")
    assert (source.parent or "") == show["details"]["parent_model"]
    modelfile = show["modelfile"].splitlines()
    assert f"/{source.blobs['model']}" in next(line for line in modelfile if line.startswith("FROM "))
    for command, value in (("RENDERER", source.renderer), ("PARSER", source.parser)):
        assert [f"{command} {value}"] * bool(value) == [line for line in modelfile if line.startswith(command)]
    adapters = [line.rpartition("/")[2] for line in modelfile if line.startswith("ADAPTER ")]
    assert [digest.replace(":", "-") for digest in source.adapter_digests] == adapters


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (1_500, "2K"),
        (3_541_248, "3.54M"),
        (5_000_000, "5M"),
        (8_000_000_000, "8B"),
        (8_030_261_248, "8.0B"),
    ],
)
def test_human_numbers(count: int, text: str) -> None:
    assert sources.human_number(count) == text


@pytest.mark.parametrize(
    ("value", "shown"), [(9.999999747378752e-06, 1e-05), (0.5, 0.5), (0.1, 0.1), (1e300, 1e300), (500000.0, 500000.0)]
)
def test_floats_have_the_digits_go_prints(value: float, shown: float) -> None:
    assert sources._shortest(value) == shown


def test_a_file_without_a_store(shared: Path) -> None:
    """What no manifest says is told by the GGUF."""
    source = sources.source(plan(load(str(shared / "models/tinychat/gguf/tinychat-q4_0.gguf"))))
    assert source.details == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "3.54M",
        "quantization_level": "Q4_0",
        "context_length": 2048,
        "embedding_length": 256,
    }
    assert (source.manifest_digest, source.parent, source.blobs["model"][:7]) == (None, None, "sha256-")
    assert source.size == (shared / "models/tinychat/gguf/tinychat-q4_0.gguf").stat().st_size


def test_in_the_bundle(tmp_path: Path) -> None:
    migration = plan(Store(resources.directory("demo-store")).load("q4-bot"))
    written = write.write(migration, tmp_path / "out")
    assert bundle_format.read_show(tmp_path / "out") == {"q4-bot": sources.shown(migration)}
    assert bundle_format.SHOW_FILE in written.manifest.files
    assert written.manifest.variants == []


def test_a_bundle_from_before(tmp_path: Path) -> None:
    """Fields that older bundles lack have a value."""
    write.write(plan(Store(resources.directory("demo-store")).load("q4-bot")), tmp_path / "out")
    path = tmp_path / "out" / bundle_format.FILE_NAME
    content = json.loads(path.read_text())
    del content["variants"]
    for field in ("renderer", "parser", "capabilities", "licenses", "parent", "size", "manifest_digest", "details"):
        del content["source"][field]
    for field in ("adapter_digests", "blobs"):
        del content["source"][field]
    path.write_text(json.dumps(content))
    (tmp_path / "out" / bundle_format.SHOW_FILE).unlink()
    manifest = bundle_format.read(tmp_path / "out")
    assert (manifest.source.details, manifest.source.size, manifest.variant("q4-bot")) == ({}, 0, None)
    assert bundle_format.read_show(tmp_path / "out") == {}
