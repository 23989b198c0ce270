"""Checkpoints that Ollama takes: directories after FROM, tensor layers; damaged ones are told."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from migrate.bundle import write
from migrate.errors import BadInput, Refused, StoreError
from migrate.findings import Status
from migrate.mapping.migration import plan
from migrate.ollama.checkpoint import read_directory, read_safetensors
from migrate.ollama.manifest import IMAGE
from migrate.ollama.reference import load
from migrate.ollama.store import Store


@pytest.fixture
def checkpoint(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared / "models" / "tinychat" / "hf", tmp_path / "mybot"))


def test_a_directory_is_a_model(checkpoint: Path, tmp_path: Path) -> None:
    migration = plan(load(str(checkpoint)))
    assert not migration.refused
    written = write.write(migration, tmp_path / "out")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert (written.path / "model" / name).read_bytes() == (checkpoint / name).read_bytes(), name
    generation = json.loads((written.path / "model" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [733, 731]
    assert (generation["top_k"], generation["temperature"]) == (40, 0.8)
    assert written.manifest.source.kind == "checkpoint"


def test_a_modelfile_on_a_directory(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text(
        'FROM ./mybot\nSYSTEM You are terse.\nPARAMETER temperature 0\nTEMPLATE "[{{ .Prompt }}]"\n'
    )
    migration = plan(load(str(tmp_path / "Modelfile")))
    assert not migration.refused
    assert migration.dtype == "bfloat16"
    assert migration.chat_template is not None
    assert "[" in migration.chat_template
    assert migration.prompt.path == "go_template"


def shards(directory: Path) -> None:
    """The same tensors in two files and an index."""
    tensors = _bits(directory / "model.safetensors")
    names = sorted(tensors)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (directory / "model.safetensors").unlink()
    for file, half in zip(files, halves, strict=True):
        save_file({name: tensors[name] for name in half}, directory / file)
    where = {name: file for file, half in zip(files, halves, strict=True) for name in half}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def _bits(path: Path) -> dict[str, Any]:
    """Tensors as float16 numbers, whatever: numpy's safetensors does not know bfloat16."""
    found = {}
    for tensor in read_safetensors(path):
        data = np.fromfile(path, np.float16, tensor.nbytes // 2, offset=tensor.offset)
        found[tensor.name] = data.reshape(tensor.shape)
    return found


def test_shards_and_their_index(checkpoint: Path, tmp_path: Path) -> None:
    shards(checkpoint)
    written = write.write(plan(load(str(checkpoint))), tmp_path / "out")
    for path in checkpoint.glob("model*"):
        assert (written.path / "model" / path.name).read_bytes() == path.read_bytes()


def test_a_tensor_of_the_index_that_is_not_there(checkpoint: Path) -> None:
    shards(checkpoint)
    (checkpoint / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadInput, match="is in the index, but in none of the files"):
        read_directory(checkpoint)


def damaged(path: Path, how: str) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if how == "short":
        path.write_bytes(data[:-100])
    elif how == "length":
        path.write_bytes((2**60).to_bytes(8, "little") + data[8:])
    elif how == "json":
        path.write_bytes(data[:8] + b"{" * length + data[8 + length :])
    else:
        name = next(name for name in header if name != "__metadata__")
        header[name]["shape"] = {"shape": [2**62, 4], "type": "wide"}[how]
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("how", ["short", "length", "json", "shape", "type"])
def test_damaged_files_are_told(checkpoint: Path, how: str) -> None:
    damaged(checkpoint / "model.safetensors", how)
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        read_directory(checkpoint)


def test_links_out_of_the_directory(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    (checkpoint / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BadInput, match="leads out of"):
        read_directory(checkpoint)


def test_quantized_checkpoints_are_refused(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(Refused, match="quantized"):
        read_directory(checkpoint)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytest_model.bin").write_bytes(b"")
    with pytest.raises(Refused, match="not a directory with"):
        load(str(tmp_path))


# Tensor layers


def store_of(directory: Path, tensors: Mapping[str, bytes], files: Mapping[str, bytes]) -> Store:
    """A store with one model of tensor layers, laid out as `ollama create --experimental` does."""
    blobs = directory / "blobs"
    blobs.mkdir(parents=True)
    layers = []
    for kind, contents in (("tensor", tensors), ("json", files)):
        for name, data in contents.items():
            digest = hashlib.sha256(data).hexdigest()
            (blobs / f"sha256-{digest}").write_bytes(data)
            layers.append({"mediaType": IMAGE + kind, "digest": f"sha256:{digest}", "size": len(data), "name": name})
    config = json.dumps({"model_format": "safetensors", "model_family": "llama"}).encode()
    digest = hashlib.sha256(config).hexdigest()
    (blobs / f"sha256-{digest}").write_bytes(config)
    kind = "application/vnd.docker.container.image.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(config)},
        "layers": layers,
    }
    path = directory / "manifests" / "registry.ollama.ai" / "library" / "mlxbot" / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    return Store(directory)


def tinychat_layers(shared: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    source = shared / "models" / "tinychat" / "hf"
    tensors = {name: save({name: data}) for name, data in _bits(source / "model.safetensors").items()}
    names = ("config.json", "tokenizer.json", "tokenizer_config.json")
    return tensors, {name: (source / name).read_bytes() for name in names}


def test_tensor_layers_become_a_checkpoint(shared: Path, tmp_path: Path) -> None:
    tensors, files = tinychat_layers(shared)
    migration = plan(store_of(tmp_path / "store", tensors, files).load("mlxbot"))
    assert not migration.refused
    assert next(f.status for f in migration.ledger if f.item == "FROM") is Status.EXACT
    written = write.write(migration, tmp_path / "out")
    ours = load_file(written.path / "model" / "model.safetensors")
    originals = _bits(shared / "models" / "tinychat" / "hf" / "model.safetensors")
    assert ours.keys() == originals.keys()
    for name, expected in originals.items():
        np.testing.assert_array_equal(ours[name].view(np.uint16), expected.view(np.uint16), err_msg=name)


def test_layers_packed_for_mlx_are_refused(shared: Path, tmp_path: Path) -> None:
    tensors, files = tinychat_layers(shared)
    name = "model.layers.0.mlp.up_proj.weight"
    packed: dict[str, Any] = {name: np.zeros((8, 8), np.uint32), f"{name}.scale": np.zeros((8, 1), np.float16)}
    tensors[name] = save(packed)
    migration = plan(store_of(tmp_path / "store", tensors, files).load("mlxbot"))
    assert [finding.item for finding in migration.refused] == ["model"]
    assert "only MLX reads such tensors" in migration.refused[0].reason


@pytest.mark.parametrize("missing", ["config.json", "blob"])
def test_incomplete_layers(shared: Path, tmp_path: Path, missing: str) -> None:
    tensors, files = tinychat_layers(shared)
    if missing == "config.json":
        del files["config.json"]
    store = store_of(tmp_path / "store", tensors, files)
    if missing == "blob":
        digest = hashlib.sha256(tensors["model.norm.weight"]).hexdigest()
        (tmp_path / "store" / "blobs" / f"sha256-{digest}").unlink()
    with pytest.raises(StoreError, match=r"missing|without a config"):
        store.load("mlxbot")
