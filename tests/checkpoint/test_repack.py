"""Weights that stay quantized: the integers and scales of the blob, written, read again, judged by other code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from migrate import architectures
from migrate.checkpoint.convert import Way as AnyWay
from migrate.checkpoint.convert import convert_weights
from migrate.checkpoint.packing import PackQuantized, module_name
from migrate.checkpoint.repack import Way, plan_repack
from migrate.checkpoint.verify import verify_weights
from migrate.checkpoint.verify_packed import verify_assignments
from migrate.errors import BadInput, GGUFError, Refused, UsageError
from migrate.findings import Status
from migrate.gguf.header import read_header
from migrate.gguf.types import DType, GGMLType
from tests.architectures import families
from tests.checkpoint.packed import Written, write_packed
from tests.checkpoint.quantized import Kinds, write_quantized

MOVABLE = ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL"]


def all_of(kind: str) -> Kinds:
    return lambda name: GGMLType[kind] if re.search(r"blk\.\d+\..*weight$|^output\.weight$", name) else None


def written(family: str, kinds: Kinds, tmp_path: Path, way: Way = "repack", dtype: DType | None = None) -> Written:
    gguf = write_quantized(families.ROOT / family / "model.gguf", tmp_path / "model.gguf", kinds)
    out = tmp_path / "out"
    out.mkdir()
    return write_packed(read_header(gguf), out, way, dtype)


def verified(found: Written, tmp_path: Path) -> dict[str, int]:
    return verify_assignments(found.header, found.plan.assignments, tmp_path / "out")


@pytest.mark.parametrize("kind", MOVABLE)
@pytest.mark.parametrize("family", ["llama", "qwen3", "qwen3_moe", "mixtral", "phi3", "granite", "qwen2_moe", "lfm2"])
def test_integers_and_scales_are_the_blobs(family: str, kind: str, tmp_path: Path) -> None:
    found = written(family, all_of(kind), tmp_path)
    counts = verified(found, tmp_path)
    assert counts["packed"] > 0
    assert counts["requantized"] == counts["mxfp4"] == 0
    assert found.plan.dtype is DType.FLOAT16
    assert not [f for f in found.plan.findings if f.status is Status.APPROXIMATE]


@pytest.mark.parametrize("kind", MOVABLE)
def test_every_integer_by_hand(kind: str, tmp_path: Path) -> None:
    """The slow way, from the bytes of the GGUF, for a matrix whose rows keep their order; zero scales included."""
    import gguf

    found = written("llama", all_of(kind), tmp_path)
    (entry,) = (t for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors if t.name == "blk.1.ffn_down.weight")
    table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    rows = []
    for row in np.ascontiguousarray(entry.data):
        numbers: list[int] = []
        for block in row.reshape(-1, GGMLType[kind].block_bytes):
            tail = [int(byte) for byte in block[2:]]
            if kind == "Q8_0":
                numbers += [byte - 256 if byte > 127 else byte for byte in tail]
                continue
            fifth = int.from_bytes(bytes(tail[:4]), "little") if kind == "Q5_0" else 0
            tail = tail[4:] if kind == "Q5_0" else tail
            codes = [byte & 15 for byte in tail] + [byte >> 4 for byte in tail]
            codes = [code | (fifth >> i & 1) << 4 for i, code in enumerate(codes)]
            offset = {"Q4_0": 8, "Q5_0": 16, "IQ4_NL": 0}[kind]
            numbers += [table[code] if kind == "IQ4_NL" else code - offset for code in codes]
        rows.append(numbers)
    bits = 4 if kind == "Q4_0" else 8
    words = families.read_tensors(tmp_path / "out")["model.layers.1.mlp.down_proj.weight_packed"]
    dtype, shape, data = words
    assert (dtype, shape) == ("I32", (len(rows), len(rows[0]) * bits // 32))
    stream = int.from_bytes(data, "little")
    flat = [number for numbers in rows for number in numbers]
    mask = (1 << bits) - 1
    unpacked = [(stream >> (i * bits) & mask) - (1 << (bits - 1)) for i in range(len(flat))]
    assert unpacked == flat
    assert found.config["quantization_config"]["quant_method"] == "compressed-tensors"


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("family", ["gemma2", "gemma3", "glm4"])
def test_scales_are_rounded_where_float16_is_refused(family: str, kind: str, tmp_path: Path) -> None:
    found = written(family, all_of(kind), tmp_path)
    assert found.plan.dtype is DType.BFLOAT16
    # Integers are the blob's, scales its scales rounded to nearest even.
    assert verified(found, tmp_path)["packed"] > 0
    errors = found.plan.rounded_scales.errors()
    assert len(errors) == sum(isinstance(e, PackQuantized) for _, e in found.plan.assignments)
    assert 1e-4 < max(error.rms for error in errors) <= 2**-8
    assert [f.status for f in found.plan.measured_findings()] == [Status.APPROXIMATE]
    with pytest.raises(Refused, match="float16"):
        plan_repack(architectures.read(found.header), way="repack", dtype=DType.FLOAT16)


def test_one_scheme_per_fused_group(tmp_path: Path) -> None:
    """q 4 bits and v 8 bits are one matrix in vLLM, and so are gate and up: both go to the larger container."""

    def kinds(name: str) -> GGMLType | None:
        if "attn_v" in name or "ffn_up" in name:
            return GGMLType.Q8_0
        return GGMLType.Q4_0 if re.search(r"blk\..*(attn|ffn)_\w+\.weight$", name) and "norm" not in name else None

    found = written("llama", kinds, tmp_path)
    assert verified(found, tmp_path)["packed"] == 14
    bits = {module_name(t): e.bits for t, e in found.plan.assignments if isinstance(e, PackQuantized)}
    layer = {name.rpartition(".")[2]: bits for name, bits in bits.items() if ".layers.0." in name}
    assert layer == {
        "q_proj": 8,
        "k_proj": 8,
        "v_proj": 8,
        "o_proj": 4,
        "gate_proj": 8,
        "up_proj": 8,
        "down_proj": 4,
    }
    groups = found.config["quantization_config"]["config_groups"].values()
    fused = {g["weights"]["num_bits"]: "".join(g["targets"]) for g in groups}
    assert "qkv_proj" in fused[8]
    assert "gate_up_proj" in fused[8]
    assert "qkv_proj" not in fused[4]


def test_a_group_with_one_odd_type_stays_dense(tmp_path: Path) -> None:
    """A Q4_0 file made with an importance matrix has some Q4_1: its group cannot move without a change."""

    def kinds(name: str) -> GGMLType | None:
        if name == "blk.0.attn_k.weight":
            return GGMLType.Q4_1
        return all_of("Q4_0")(name)

    found = written("llama", kinds, tmp_path)
    dense = {t.target for t, e in found.plan.assignments if not isinstance(e, PackQuantized)}
    assert {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"} <= dense
    assert "model.layers.1.self_attn.q_proj.weight" not in dense
    assert any("Q4_0, Q4_1: no exact container" in f.reason for f in found.plan.findings)
    verified(found, tmp_path)
    ignored = found.config["quantization_config"]["ignore"]
    assert any("self_attn" in line and "0" in line for line in ignored)


def test_experts_of_a_layer_share_a_scheme(tmp_path: Path) -> None:
    """Half of the files' down projections have more bits; vLLM has one kernel for all experts of a layer."""

    def kinds(name: str) -> GGMLType | None:
        return GGMLType.Q8_0 if "ffn_down_exps" in name else all_of("Q4_0")(name)

    found = written("qwen3_moe", kinds, tmp_path)
    verified(found, tmp_path)
    experts = {e.bits for t, e in found.plan.assignments if ".experts." in t.target and isinstance(e, PackQuantized)}
    assert experts == {8}
    assert not [t for t, e in found.plan.assignments if t.target.endswith("gate.weight") and type(e) is PackQuantized]


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_1", "Q5_1", "IQ4_XS"])
def test_requantized_weights_are_within_half_a_step(kind: str, shared: Path, tmp_path: Path) -> None:
    if GGMLType[kind].block_size == 256:
        source = shared / "models" / "tinychat" / "gguf" / "tinychat-f16.gguf"
    else:
        source = families.ROOT / "llama" / "model.gguf"
    gguf = write_quantized(source, tmp_path / "model.gguf", all_of(kind))
    (tmp_path / "out").mkdir()
    found = write_packed(read_header(gguf), tmp_path / "out", "requantize")
    counts = verified(found, tmp_path)
    assert counts["requantized"] > 10
    told = [f for f in found.plan.measured_findings() if f.item.startswith("requantized")]
    assert len(told) == counts["requantized"]
    errors = [float(m[1]) for f in told if (m := re.search(r"RMS error (\S+),", f.reason))]
    assert len(errors) == len(told)
    assert 0 < max(errors) < 0.02


