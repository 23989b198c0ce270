"""What is said of the weights must be true of the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from migrate.bundle import write
from migrate.mapping.migration import plan
from migrate.mapping.weights import _is_exact
from migrate.ollama.reference import load
from tests.architectures.families import ROOT


@pytest.mark.parametrize(
    ("kinds", "dtype", "exact"),
    [
        ({"F16", "F32"}, "float16", True),
        ({"BF16", "F32"}, "bfloat16", True),
        ({"F32"}, "bfloat16", False),
        ({"F32"}, "float16", False),
        ({"F32"}, "float32", True),
        ({"BF16", "F16", "F32"}, "float32", True),
        ({"F16", "F32"}, "bfloat16", False),
        ({"Q8_0", "F32"}, "bfloat16", False),
        ({"Q8_0", "F32"}, "float32", False),
    ],
)
def test_exact_means_the_same_numbers(kinds: set[str], dtype: str, exact: bool) -> None:
    assert _is_exact(kinds, dtype) is exact


def test_a_family_without_a_class_in_transformers_brings_its_config(tmp_path: Path) -> None:
    """vLLM has InternLM2, but asks transformers for the config."""
    write.write(plan(load(str(ROOT / "internlm2" / "model.gguf"))), tmp_path / "out")
    assert yaml.safe_load((tmp_path / "out" / "serve.yaml").read_text())["trust-remote-code"] is True
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    module, _, name = config["auto_map"]["AutoConfig"].partition(".")
    code = compile((tmp_path / "out" / "model" / f"{module}.py").read_text(), module, "exec")
    assert name in code.co_names

    write.write(plan(load(str(ROOT / "llama" / "model.gguf"))), tmp_path / "llama")
    assert "trust-remote-code" not in yaml.safe_load((tmp_path / "llama" / "serve.yaml").read_text())
