from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from migrate.checkpoint.writer import OutputTensor
from migrate.errors import BadInput, NotFound, Refused, UsageError
from migrate.mapping.migration import Choices, Migration, plan
from migrate.ollama import reference
from migrate.plan import source
from tests.plan.published import LLAMA_8B


def migration(path: Path, **choices: object) -> Migration:
    return plan(reference.load(str(path)), Choices(**choices))  # type: ignore[arg-type]


def test_a_bare_config(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    found = source.from_config(path)
    assert found.max_model_len == source.CONTEXT
    assert found.model.weights.nbytes == 2 * 8_030_261_248
    assert not found.model.weights.exact
    assert set(found.model.alternatives) == {"dense", "fp8", "int8", "int4"}
    assert source.from_config(path, "int4").model.weights.nbytes == found.model.alternatives["int4"]
    assert source.from_config(path, dtype="float32").model.weights.nbytes == 4 * 8_030_261_248
    path.write_text(json.dumps(LLAMA_8B | {"max_position_embeddings": 2048}))
    assert source.from_config(path).max_model_len == 2048


@pytest.mark.parametrize(("way", "dtype"), [("repack", None), ("x", None), (None, "int8")])
def test_ways_and_dtypes_that_cannot_be(tmp_path: Path, way: str | None, dtype: str | None) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    with pytest.raises(UsageError, match="must be"):
        source.from_config(path, way, dtype)


def test_a_quantized_config_is_planned_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128}
    path.write_text(json.dumps(LLAMA_8B | {"quantization_config": quantization}))
    found = source.from_config(path)
    assert found.model.weights.way == "stored"
    assert found.model.weights.nbytes < 0.4 * 2 * 8_030_261_248
    with pytest.raises(UsageError, match="quantized already"):
        source.from_config(path, "fp8")


def test_a_checkpoint_directory(shared: Path, tmp_path: Path) -> None:
    found = source.from_directory(shared / "models" / "tinychat" / "hf")
    assert found.model.weights.exact
    assert found.model.weights.nbytes == 7_082_496
    with pytest.raises(NotFound, match="no such file"):
        source.from_directory(tmp_path)
    shutil.copytree(shared / "models" / "tinychat" / "hf", tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(200)
    with pytest.raises(BadInput, match="cut short"):
        source.from_directory(tmp_path / "cut")


@pytest.mark.parametrize("quantization", ["f16", "q4_0", "q4_k_m", "q8_0"])
def test_a_model_of_ollamas_is_weighed_as_convert_would_write_it(shared: Path, quantization: str) -> None:
    from migrate.checkpoint.convert import plan_weights

    paths = {path.stem.lower(): path for path in (shared / "models" / "tinychat" / "gguf").glob("*.gguf")}
    path = paths[f"tinychat-{quantization}"]
    made = migration(path)
    found = source.from_migration(made)
    assert made.model.gguf is not None
    for way in ("dense", "repack", "requantize"):
        try:
            plan_weights(made.model.gguf, way=way)
        except Refused:
            assert way not in found.model.alternatives
            continue
        written = sum(tensor.nbytes for tensor in _outputs(made, None if way == "dense" else way))
        assert found.model.alternatives[way] == written
        assert source.from_migration(made, way).model.weights.nbytes == written
    assert found.model.weights.parameters == 3_541_248
    eight = source.from_migration(made, "fp8").model.weights
    assert eight.compute == "fp8"
    assert eight.nbytes < found.model.alternatives["dense"]
    with pytest.raises(UsageError, match="must be"):
        source.from_migration(made, "int4")


def _outputs(made: Migration, way: str | None) -> list[OutputTensor]:
    from migrate.checkpoint.convert import plan_storage
    from migrate.checkpoint.weights import output_tensors

    assert made.layout is not None
    storage = plan_storage(made.layout, way, None if way else made.dtype)  # type: ignore[arg-type]
    return list(output_tensors(storage.assignments))


def test_repacked_parameters_are_counted_once(shared: Path) -> None:
    path = next((shared / "models" / "tinychat" / "gguf").glob("*[qQ]4_0.gguf"))
    repacked = source.from_migration(migration(path), "repack").model.weights
    dense = source.from_migration(migration(path), "dense").model.weights
    assert repacked.parameters == dense.parameters
    assert repacked.active_parameters == dense.active_parameters
    assert repacked.nbytes < dense.nbytes


def test_what_does_not_move_is_refused_with_the_reason(tmp_path: Path) -> None:
    model = tmp_path / "Modelfile"
    model.write_text("FROM ./weights.gguf\n")
    (tmp_path / "weights.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x00" * 16)
    with pytest.raises((Refused, BadInput)):
        source.from_migration(migration(model))
