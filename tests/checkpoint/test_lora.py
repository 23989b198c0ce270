"""Adapters: identical to the PEFT directory they were made from, and refused when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from migrate.checkpoint.convert import convert_weights
from migrate.checkpoint.lora import convert_adapter
from migrate.errors import GGUFError, MigrateError, Refused
from migrate.gguf.header import GGUFHeader, read_header
from tests.architectures.tiny import HIDDEN, tiny_llama
from tests.gguf.build import TensorSpec, build


def test_the_original_comes_back(shared: Path, tmp_path: Path) -> None:
    tinychat = shared / "models" / "tinychat"
    adapter = read_header(tinychat / "lora" / "adapter.gguf")
    base = read_header(tinychat / "gguf" / "tinychat-q4_0.gguf")
    report = convert_adapter(adapter, base, tmp_path, base_name="tinychat")
    ours = load_file(tmp_path / "adapter_model.safetensors")
    original = load_file(tinychat / "lora" / "adapter_model.safetensors")
    assert ours.keys() == original.keys()
    for name, expected in original.items():
        assert ours[name].dtype == expected.dtype
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config == json.loads((tinychat / "lora" / "adapter_config.json").read_text())
    assert (report.rank, report.alpha, report.scale) == (4, 8.0, 2.0)
    assert report.nbytes == sum((tmp_path / name).stat().st_size for name in report.files)


LORA: dict[str, Any] = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}


def factors(name: str, inner: int, outer: int, rank: int = 2) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.lora_a", (inner, rank)), TensorSpec(f"{name}.lora_b", (rank, outer))]


def adapter_of(directory: Path, metadata: dict[str, Any], tensors: Sequence[TensorSpec]) -> GGUFHeader:
    path = directory / "adapter.gguf"
    path.write_bytes(build(metadata, tensors))
    return read_header(path)


def test_without_alpha_the_scale_is_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    adapter = adapter_of(tmp_path, LORA, factors("blk.0.attn_q.weight", HIDDEN, HIDDEN))
    assert convert_adapter(adapter, tiny_llama(tmp_path), tmp_path / "out").scale == 1.0


Q = factors("blk.0.attn_q.weight", HIDDEN, HIDDEN)

WRONG: dict[str, tuple[dict[str, Any], list[TensorSpec], type[MigrateError], str]] = {
    "a model": ({"general.architecture": "llama"}, Q, Refused, "not a LoRA adapter"),
    "control vector": (LORA | {"adapter.type": "cvec"}, Q, Refused, "not a LoRA adapter"),
    "other family": (LORA | {"general.architecture": "gemma2"}, Q, Refused, "architecture 'gemma2'"),
    "activated": (LORA | {"adapter.alora.invocation_tokens": [1]}, Q, Refused, "activated LoRA"),
    "empty": (LORA, [], GGUFError, "without tensors"),
    "no b": (LORA, Q[:1], GGUFError, r"'blk\.0\.attn_q\.weight\.lora_b' is missing"),
    "no a": (LORA, Q[1:], GGUFError, r"'blk\.0\.attn_q\.weight\.lora_b' is not half of a pair"),
    "no such weight": (LORA, factors("blk.9.attn_q.weight", 4, 4), GGUFError, "the model does not have"),
    "embedding": (LORA, factors("token_embd.weight", HIDDEN, 40), Refused, "linear layers inside the blocks only"),
    "shape": (LORA, factors("blk.0.attn_k.weight", HIDDEN, HIDDEN), GGUFError, "do not make 'blk.0.attn_k.weight'"),
    "ranks": (LORA, [*Q, *factors("blk.1.attn_q.weight", HIDDEN, HIDDEN, 3)], Refused, r"ranks \[2, 3\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str) -> None:
    metadata, tensors, error, message = WRONG[name]
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=message):
        convert_adapter(adapter_of(tmp_path, metadata, tensors), tiny_llama(tmp_path), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_folded_into_the_weights(shared: Path, tmp_path: Path) -> None:
    """Against numpy on the original adapter and the checkpoint without it: w + scale b a."""
    tinychat = shared / "models" / "tinychat"
    base = read_header(tinychat / "gguf" / "tinychat-q8_0.gguf")
    (tmp_path / "plain").mkdir()
    (tmp_path / "merged").mkdir()
    convert_weights(base, tmp_path / "plain", dtype="float32")
    adapter = read_header(tinychat / "lora" / "adapter.gguf")
    convert_weights(base, tmp_path / "merged", dtype="float32", adapter=adapter, threads=2)
    plain, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "merged"))
    lora = load_file(tinychat / "lora" / "adapter_model.safetensors")
    changed = 0
    for name, weights in plain.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weights
        if f"{prefix}.lora_A.weight" in lora:
            product = lora[f"{prefix}.lora_B.weight"].astype(np.float32) @ lora[f"{prefix}.lora_A.weight"].astype(
                np.float32
            )
            expected = weights + np.float32(2.0) * product
            changed += int(not np.array_equal(expected, weights))
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-7, err_msg=name)
    assert changed == len(lora) // 2
