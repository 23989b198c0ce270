"""Damaged weights on the command line: a clear error within a second, nothing written."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import MigrateError
from migrate.gguf.header import read_header
from tests.cli.conftest import Run
from tests.gguf.build import TensorSpec, build


def truncated(data: bytearray, data_offset: int) -> bytearray:
    return data[: len(data) // 2]


def short_header(data: bytearray, data_offset: int) -> bytearray:
    return data[:200]


def flipped_magic(data: bytearray, data_offset: int) -> bytearray:
    data[1] ^= 0xFF
    return data


def flipped_version(data: bytearray, data_offset: int) -> bytearray:
    data[4] ^= 0x7F
    return data


def tensor_count(data: bytearray, data_offset: int) -> bytearray:
    data[8:16] = struct.pack("<Q", 2**60)
    return data


def metadata_count(data: bytearray, data_offset: int) -> bytearray:
    data[16:24] = struct.pack("<Q", 2**60)
    return data


def offset_past_the_end(data: bytearray, data_offset: int) -> bytearray:
    at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16 + 4
    data[at : at + 8] = struct.pack("<Q", 2**40)
    return data


def doubled_name(data: bytearray, data_offset: int) -> bytearray:
    at = data.index(b"blk.1.ffn_up.weight")
    data[at : at + 19] = b"blk.0.ffn_up.weight"
    return data


def nan_scales(data: bytearray, data_offset: int) -> bytearray:
    position = data.index(b"blk.2.attn_q.weight")
    (offset,) = struct.unpack_from("<Q", data, position + 19 + 4 + 16 + 4)
    start = data_offset + offset
    data[start : start + 2] = b"\x01\x7e"
    return data


DAMAGES: list[tuple[Callable[[bytearray, int], bytearray], str]] = [
    (truncated, "end"),
    (short_header, "200 bytes cannot hold"),
    (flipped_magic, "neither a GGUF nor a Modelfile"),
    (flipped_version, "version"),
    (tensor_count, "tensors"),
    (metadata_count, "metadata"),
    (offset_past_the_end, "blk.1.ffn_up.weight"),
    (doubled_name, "blk.0.ffn_up.weight"),
    (nan_scales, "blk.2.attn_q.weight"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_damaged_files(
    run: Run,
    shared: Path,
    tmp_path: Path,
    damage: Callable[[bytearray, int], bytearray],
    words: str,
) -> None:
    source = shared / "models" / "tinychat" / "gguf" / "tinychat-q8_0.gguf"
    path = tmp_path / "bad.gguf"
    path.write_bytes(damage(bytearray(source.read_bytes()), read_header(source).data_offset))
    started = time.perf_counter()
    result = run("convert", str(path), "-o", str(tmp_path / "out"))
    assert time.perf_counter() - started < 5.0
    assert result.code == 3
    assert words in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.gguf"]


def test_a_model_in_parts_without_its_second(run: Run, tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "split.no": 0, "split.count": 2, "split.tensors.count": 2}
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(build(metadata, [TensorSpec("token_embd.weight", (32, 4))]))
    with pytest.raises(MigrateError, match=r"m-00002-of-00002\.gguf"):
        read_header(path)
    result = run("inspect", str(path))
    assert result.code == 3
    assert "m-00002-of-00002.gguf" in result.err
