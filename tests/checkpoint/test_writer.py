"""Streaming safetensors: what the library reads back, and Hugging Face's names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from migrate.checkpoint.writer import INDEX_FILE, CheckpointWriter, OutputTensor, Storage, check_disk_space, plan_shards
from migrate.errors import MigrateError

TENSORS = [
    OutputTensor("b", Storage.F32, (3, 2)),
    OutputTensor("a", Storage.F32, (5,)),
    OutputTensor("c.ü", Storage.F32, (1, 4)),
]


def contents(tensor: OutputTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.arange(np.prod(tensor.shape), dtype=np.float32).reshape(tensor.shape) + len(tensor.name)


def write_all(directory: Path, max_bytes: int) -> CheckpointWriter:
    with CheckpointWriter(directory, TENSORS, max_bytes) as writer:
        for tensor in reversed(TENSORS):  # any order will do
            data = memoryview(contents(tensor).tobytes())
            writer.write(tensor.name, 4, data[4:])
            writer.write(tensor.name, 0, data[:4])
    return writer


def test_one_file(tmp_path: Path) -> None:
    writer = write_all(tmp_path, 1000)
    assert writer.files == ["model.safetensors"] == [path.name for path in tmp_path.iterdir()]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == {tensor.name for tensor in TENSORS}
    for tensor in TENSORS:
        np.testing.assert_array_equal(loaded[tensor.name], contents(tensor))
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_index(tmp_path: Path) -> None:
    writer = write_all(tmp_path, 44)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert writer.files == [*names, INDEX_FILE]
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["weight_map"] == {"a": names[0], "b": names[0], "c.ü": names[1]}
    assert index["metadata"] == {"total_parameters": 15, "total_size": 60}
    for tensor in TENSORS:
        loaded = load_file(tmp_path / index["weight_map"][tensor.name])
        np.testing.assert_array_equal(loaded[tensor.name], contents(tensor))


def test_a_tensor_larger_than_a_shard_has_one_to_itself() -> None:
    assert [list(shard.offsets) for shard in plan_shards(TENSORS, 10)] == [["b"], ["a"], ["c.ü"]]


def test_sizes_are_known_before(tmp_path: Path) -> None:
    planned = {shard.file_name: shard.size for shard in plan_shards(TENSORS, 44)}
    write_all(tmp_path, 44)
    assert planned == {path.name: path.stat().st_size for path in tmp_path.glob("*.safetensors")}


def test_no_index_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), CheckpointWriter(tmp_path, TENSORS, 44):
        raise RuntimeError
    assert not (tmp_path / INDEX_FILE).exists()


def test_disk_space(tmp_path: Path) -> None:
    check_disk_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(MigrateError, match="are needed"):
        check_disk_space(tmp_path, 1 << 60)
