"""`--weights auto` and `--target-gpu`: one table of files, families and GPUs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.checkpoint.choose import choose
from migrate.checkpoint.convert import Way
from migrate.errors import Refused
from migrate.gguf.header import read_header
from migrate.gguf.types import GGMLType
from migrate.vllm import gpus
from tests.architectures import families
from tests.checkpoint.quantized import write_quantized


def layout(family: str, kind: str, tmp_path: Path) -> ModelLayout:
    """A tiny model with matrices of `kind`, "mixture" for a Q4_0 with a few Q4_1, or as it is."""

    def kinds(name: str) -> GGMLType | None:
        if kind == "as it is" or not re.search(r"blk\.\d+\..*weight$", name):
            return None
        if kind == "MXFP4" and "_exps" not in name:
            return None
        if kind == "a few Q4_1":
            return GGMLType.Q4_1 if name == "blk.0.ffn_down.weight" else GGMLType.Q4_0
        return GGMLType[kind]

    source = families.ROOT / family / "model.gguf"
    return architectures.read(read_header(write_quantized(source, tmp_path / "model.gguf", kinds)))


@pytest.mark.parametrize(
    ("family", "kind", "gpu", "way", "dtype", "why"),
    [
        ("llama", "Q4_0", "L4", "repack", None, "keep their integers and scales"),
        ("llama", "Q8_0", "9.0", "repack", None, "keep their integers and scales"),
        ("llama", "a few Q4_1", "8.6", "repack", None, "Q4_0, Q4_1"),
        ("llama", "Q4_0", "T4", "repack", "float16", "keep their integers"),
        ("llama", "Q4_0", "V100", "dense", "float16", "from compute capability 7.5 on"),
        ("llama", "Q4_0", "cpu", "dense", None, "from compute capability 7.5 on"),
        ("llama", "Q4_1", "H100", "dense", None, "--weights requantize"),
        ("llama", "as it is", "H100", "dense", None, "not quantized"),
        ("gemma3", "Q8_0", "A100", "repack", None, "scales are rounded to bfloat16"),
        ("gemma3", "Q8_0", "T4", "dense", "float32", "needs bfloat16 scales"),
        ("gpt_oss", "MXFP4", "H100", "repack", None, "experts stay MXFP4"),
        ("gpt_oss", "MXFP4", "T4", "dense", "float32", "from compute capability 8.0 on"),
        ("qwen3_moe", "Q4_0", "RTX 4090", "repack", None, "keep their integers"),
        ("bert", "Q8_0", "L4", "dense", None, "embedding model"),
    ],
)
def test_auto(family: str, kind: str, gpu: str, way: Way, dtype: str | None, why: str, tmp_path: Path) -> None:
    choice = choose(layout(family, kind, tmp_path), gpus.parse(gpu), None, auto=True, dtype=None)
    assert (choice.way, choice.dtype) == (way, dtype)
    (finding,) = choice.findings
    assert finding.item == "--weights auto"
    assert why in finding.reason


def test_an_adapter_that_is_folded_in_needs_dense_weights(tmp_path: Path) -> None:
    choice = choose(layout("llama", "Q4_0", tmp_path), gpus.parse("L4"), None, auto=True, dtype=None, merged=True)
    assert choice.way == "dense"


@pytest.mark.parametrize(
    ("family", "kind", "gpu", "way", "dtype", "why"),
    [
        ("llama", "Q4_0", "V100", "repack", None, "below compute capability 7.5"),
        ("llama", "Q4_0", "cpu", "repack", None, "no kernels"),
        ("llama", "Q4_1", "7.0", "requantize", None, "below compute capability 7.5"),
        ("gpt_oss", "MXFP4", "7.5", None, None, "below compute capability 8.0"),
        ("llama", "Q4_0", "T4", "dense", "bfloat16", "bfloat16 needs compute capability 8.0"),
        ("gemma3", "Q8_0", "T4", "repack", None, "not run gemma3"),
    ],
)
def test_what_a_gpu_does_not_run_is_refused(
    family: str, kind: str, gpu: str, way: Way | None, dtype: str | None, why: str, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=re.escape(why)):
        choose(layout(family, kind, tmp_path), gpus.parse(gpu), way, auto=False, dtype=dtype)


def test_a_way_that_was_asked_for_stays(tmp_path: Path) -> None:
    found = layout("llama", "Q4_0", tmp_path)
    assert choose(found, gpus.parse("L4"), "dense", auto=False, dtype="float32").dtype == "float32"
    assert choose(found, gpus.parse("T4"), "requantize", auto=False, dtype=None).way == "requantize"
    assert choose(found, gpus.parse("V100"), None, auto=False, dtype=None).dtype == "float16"
