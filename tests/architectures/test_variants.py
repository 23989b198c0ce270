"""Files as Ollama's own converter wrote them give the same checkpoint as llama.cpp's.

Each case takes a GGUF of llama.cpp's converter and puts it into the form Ollama published (Ollama 0.33's
llama/compat/llama-ollama-compat.cpp describes them), then converts both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import architectures
from migrate.architectures.variants import normalise
from migrate.checkpoint.convert import convert_weights
from migrate.findings import Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.mapping.migration import plan
from migrate.ollama.reference import load
from tests.architectures.tiny import tiny_llama
from tests.gguf.build import TensorSpec, build

Metadata = dict[str, Any]
Tensors = dict[str, TensorSpec]


def contents(header: GGUFHeader) -> tuple[Metadata, Tensors]:
    """Everything in a file, to be changed."""
    data = header.path.read_bytes()
    metadata = {
        key: (tuple(value) if not isinstance(value, str | int | float) else value)
        for key, value in header.metadata.items()
    }
    tensors = {
        name: TensorSpec(name, info.shape, int(info.type), data[info.offset : info.offset + info.nbytes])
        for name, info in header.tensors.items()
    }
    return metadata, tensors


def renamed(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    specs = (TensorSpec(change(t.name), t.shape, t.type, t.data) for t in tensors.values())
    return {spec.name: spec for spec in specs}


def tower(*names: str) -> Tensors:
    return {name: TensorSpec(name, (8,), "F32") for name in names}


def gptoss(metadata: Metadata, tensors: Tensors) -> tuple[Metadata, Tensors]:
    def name(text: str) -> str:
        text = text.replace(".attn_output.", ".attn_out.").replace(".post_attention_norm.", ".ffn_norm.")
        return text.removesuffix(".weight") if "attn_sinks" in text else text

    metadata = {key.replace("gpt-oss.", "gptoss."): value for key, value in metadata.items()}
    del metadata["gptoss.expert_feed_forward_length"], metadata["gptoss.rope.scaling.type"]
    metadata |= {"general.architecture": "gptoss", "tokenizer.ggml.pre": "default"}
    return metadata, renamed(tensors, name)


def qwen35(metadata: Metadata, tensors: Tensors) -> tuple[Metadata, Tensors]:
    metadata |= {
        "qwen35.attention.head_count_kv": (0, 0, 0, 2),
        "qwen35.rope.dimension_sections": (6, 5, 5),
        "qwen35.rope.mrope_interleaved": True,
        "qwen35.ssm.v_head_reordered": True,
        "qwen35.vision.block_count": 2,
    }
    tensors = renamed(tensors, lambda name: name.replace(".ssm_dt.bias", ".ssm_dt"))
    return metadata, tensors | tower("v.blk.0.attn_q.weight", "mm.0.weight", "mtp.fc.weight", "mtp.norm.weight")


def gemma4(metadata: Metadata, tensors: Tensors) -> tuple[Metadata, Tensors]:
    metadata |= {"tokenizer.ggml.model": "llama", "gemma4.vision.block_count": 2, "gemma4.audio.block_count": 1}
    return metadata, tensors | tower("v.blk.0.attn_q.weight", "a.conv.weight", "model.vision_tower.x", "mm.a.weight")


CASES = {"gpt_oss": gptoss, "qwen3_5": qwen35, "gemma4": gemma4}


def ollama_form(model: str, shared: Path, directory: Path) -> GGUFHeader:
    original = read_header(shared / "models" / model / "gguf" / "model-bf16.gguf")
    metadata, tensors = CASES[model](*contents(original))
    path = directory / f"{model}.gguf"
    path.write_bytes(build(metadata, list(tensors.values())))
    return read_header(path)


@pytest.mark.parametrize("model", CASES)
def test_the_same_model_comes_out(shared: Path, tmp_path: Path, model: str) -> None:
    original = architectures.read(read_header(shared / "models" / model / "gguf" / "model-bf16.gguf"))
    mended = architectures.read(ollama_form(model, shared, tmp_path))
    assert mended.config == original.config
    assert [(t.target, t.shape, [s.name for s in t.sources]) for t in mended.tensors] == [
        (t.target, t.shape, [s.name for s in t.sources]) for t in original.tensors
    ]


def test_the_same_bytes_are_written(shared: Path, tmp_path: Path) -> None:
    for name, header in (
        ("theirs", read_header(shared / "models" / "qwen3_5" / "gguf" / "model-bf16.gguf")),
        ("ours", ollama_form("qwen3_5", shared, tmp_path)),
    ):
        (tmp_path / name).mkdir()
        convert_weights(header, tmp_path / name)
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()


def test_the_ledger_says_so(shared: Path, tmp_path: Path) -> None:
    ledger = plan(load(str(ollama_form("qwen3_5", shared, tmp_path).path))).ledger
    found = {finding.item: finding for finding in ledger}
    assert found["GGUF"].status is Status.EQUIVALENT
    assert "ssm_dt" in found["GGUF"].reason
    assert (found["FROM (encoder)"].status, found["FROM (encoder)"].source) == (
        Status.DROPPED,
        "2 tensors (v.blk.0.attn_q.weight, ...)",
    )
    assert found["tensors left out"].source == "2 tensors"


def test_gptoss_gets_its_pre_tokenizer(shared: Path, tmp_path: Path) -> None:
    header, _ = normalise(ollama_form("gpt_oss", shared, tmp_path))
    assert header.get("tokenizer.ggml.pre") == "gpt-4o"
    assert header.architecture == "gpt-oss"
    assert header.field("expert_feed_forward_length") == 256


GEMMA3: list[tuple[Metadata, Metadata]] = [
    (
        {"gemma3.block_count": 26, "gemma3.context_length": 32768, "gemma3.rope.local.freq_base": 10000.0},
        {"rope.freq_base_swa": 10000.0, "rope.freq_base": 1e6, "rope.scaling.type": None, "attention.head_count": None},
    ),
    (
        {"gemma3.block_count": 34, "gemma3.context_length": 131072, "gemma3.rope.global.freq_base": 5e5},
        {"rope.freq_base": 5e5, "rope.scaling.factor": 8.0, "attention.head_count": 8, "attention.head_count_kv": 4},
    ),
    (
        {"gemma3.block_count": 62, "gemma3.context_length": 131072},
        {"attention.head_count": 32, "attention.key_length": 128, "attention.layer_norm_rms_epsilon": 1e-6},
    ),
]


@pytest.mark.parametrize(("keys", "expected"), GEMMA3)
def test_gemma3_gets_what_its_files_leave_out(tmp_path: Path, keys: Metadata, expected: Metadata) -> None:
    path = tmp_path / "gemma3.gguf"
    path.write_bytes(
        build({"general.architecture": "gemma3", **keys}, list(tower("v.a", "token_embd.weight").values()))
    )
    header, findings = normalise(read_header(path))
    assert {key: header.field(key) for key in expected} == expected
    assert "v.a" not in header.tensors
    assert {finding.item for finding in findings} == {"GGUF", "FROM (encoder)"}


RENAMED: list[tuple[Metadata, str, Metadata]] = [
    (
        {"general.architecture": "olmo3", "olmo3.block_count": 2},
        "olmo2",
        {"block_count": 2},
    ),
    (
        {"general.architecture": "qwen25vl", "qwen25vl.rope.mrope_section": (16, 24, 24), "qwen25vl.block_count": 2},
        "qwen2vl",
        {"block_count": 2, "rope.mrope_section": None, "rope.dimension_sections": None},
    ),
    (
        {
            "general.architecture": "glm4moelite",
            "glm4moelite.attention.key_length": 256,
            "glm4moelite.attention.kv_lora_rank": 512,
            "glm4moelite.rope.dimension_count": 64,
        },
        "deepseek2",
        {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 256},
    ),
    (
        {
            "general.architecture": "mistral3",
            "mistral3.rope.scaling.beta_fast": 32.0,
            "mistral3.rope.scaling_beta": 0.1,
        },
        "mistral3",
        {"rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.beta_fast": None, "attention.temperature_scale": 0.1},
    ),
]


@pytest.mark.parametrize(("keys", "name", "expected"), RENAMED)
def test_names_and_meanings(tmp_path: Path, keys: Metadata, name: str, expected: Metadata) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(build(keys, list(tower("token_embd.weight").values())))
    header, findings = normalise(read_header(path))
    assert header.architecture == name
    assert {key: header.field(key) for key in expected} == pytest.approx(expected)
    assert findings
    again, nothing = normalise(header)
    assert (again, nothing) == (header, [])


def test_a_file_that_needs_nothing_is_left_alone(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path)
    assert normalise(header) == (header, [])