@pytest.mark.parametrize(("kind", "counted"), [("q4_0", 29), ("q5_0", 29), ("q8_0", 30), ("iq4_nl", 29)])
def test_real_files_repack_exactly(shared: Path, tmp_path: Path, kind: str, counted: int) -> None:
    """Files that llama.cpp quantized; all but the last keep the embedding, also the output matrix, in Q6_K."""
    header = read_header(shared / "models" / "tinychat" / "gguf" / f"tinychat-{kind}.gguf")
    (tmp_path / "out").mkdir()
    found = write_packed(header, tmp_path / "out", "repack")
    counts = verified(found, tmp_path)
    assert counts["packed"] >= counted - 1
    assert counts["packed"] + counts["dense"] == len(found.plan.assignments)


def test_gpt_oss_keeps_its_experts(tmp_path: Path) -> None:
    def kinds(name: str) -> GGMLType | None:
        return GGMLType.MXFP4 if re.search(r"ffn_\w+_exps\.weight", name) else None

    found = written("gpt_oss", kinds, tmp_path)
    counts = verified(found, tmp_path)
    assert counts["mxfp4"] == 4
    assert found.config["quantization_config"]["quant_method"] == "mxfp4"
    with pytest.raises(Refused, match="bfloat16"):
        plan_repack(architectures.read(found.header), way="repack", dtype=DType.FLOAT16)


