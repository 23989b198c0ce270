"""Packed weights as compressed-tensors unpacks them: an implementation that is neither ours nor gguf-py's."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from migrate.checkpoint.packing import PackQuantized, module_name
from migrate.checkpoint.verify import Judge, assembled, rounded
from migrate.engines.provision import EnginesEnv
from migrate.gguf.header import read_header
from migrate.gguf.types import DType, GGMLType
from tests.architectures import families
from tests.checkpoint.packed import Written, write_packed
from tests.checkpoint.quantized import write_quantized

pytestmark = pytest.mark.live


def unpacked(engines: EnginesEnv, directory: Path, modules: Iterable[str]) -> dict[str, dict[str, str]]:
    result = subprocess.run(
        [str(engines.python), str(Path(__file__).with_name("packed_probe.py"))],
        input=json.dumps({"directory": str(directory), "names": list(modules)}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, dict[str, str]] = json.loads(result.stdout)
    return found


def expected(found: Written) -> dict[str, dict[str, str]]:
    """gguf-py's weights, rounded to float16."""
    judge = Judge(found.header)
    hashes = {}
    for tensor, encoding in found.plan.assignments:
        if isinstance(encoding, PackQuantized):
            bits: Any = rounded(assembled(tensor, judge.floats), DType.FLOAT16)
            digest = hashlib.sha256(bits.tobytes()).hexdigest()
            hashes[module_name(tensor)] = {"dtype": "float16", "sha256": digest}
    return hashes


@pytest.mark.parametrize("kind", ["q4_0", "q5_0", "q8_0", "iq4_nl"])
def test_real_files_as_compressed_tensors_unpacks_them(
    shared: Path, engines: EnginesEnv, tmp_path: Path, kind: str
) -> None:
    header = read_header(shared / "models" / "tinychat" / "gguf" / f"tinychat-{kind}.gguf")
    weights = expected(write_packed(header, tmp_path, "repack"))
    assert len(weights) >= 28
    assert unpacked(engines, tmp_path, weights) == weights


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "phi3"])
def test_families_as_compressed_tensors_unpacks_them(engines: EnginesEnv, tmp_path: Path, family: str) -> None:
    """Permuted rows, experts, split matrices; layers of different types."""

    def kinds(name: str) -> GGMLType | None:
        if not name.startswith("blk."):
            return None
        return GGMLType.Q4_0 if name.startswith("blk.0.") else GGMLType.Q5_0

    source = write_quantized(families.ROOT / family / "model.gguf", tmp_path / "model.gguf", kinds)
    out = tmp_path / "out"
    out.mkdir()
    weights = expected(write_packed(read_header(source), out, "repack"))
    assert len(weights) > 5
    assert unpacked(engines, out, weights) == weights
