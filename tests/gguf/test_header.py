"""The header reader: right on real files, and clear and quick about damaged ones."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import GGUFError, NotFound
from migrate.gguf.header import EAGER_LENGTH, GGUFHeader, LazyArray, read_header
from tests.gguf.build import ARRAY, STRING, U32, TensorSpec, build, string

MODELS = [
    "tinychat/gguf/tinychat-f16",
    "tinychat/gguf/tinychat-q4_k_m",
    "tinychat/lora/adapter",
    "gemma4/gguf/model-bf16",
    "gpt_oss/gguf/model-q4_k_m",
    "bert/gguf/model-bf16",
]

GOOD_METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": [f"token {i}" for i in range(EAGER_LENGTH + 1)],
    "tokenizer.ggml.token_type": [1] * (EAGER_LENGTH + 1),
    "general.tags": ["a", "bc", ""],
}
GOOD_TENSORS = [TensorSpec("a", (32, 3), "Q8_0"), TensorSpec("b", (5,)), TensorSpec("c", (64, 2), "Q4_0")]


def read_bytes(directory: Path, data: bytes) -> GGUFHeader:
    path = directory / "x.gguf"
    path.write_bytes(data)
    return read_header(path)


@pytest.mark.parametrize("name", MODELS)
def test_real_file_as_gguf_py_reads_it(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.gguf"
    header, reader = read_header(path), GGUFReader(path)
    expected = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert {k: list(v) if isinstance(v, LazyArray | tuple) else v for k, v in header.metadata.items()} == expected
    for theirs in reader.tensors:
        ours = header.tensors[theirs.name]
        assert ours.shape == tuple(int(size) for size in theirs.shape)
        assert (int(ours.type), ours.offset, ours.nbytes) == (
            int(theirs.tensor_type),
            int(theirs.data_offset),
            int(theirs.n_bytes),
        )
    assert len(header.tensors) == len(reader.tensors)
    assert header.data_offset == reader.data_offset


def test_accessors(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, build(GOOD_METADATA, GOOD_TENSORS))
    assert header.architecture == "llama"
    assert header.field("block_count") == 2
    assert header.field("no.such", 7) == 7
    assert header.get("general.tags") == ("a", "bc", "")
    assert header.file_type == "Q4_K_M"
    assert (header.kind, header.split_count, header.chat_template) == ("model", 1, None)
    assert header.parameter_count == 96 + 5 + 128
    assert header.tensors["a"].torch_shape == (3, 32)
    shares = [(share.type.name, share.tensors, share.parameters) for share in header.type_shares()]
    assert shares == [("Q8_0", 1, 96), ("Q4_0", 1, 128), ("F32", 1, 5)]


def test_long_arrays_are_read_when_looked_at(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, build(GOOD_METADATA, GOOD_TENSORS))
    tokens = header.get("tokenizer.ggml.tokens")
    assert isinstance(tokens, LazyArray)
    assert len(tokens) == EAGER_LENGTH + 1
    assert tokens[7] == "token 7"
    assert tokens[-2:] == ("token 255", "token 256")
    assert tokens == [f"token {i}" for i in range(EAGER_LENGTH + 1)]
    assert tokens != ["x"]


def test_a_lazy_array_whose_file_shrank(tmp_path: Path) -> None:
    header = read_bytes(tmp_path, build(GOOD_METADATA, GOOD_TENSORS))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(GGUFError, match=r"shrank while 'tokenizer\.ggml\.tokens'"):
        list(header.get("tokenizer.ggml.tokens"))


@pytest.mark.parametrize("version", [2, 3])
def test_versions_and_alignment(tmp_path: Path, version: int) -> None:
    data = build({"general.alignment": 64} | GOOD_METADATA, GOOD_TENSORS, version=version, alignment=64)
    header = read_bytes(tmp_path, data)
    assert (header.version, header.alignment, header.data_offset % 64) == (version, 64, 0)


def test_split_files_are_recognised(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, build({"split.count": 3, "split.no": 0})).split_count == 3


def forged_array(kind: int, count: int, content: bytes = b"") -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, count) + content


def meta(key: str | bytes, item: Any) -> Callable[[], bytes]:
    return lambda: build([("general.architecture", "llama"), (key, item)])


def tensor(*specs: TensorSpec) -> Callable[[], bytes]:
    return lambda: build({"general.architecture": "llama"}, specs)


GOOD = build(GOOD_METADATA, GOOD_TENSORS)
HUGE = 1 << 60

DAMAGED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "not a GGUF file: it starts with an empty file"),
    "other magic": (lambda: b"PK\x03\x04" + GOOD[4:], "not a GGUF file"),
    "only magic": (lambda: GOOD[:10], "truncated: 10 bytes"),
    "ends in metadata": (lambda: GOOD[:100], "cannot hold|ends before|truncated"),
    "ends in an array": (lambda: GOOD[:2000], "ends before|truncated|claims"),
    "ends in the data": (lambda: GOOD[:-40], "tensor 'c' ends .* past the end"),
    "version 1": (lambda: build(GOOD_METADATA, version=1), "version 1"),
    "big-endian": (lambda: build(GOOD_METADATA, version=3 << 24), "big-endian"),
    "future version": (lambda: build(GOOD_METADATA, version=9), "version 9"),
    "2^60 tensors": (lambda: build({}, tensor_count=HUGE), f"announces {HUGE} tensors"),
    "2^60 metadata": (lambda: build({}, metadata_count=HUGE), f"announces {HUGE} metadata"),
    "2^60 strings": (meta("tokens", forged_array(STRING, HUGE)), "'tokens' claims"),
    "2^60 numbers": (meta("types", forged_array(U32, HUGE)), "'types' claims"),
    "2^63 string": (meta("x", struct.pack("<IQ", STRING, 1 << 63)), "value of 'x' claims"),
    "2^63 array element": (meta("x", forged_array(STRING, 1, struct.pack("<Q", 1 << 63))), "'x' claims|array 'x'"),
    "array of arrays": (meta("nested", forged_array(ARRAY, 2)), "'nested' is an array of arrays"),
    "array of nothing known": (meta("odd", forged_array(77, 1)), "'odd' is an array of unknown type 77"),
    "unknown value type": (meta("odd", struct.pack("<I", 13)), "'odd' has unknown value type 13"),
    "duplicate key": (meta("general.architecture", "qwen2"), "duplicate metadata key 'general.architecture'"),
    "empty key": (meta("", 1), "key 1 is empty"),
    "long key": (meta("k" * 70_000, 1), "key 1 is 70000 bytes long"),
    "key not UTF-8": (meta(b"\xff\xfe", 1), "key 1 is not UTF-8"),
    "value not UTF-8": (meta("x", struct.pack("<I", STRING) + string(b"\xff")), "value of 'x' is not UTF-8"),
    "token not UTF-8": (meta("x", forged_array(STRING, 1, string(b"\xff"))), "element 0 of 'x' is not UTF-8"),
    "alignment 0": (meta("general.alignment", 0), "general.alignment is 0"),
    "alignment 33": (meta("general.alignment", 33), "general.alignment is 33"),
    "alignment text": (meta("general.alignment", "32"), "general.alignment is '32'"),
    "duplicate tensor": (tensor(TensorSpec("a", (4,)), TensorSpec("a", (4,))), "duplicate tensor name 'a'"),
    "long tensor name": (tensor(TensorSpec("n" * 65, (4,))), "name of tensor 0 is 65 bytes long"),
    "unknown tensor type": (tensor(TensorSpec("a", (32,), 99)), "tensor 'a' has unknown type 99"),
    "removed tensor type": (tensor(TensorSpec("a", (32,), 31)), "tensor 'a' is stored as Q4_0_4_4"),
    "five dimensions": (tensor(TensorSpec("a", (1, 1, 1, 1, 1))), "tensor 'a' has 5 dimensions"),
    "no dimensions": (tensor(TensorSpec("a", ())), "tensor 'a' has 0 dimensions"),
    "zero dimension": (tensor(TensorSpec("a", (4, 0))), "tensor 'a' has an empty dimension"),
    "2^60 shape": (tensor(TensorSpec("a", (HUGE, HUGE), data=b"")), "tensor 'a' ends .* past the end"),
    "half a block": (tensor(TensorSpec("a", (48, 2), "Q4_0")), "tensor 'a': rows of 48 are not whole Q4_0 blocks"),
    "offset past the end": (tensor(TensorSpec("a", (4,), offset=1 << 20)), "tensor 'a' ends .* past the end"),
    "offset 2^63": (tensor(TensorSpec("a", (4,), offset=1 << 63)), "tensor 'a' ends .* past the end"),
    "misaligned": (tensor(TensorSpec("a", (4,)), TensorSpec("b", (4,), offset=20)), "tensor 'b': offset 20"),
    "overlap": (tensor(TensorSpec("a", (16,)), TensorSpec("b", (4,), offset=32)), "tensors 'a' and 'b' overlap"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named_within_a_second(tmp_path: Path, name: str) -> None:
    make, message = DAMAGED[name]
    data = make()
    start = time.perf_counter()
    with pytest.raises(GGUFError, match=message):
        read_bytes(tmp_path, data)
    assert time.perf_counter() - start < 1.0


def test_a_huge_sparse_file_of_empty_strings_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    path.write_bytes(build([("tokens", forged_array(STRING, 1 << 31))]))
    with path.open("r+b") as file:
        file.truncate(1 << 35)
    start = time.perf_counter()
    with pytest.raises(GGUFError, match="'tokens' claims"):
        read_header(path)
    assert time.perf_counter() - start < 1.0


def test_no_file_and_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_header(tmp_path / "missing.gguf")
    with pytest.raises(GGUFError, match="cannot be read"):
        read_header(tmp_path)


FUZZ = settings(max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_header_or_an_error(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, byte in flips:
        data[at] = byte
    check_header_or_error(tmp_path, bytes(data))


@FUZZ
@given(length=st.integers(0, len(GOOD)), tail=st.binary(max_size=40))
def test_truncated_and_continued_with_noise(tmp_path: Path, length: int, tail: bytes) -> None:
    check_header_or_error(tmp_path, GOOD[:length] + tail)


@FUZZ
@given(data=st.binary(max_size=300))
def test_noise(tmp_path: Path, data: bytes) -> None:
    check_header_or_error(tmp_path, b"GGUF\x03\x00\x00\x00" + data)


def check_header_or_error(directory: Path, data: bytes) -> None:
    try:
        header = read_bytes(directory, data)
    except GGUFError:
        return
    end = max((t.offset + t.nbytes for t in header.tensors.values()), default=0)
    assert end <= len(data)
    for item in header.metadata.values():
        if isinstance(item, LazyArray):
            with contextlib.suppress(GGUFError):  # an element that is no UTF-8
                assert len(list(item)) == len(item)