@pytest.mark.parametrize("way", ["dense", "repack", "requantize"])
def test_rows_of_two_types_take_turns(way: AnyWay, tmp_path: Path) -> None:
    """gpt-oss keeps gate and up in one tensor; a mixture may store one with more bits than the other."""
    types = {"gate": GGMLType.Q8_0, "up": GGMLType.Q4_0, "down": GGMLType.Q5_1}

    def kinds(name: str) -> GGMLType | None:
        expert = re.search(r"ffn_(\w+)_exps\.weight", name)
        return types[expert[1]] if expert else None

    gguf = write_quantized(families.ROOT / "gpt_oss" / "model.gguf", tmp_path / "model.gguf", kinds)
    (tmp_path / "out").mkdir()
    header = read_header(gguf)
    convert_weights(header, tmp_path / "out", way=way, durable=False)
    layout = architectures.read(header)
    assert verify_weights(header, layout, tmp_path / "out") == len(layout.tensors)


@pytest.mark.parametrize(
    "damage",
    [
        lambda name: "packed" in name,
        lambda name: "scale" in name,
        lambda name: "embed_tokens" in name,
    ],
    ids=["integer", "scale", "dense"],
)
def test_the_judge_finds_a_flipped_bit(damage: Callable[[str], bool], tmp_path: Path) -> None:
    found = written("llama", all_of("Q4_0"), tmp_path)
    verified(found, tmp_path)
    (path,) = (tmp_path / "out").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    name = next(name for name in entries if damage(name))
    data[start + entries[name]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match=re.escape(name.partition(".weight")[0])):
        verified(found, tmp_path)


@pytest.mark.parametrize("way", ["repack", "requantize"])
def test_nan_scales_are_an_error(way: Way, tmp_path: Path) -> None:
    kind = GGMLType.Q4_0 if way == "repack" else GGMLType.Q4_1
    gguf = write_quantized(families.ROOT / "llama" / "model.gguf", tmp_path / "model.gguf", all_of(kind.name))
    header = read_header(gguf)
    import gguf as library

    (entry,) = (t for t in library.GGUFReader(gguf).tensors if t.name == "blk.1.attn_q.weight")
    data = bytearray(gguf.read_bytes())
    data[int(entry.data_offset) : int(entry.data_offset) + 2] = b"\x00\x7e"
    gguf.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(GGUFError, match=r"blk\.1\.attn_q\.weight"):
        write_packed(header, tmp_path / "out", way)


def test_float32_has_no_kernels() -> None:
    layout = architectures.read(read_header(families.ROOT / "llama" / "model.gguf"))
    with pytest.raises(UsageError, match="float32"):
        plan_repack(layout, way="repack", dtype=DType.FLOAT32)
