"""Originals are proved, fine-tunes of them are not: on files that llama.cpp quantized, and on every family's layout."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.errors import BadInput, Refused
from migrate.gguf.header import read_header
from migrate.gguf.types import GGMLType
from migrate.original.blocks import compare
from migrate.original.prove import Proof, Verdict, prove
from migrate.original.repository import Directory
from tests.architectures import families
from tests.gguf.test_dequantize import SCALES, random_blocks, reference

Floats = npt.NDArray[np.float32]
QUANTIZED = ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "iq4_nl", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"]


def layout(path: Path) -> ModelLayout:
    return architectures.read(read_header(path))


def changed(source: Path, target: Path, change: Callable[[str, Floats], Floats]) -> Path:
    """A copy of a bfloat16 checkpoint with other weights."""
    shutil.copytree(source, target)
    path = target / "model.safetensors"
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        bits = np.frombuffer(bytes(content[begin:end]), np.uint16)
        floats = (bits.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
        new = np.ascontiguousarray(change(name, floats), np.float32)
        content[begin:end] = families.to_bits(new).astype(np.uint16).tobytes()
    path.write_bytes(bytes(content))
    return target


def lora(strength: float, only: str = "") -> Callable[[str, Floats], Floats]:
    """What training moves: a matrix of rank 4 whose numbers are `strength` of the weights' spread."""
    rng = np.random.default_rng(5)

    def change(name: str, weights: Floats) -> Floats:
        if weights.ndim < 2 or only not in name:
            return weights
        low = rng.standard_normal((weights.shape[0], 4)) @ rng.standard_normal((4, weights.shape[1])) / 2
        return np.asarray(weights + low * strength * weights.std(), np.float32)

    return change


@pytest.fixture(scope="module")
def tinychat(request: pytest.FixtureRequest) -> Path:
    shared: Path = request.getfixturevalue("shared")
    return shared / "models" / "tinychat"


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", QUANTIZED)
def test_the_original_is_proved(tinychat: Path, kind: str, full: bool) -> None:
    proof = prove(layout(tinychat / "gguf" / f"tinychat-{kind}.gguf"), Directory(tinychat / "hf"), full=full)
    assert proof.verdict is Verdict.PROVED, proof.reason
    assert all(check.equal for check in proof.checks)
    assert len(proof.tensors) == 39
    weights = sum(tensor.weights for tensor in proof.tensors)
    assert weights == 3_541_248 if full else 900_000 < weights < 1_100_000
    if kind in ("f16", "q8_0"):
        assert proof.counts() == {"identical": 39}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_a_fine_tune_is_not_its_base(tinychat: Path, tmp_path: Path, kind: str) -> None:
    """Moved by a hundredth of the weights' spread, in the sample that is read by default."""
    base = changed(tinychat / "hf", tmp_path / "base", lora(0.01))
    proof = prove(layout(tinychat / "gguf" / f"tinychat-{kind}.gguf"), Directory(base))
    assert proof.verdict is Verdict.RELATED
    assert "fine-tune" in proof.reason


@pytest.mark.parametrize("kind", ["q4_0", "q4_k_m", "q8_0"])
def test_one_trained_matrix_is_found(tinychat: Path, tmp_path: Path, kind: str) -> None:
    base = changed(tinychat / "hf", tmp_path / "base", lora(0.02, "layers.2.self_attn.q_proj"))
    proof = prove(layout(tinychat / "gguf" / f"tinychat-{kind}.gguf"), Directory(base))
    assert proof.verdict is Verdict.RELATED
    assert [tensor.tensor for tensor in proof.tensors if tensor.judgement == "differs"] == ["blk.2.attn_q.weight"]


def test_a_small_change_is_found_when_all_is_read(tinychat: Path, tmp_path: Path) -> None:
    base = changed(tinychat / "hf", tmp_path / "base", lora(0.002))
    gguf = layout(tinychat / "gguf" / "tinychat-q4_k_m.gguf")
    assert prove(gguf, Directory(base), full=True).verdict is Verdict.RELATED


def test_another_model_of_the_same_shape(tinychat: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)

    def other(name: str, weights: Floats) -> Floats:
        return np.asarray(rng.permutation(weights.reshape(-1)).reshape(weights.shape), np.float32)

    proof = prove(
        layout(tinychat / "gguf" / "tinychat-q4_k_m.gguf"),
        Directory(changed(tinychat / "hf", tmp_path / "other", other)),
    )
    assert proof.verdict is Verdict.OTHER


@pytest.mark.parametrize("name", families.names())
def test_every_family_is_proved_and_its_neighbour_is_not(name: str, tmp_path: Path) -> None:
    """The way back from a checkpoint to the GGUF's rows, for every layout: converted, then proved."""
    directory = tmp_path / "model"
    directory.mkdir()
    family = families.load(name)
    families.convert(family, directory)
    config = json.loads((directory / "config.json").read_text())
    if config.get("quantization_config"):
        with pytest.raises(Refused, match="quantized itself"):
            prove(layout(family.gguf), Directory(directory))
        return
    for full in (False, True):
        proof = prove(layout(family.gguf), Directory(directory), full=full)
        assert proof.counts().keys() <= {"identical", "within"}, proof.reason
        assert [check for check in proof.checks if check.equal is False] == []
    read = {tensor.tensor for tensor in proof.tensors}
    assert read == {info.name for tensor in layout(family.gguf).tensors for info in tensor.sources}

    config["num_attention_heads"] = config.get("num_attention_heads", 2) * 3
    for key in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"):
        if key in config:
            config[key] = config[key] * 10
    (directory / "config.json").write_text(json.dumps(config))
    assert prove(layout(family.gguf), Directory(directory)).verdict is not Verdict.PROVED


