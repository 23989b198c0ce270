"""Every family: out of the GGUF that llama.cpp's converter made comes the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate import architectures
from migrate.checkpoint.verify import verify_weights
from migrate.gguf.header import read_header
from tests.architectures import families

SHARED = ["mixtral", "qwen2", "qwen3", "qwen3_5", "gemma2", "gemma4", "granite", "phi3", "deepseek_v2", "llama3rope"]
SHARED += ["gpt_oss", "bert"]


@pytest.mark.parametrize("name", families.names())
def test_the_checkpoint_comes_back(tmp_path: Path, name: str) -> None:
    family = families.load(name)
    families.convert(family, tmp_path)
    assert families.differing_tensors(family, tmp_path) == []
    assert families.differing_config(family, tmp_path) == []


@pytest.mark.parametrize("name", families.names())
def test_gguf_py_agrees(tmp_path: Path, name: str) -> None:
    family = families.load(name)
    families.convert(family, tmp_path)
    header = read_header(family.gguf)
    layout = architectures.read(header)
    assert verify_weights(header, layout, tmp_path) == len(family.tensors)


@pytest.mark.parametrize("name", SHARED)
def test_the_shared_models_come_back(shared: Path, tmp_path: Path, name: str) -> None:
    family = families.load_shared(shared / "models" / name)
    families.convert(family, tmp_path)
    pooler = ["missing: pooler.dense.bias", "missing: pooler.dense.weight"]  # no GGUF has it
    assert sorted(families.differing_tensors(family, tmp_path)) == (pooler if name == "bert" else [])
    assert families.differing_config(family, tmp_path) == []


def test_lfm2_says_what_vllm_reads() -> None:
    """vLLM's class takes two widths from the config that the class in transformers does not have."""
    layout = architectures.read(read_header(families.load("lfm2").gguf))
    assert {key: layout.config[key] for key in ("hidden_size", "block_dim", "conv_dim")} == dict.fromkeys(
        ("hidden_size", "block_dim", "conv_dim"), 64
    )


def test_every_module_has_a_fixture() -> None:
    """Whoever adds an architecture makes a tiny model of it (make_families.py)."""
    made = {name.partition("-")[0] for name in families.names()}
    told_apart_elsewhere = {"mistral", "granitemoeshared", "olmo"}
    assert set(architectures.model_types()) - made - told_apart_elsewhere == set()
