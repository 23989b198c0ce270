"""Whole conversions: against the originals, against gguf-py, and of damaged files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from safetensors import safe_open

from migrate.checkpoint.convert import convert_weights, plan_weights
from migrate.errors import GGUFError, MigrateError, OutputExists, UsageError
from migrate.findings import Status
from migrate.gguf.header import GGUFHeader, read_header
from migrate.gguf.types import DType
from tests.architectures.tiny import BIASES, HEADS, KV_HEADS, SHAPES, tiny_llama

Bits = npt.NDArray[np.uint16]

QUANTIZATIONS = ["q2_k", "q3_k_m", "q4_0", "q4_1", "q4_k_m", "q5_0", "q5_k_m", "q6_k", "q8_0", "iq4_nl"]


def raw_tensors(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """dtype, shape and bytes by name, without a library that knows bfloat16."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    content = data[8 + size :]
    return {
        name: (entry["dtype"], entry["shape"], content[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }


def as_floats(dtype: str, data: bytes) -> npt.NDArray[np.float32]:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.float16 if dtype == "F16" else np.float32).astype(np.float32)


@pytest.mark.parametrize("model", ["llama3rope", "mistral"])
def test_bfloat16_comes_back_identical(shared: Path, tmp_path: Path, model: str) -> None:
    header = read_header(shared / "models" / model / "gguf" / "model-bf16.gguf")
    report = convert_weights(header, tmp_path)
    assert report.dtype == "bfloat16"
    ours = raw_tensors(tmp_path / "model.safetensors")
    assert ours == raw_tensors(shared / "models" / model / "hf" / "model.safetensors")
    assert report.parameters == sum(len(data) // 2 for _, _, data in ours.values())


def test_float16_stays_float16(shared: Path, tmp_path: Path) -> None:
    header = read_header(shared / "models" / "tinychat" / "gguf" / "tinychat-f16.gguf")
    report = convert_weights(header, tmp_path)
    assert report.dtype == "float16"
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    ours = raw_tensors(tmp_path / "model.safetensors")
    originals = raw_tensors(shared / "models" / "tinychat" / "hf" / "model.safetensors")
    assert ours.keys() == originals.keys()
    for name, (dtype, shape, data) in originals.items():
        expected = as_floats(dtype, data).astype(np.float16).tobytes()
        assert ours[name] == ("F16", shape, expected), name


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantizations_as_gguf_py(shared: Path, tmp_path: Path, quantization: str) -> None:
    path = shared / "models" / "tinychat" / "gguf" / f"tinychat-{quantization}.gguf"
    convert_weights(read_header(path), tmp_path)
    check_against_gguf_py(path, tmp_path / "model.safetensors", heads=4, kv_heads=2)


def check_against_gguf_py(path: Path, written: Path, heads: int, kv_heads: int) -> None:
    """bfloat16 written == gguf-py's float32 rounded; names and q/k rows mapped here independently."""
    ours = raw_tensors(written)
    reader = gguf.GGUFReader(path)
    assert len(ours) == len(reader.tensors)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 99)
    for name, (dtype, shape, data) in ours.items():
        stem, _, suffix = name.rpartition(".")
        found = names.get_name(stem)
        tensor = next(t for t in reader.tensors if t.name == f"{found}.{suffix}")
        floats = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if "q_proj" in name or "k_proj" in name:
            count = heads if "q_proj" in name else kv_heads
            floats = floats.reshape(count, shape[0] // count // 2, 2, -1).swapaxes(1, 2).reshape(shape)
        assert dtype == "BF16"
        np.testing.assert_array_equal(np.frombuffer(data, np.uint16), round_to_bfloat16(floats), err_msg=name)


def round_to_bfloat16(floats: npt.NDArray[np.float32]) -> Bits:
    words = np.ascontiguousarray(floats).reshape(-1).view(np.uint32).astype(np.uint64)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def test_config_and_tokenizer_files(shared: Path, tmp_path: Path) -> None:
    header = read_header(shared / "models" / "llama3rope" / "gguf" / "model-q4_k_m.gguf")
    report = convert_weights(header, tmp_path)
    assert sorted(report.files) == sorted(path.name for path in tmp_path.iterdir())
    assert report.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (730, 733, None)
    scaling = {k: v for k, v in config["rope_parameters"].items() if k != "rope_theta"}
    assert config["rope_scaling"] == scaling
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (tokenizer["bos_token"], tokenizer["eos_token"]) == ("<|begin_of_text|>", "<|im_end|>")
    assert "chat_template" not in tokenizer
    statuses = {finding.item: finding.status for finding in report.findings}
    assert statuses["weights Q4_K"] is Status.EXACT
    assert statuses["tensor rope_freqs.weight"] is Status.EQUIVALENT


def test_the_same_bytes_for_any_number_of_threads(shared: Path, tmp_path: Path) -> None:
    header = read_header(shared / "models" / "tinychat" / "gguf" / "tinychat-q4_k_m.gguf")
    for threads in (1, 3):
        (tmp_path / str(threads)).mkdir()
        convert_weights(header, tmp_path / str(threads), threads=threads)
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "3" / path.name).read_bytes()


@pytest.mark.parametrize("dtype", list(DType))
def test_plan_says_what_will_be_written(shared: Path, tmp_path: Path, dtype: str) -> None:
    header = read_header(shared / "models" / "tinychat" / "gguf" / "tinychat-q8_0.gguf")
    plan = plan_weights(header, dtype)
    seen: list[tuple[int, int]] = []
    report = convert_weights(header, tmp_path, dtype=dtype, progress=lambda done, total: seen.append((done, total)))
    assert plan.dtype == report.dtype == dtype
    assert dict(plan.files) == {p.name: p.stat().st_size for p in tmp_path.glob("*.safetensors")}
    total = plan.parameters * DType(dtype).itemsize
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_biases_are_unpermuted_too(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    header = tiny_llama(tmp_path, tensors=BIASES)
    convert_weights(header, tmp_path / "out", dtype="float32")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        written = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    reader = gguf.GGUFReader(header.path)
    source = {tensor.name: tensor.data for tensor in reader.tensors}
    for part, heads in (("q", HEADS), ("k", KV_HEADS)):
        ours = written[f"model.layers.1.self_attn.{part}_proj.bias"]
        permuted = ours.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
        np.testing.assert_array_equal(permuted, source[f"blk.1.attn_{part}.bias"])
    np.testing.assert_array_equal(written["model.layers.1.self_attn.v_proj.bias"], source["blk.1.attn_v.bias"])


def damaged_copy(path: Path, target: Path, tensor: str, value: int) -> GGUFHeader:
    """A copy with one 16-bit word at the start of `tensor` replaced."""
    data = bytearray(path.read_bytes())
    offset = read_header(path).tensors[tensor].offset
    data[offset : offset + 2] = value.to_bytes(2, "little")
    target.write_bytes(data)
    return read_header(target)


@pytest.mark.parametrize("quantization", ["f16", "q4_0", "q4_k_m", "q8_0"])
def test_nan_scales_name_the_tensor(shared: Path, tmp_path: Path, quantization: str) -> None:
    source = shared / "models" / "tinychat" / "gguf" / f"tinychat-{quantization}.gguf"
    header = damaged_copy(source, tmp_path / "nan.gguf", "blk.2.attn_q.weight", 0x7E01)
    (tmp_path / "out").mkdir()
    start = time.perf_counter()
    with pytest.raises(GGUFError, match=r"tensor 'blk\.2\.attn_q\.weight' has NaN or infinite"):
        convert_weights(header, tmp_path / "out")
    assert time.perf_counter() - start < 1.0


def test_a_file_that_shrinks_meanwhile(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes((shared / "models" / "tinychat" / "gguf" / "tinychat-q4_0.gguf").read_bytes())
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(header.data_offset + 1_000_000)
    (tmp_path / "out").mkdir()
    with pytest.raises(GGUFError, match="ends inside tensor"):
        convert_weights(header, tmp_path / "out")


REQUESTS: list[tuple[dict[str, Any], type[MigrateError], str]] = [
    ({"dtype": "int8"}, UsageError, "dtype 'int8': one of bfloat16, float16, float32"),
    ({"dtype": "float16"}, GGUFError, r"'token_embd\.weight' has NaN or infinite weights in float16"),
]


@pytest.mark.parametrize(("request_", "error", "message"), REQUESTS)
def test_requests_that_cannot_be_met(
    tmp_path: Path, request_: dict[str, Any], error: type[MigrateError], message: str
) -> None:
    shape = SHAPES["token_embd.weight"]
    large = np.full(shape, 70000.0, np.float32).tobytes()
    header = tiny_llama(tmp_path, data={"token_embd.weight": large})
    (tmp_path / "out").mkdir()
    with pytest.raises(error, match=message):
        convert_weights(header, tmp_path / "out", **request_)


def test_the_directory_must_be_empty_and_there(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path)
    with pytest.raises(OutputExists, match="not empty"):
        convert_weights(header, tmp_path)
    with pytest.raises(UsageError, match="not a directory"):
        convert_weights(header, tmp_path / "nowhere")


@pytest.mark.parametrize(("types", "expected"), [(("f16",), "float16"), (("q8_0",), "bfloat16")])
def test_dtype_rule(shared: Path, types: tuple[str, ...], expected: str) -> None:
    for name in types:
        header = read_header(shared / "models" / "tinychat" / "gguf" / f"tinychat-{name}.gguf")
        assert plan_weights(header).dtype == expected