def altered(tinychat: Path, target: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Proof:
    shutil.copytree(tinychat / "hf", target)
    content = json.loads((target / file).read_text())
    change(content)
    (target / file).write_text(json.dumps(content))
    return prove(layout(tinychat / "gguf" / "tinychat-q4_0.gguf"), Directory(target))


def test_config_and_tokenizer_count(tinychat: Path, tmp_path: Path) -> None:
    def theta(config: dict[str, Any]) -> None:
        for where in (config, config.get("rope_parameters") or {}):
            if "rope_theta" in where:
                where["rope_theta"] *= 2

    proof = altered(tinychat, tmp_path / "a", "config.json", theta)
    assert proof.verdict is Verdict.RELATED
    assert "rotary" in proof.reason

    def swap(tokenizer: dict[str, Any]) -> None:
        vocab = tokenizer["model"]["vocab"]
        one, other = list(vocab)[300:302]
        vocab[one], vocab[other] = vocab[other], vocab[one]

    proof = altered(tinychat, tmp_path / "b", "tokenizer.json", swap)
    assert proof.verdict is Verdict.RELATED
    assert "tokenizer" in proof.reason

    def merges(tokenizer: dict[str, Any]) -> None:
        tokenizer["model"]["merges"].reverse()

    proof = altered(tinychat, tmp_path / "c", "tokenizer.json", merges)
    assert "merges" in proof.reason

    (tmp_path / "c" / "tokenizer.json").unlink()
    proof = prove(layout(tinychat / "gguf" / "tinychat-q4_0.gguf"), Directory(tmp_path / "c"))
    assert proof.verdict is Verdict.UNDECIDED


def test_another_architecture_or_shape(tinychat: Path, tmp_path: Path) -> None:
    proof = altered(tinychat, tmp_path / "a", "config.json", lambda config: config.update(model_type="qwen3"))
    assert proof.verdict is Verdict.OTHER
    assert proof.nbytes == 0
    path = tmp_path / "a" / "model.safetensors"
    (tmp_path / "a" / "config.json").write_text((tinychat / "hf" / "config.json").read_text())
    path.write_bytes(path.read_bytes().replace(b"model.layers.3.mlp.up_proj", b"model.layers.9.mlp.up_proj", 1))
    proof = prove(layout(tinychat / "gguf" / "tinychat-q4_0.gguf"), Directory(tmp_path / "a"))
    assert proof.verdict is Verdict.OTHER
    assert "model.layers.3.mlp.up_proj" in proof.reason


def test_a_quantized_candidate_is_refused(tinychat: Path, tmp_path: Path) -> None:
    def quantized(config: dict[str, Any]) -> None:
        config["quantization_config"] = {"quant_method": "fp8"}

    with pytest.raises(Refused, match=r"quantized itself \(fp8\)"):
        altered(tinychat, tmp_path / "a", "config.json", quantized)
    (tmp_path / "a" / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json"):
        prove(layout(tinychat / "gguf" / "tinychat-q4_0.gguf"), Directory(tmp_path / "a"))


@pytest.mark.parametrize("name", [n for n in SCALES if n.startswith(("IQ1", "IQ2", "IQ3", "TQ"))])
def test_types_without_cells_say_so(name: str) -> None:
    kind = GGMLType[name]
    raw = random_blocks(kind, 40)
    weights = reference(raw, kind)
    moved = np.asarray(weights + np.float32(1e-3) * np.abs(weights), np.float32)
    found = compare(moved, raw, kind)
    assert found.outside is None
    assert not found.remade
    assert 0 < found.error < 0.01


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
                                  "IQ4_NL", "IQ4_XS", "MXFP4"])  # fmt: skip
def test_cells_of_random_blocks(name: str) -> None:
    """The stored numbers are in their own cells; the numbers of other codes are not."""
    kind = GGMLType[name]
    if name == "MXFP4":
        raw = np.random.default_rng(2).integers(0, 256, (64, 17), dtype=np.uint8)
        raw[:, 0] = 120
        raw = raw.reshape(-1)
    else:
        raw = random_blocks(kind, 64)
    weights = reference(raw, kind)
    assert compare(weights, raw, kind).outside == 0
    shuffled = weights.reshape(-1, kind.block_size)[:, ::-1].reshape(-1).copy()
    outside = compare(shuffled, raw, kind).outside
    assert outside is not None
    assert outside > weights.size // 4


def test_an_importance_matrix_leaves_old_types_undecided(tinychat: Path) -> None:
    from dataclasses import replace
    from types import MappingProxyType

    header = read_header(tinychat / "gguf" / "tinychat-iq4_nl.gguf")
    metadata = MappingProxyType({**header.metadata, "quantize.imatrix.file": "calibration.dat"})
    proof = prove(architectures.read(replace(header, metadata=metadata)), Directory(tinychat / "hf"))
    assert proof.verdict is Verdict.UNDECIDED
    assert "IQ4_NL" in proof.reason


def test_floats_of_other_widths() -> None:
    exact = struct.pack("<4f", 1.0, -2.5, 0.0, 3.0)
    assert compare(np.array([1.0, -2.5, 0.0, 3.0], np.float32), np.frombuffer(exact, np.uint8), GGMLType.F32).remade
    off = compare(np.array([1.0, -2.5, 0.1, 3.0], np.float32), np.frombuffer(exact, np.uint8), GGMLType.F32)
    assert (off.remade, off.outside) == (False, 1)
