"""`convert --weights ...` from the command line: what is chosen, what is refused, what a bare file gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from migrate.cli.app import app
from migrate.errors import MigrateError
from tests.architectures import families


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, MigrateError):
        return result.exception.exit_code, f"{result.exception} {result.exception.hint or ''}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


@pytest.fixture
def gguf(shared: Path) -> Path:
    return shared / "models" / "tinychat" / "gguf"


def converted(path: Path, out: Path, *options: str) -> dict[str, Any]:
    code, said = run("convert", str(path), *options, "-o", str(out), "--json")
    assert code == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


@pytest.mark.parametrize(
    ("file", "gpu", "quantized", "dtype"),
    [
        ("tinychat-q4_0.gguf", "8.9", True, "float16"),
        ("tinychat-q8_0.gguf", "L4", True, "float16"),
        ("tinychat-q4_0.gguf", "T4", True, "float16"),
        ("tinychat-q4_0.gguf", "7.0", False, "float16"),
        ("tinychat-q4_0.gguf", "cpu", False, "bfloat16"),
        ("tinychat-q4_k_m.gguf", "9.0", False, "bfloat16"),
        ("tinychat-f16.gguf", "9.0", False, "float16"),
    ],
)
def test_auto_for_a_gpu(gguf: Path, tmp_path: Path, file: str, gpu: str, quantized: bool, dtype: str) -> None:
    found = converted(gguf / file, tmp_path / "out", "--weights", "auto", "--target-gpu", gpu)
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert ("quantization_config" in config) is quantized
    assert config["dtype"] == found["target"]["dtype"] == dtype
    (told,) = [finding for finding in found["findings"] if finding["item"] == "--weights auto"]
    assert told["reason"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--weights", "auto"), 2, "--target-gpu"),
        (("--weights", "best"), 2, "dense or repack"),
        (("--target-gpu", "toaster"), 2, "toaster"),
        (("--weights", "repack", "--target-gpu", "7.0"), 3, "7.5"),
        (("--dtype", "bfloat16", "--target-gpu", "7.5"), 3, "bfloat16"),
        (("--weights", "repack", "--dtype", "float32"), 3, "float32"),
    ],
)
def test_what_cannot_be(gguf: Path, tmp_path: Path, options: tuple[str, ...], code: int, said: str) -> None:
    found = run("convert", str(gguf / "tinychat-q4_0.gguf"), *options, "-o", str(tmp_path / "out"))
    assert found[0] == code, found
    assert said in found[1]
    assert not (tmp_path / "out").exists()


def test_a_bare_file_without_any_template(tmp_path: Path) -> None:
    """Neither TEMPLATE nor Jinja: the weights move, and a finding says what is missing."""
    out = tmp_path / "out"
    found = converted(families.ROOT / "llama" / "model.gguf", out)
    assert not (out / "model" / "chat_template.jinja").exists()
    assert "chat-template" not in (out / "serve.yaml").read_text()
    (told,) = [finding for finding in found["findings"] if finding["item"] == "TEMPLATE"]
    assert (told["status"], "/v1/completions" in told["action"]) == ("dropped", True)


def test_a_bare_file_with_its_own_jinja(gguf: Path, tmp_path: Path) -> None:
    from migrate.gguf.header import read_header

    out = tmp_path / "out"
    converted(gguf / "tinychat-q8_0.gguf", out)
    assert read_header(gguf / "tinychat-q8_0.gguf").chat_template
    assert (out / "model" / "chat_template.jinja").is_file()
