"""From a GGUF to a Hugging Face checkpoint: unquantized ("dense"), or with its blocks kept (see `repack`)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from migrate import architectures
from migrate.architectures.base import ModelLayout, read_float32
from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.adopted import adopt_tokenizer
from migrate.checkpoint.config import model_config
from migrate.checkpoint.dense import Dense
from migrate.checkpoint.lora import merge_factors
from migrate.checkpoint.merge import Factors, Merged
from migrate.checkpoint.mxfp4 import native_mxfp4
from migrate.checkpoint.repack import RepackPlan, plan_repack
from migrate.checkpoint.tokenizer import write_tokenizer
from migrate.checkpoint.weights import Assignment, Progress, output_tensors, write_weights
from migrate.checkpoint.writer import CheckpointWriter, check_disk_space, plan_shards
from migrate.errors import OutputExists, Refused, UsageError
from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader
from migrate.gguf.types import DType, GGMLType
from migrate.gguf.vocab import read_vocabulary

Way = Literal["dense", "repack", "requantize"]
CONFIG_FILE = "config.json"
_OTHER_FILES_BYTES = 64 << 20
"""Room for tokenizer and config, generously."""


@dataclass(frozen=True, slots=True)
class WeightsPlan:
    """What a conversion would write. `files` are (name, bytes) of the weight files."""

    model_type: str
    dtype: DType
    parameters: int
    files: Sequence[tuple[str, int]]
    findings: Sequence[Finding]

    @property
    def nbytes(self) -> int:
        return sum(size for _, size in self.files)


@dataclass(frozen=True, slots=True)
class CheckpointReport:
    """What a conversion wrote. `files` are names in the output directory, `nbytes` their size together."""

    model_type: str
    dtype: DType
    parameters: int
    files: Sequence[str]
    nbytes: int
    findings: Sequence[Finding]


def plan_weights(header: GGUFHeader, dtype: str | None = None, way: Way | None = None) -> WeightsPlan:
    """What `convert_weights` would write, from the header alone. Raises what it would raise before writing."""
    layout = architectures.read(header)
    plan = plan_storage(layout, way, dtype)
    shards = plan_shards(output_tensors(plan.assignments))
    return WeightsPlan(
        layout.architecture.model_type,
        plan.dtype,
        layout.parameter_count,
        tuple((shard.file_name, shard.size) for shard in shards),
        (*layout.findings, *plan.findings),
    )


def convert_weights(
    header: GGUFHeader,
    out_dir: Path,
    *,
    dtype: str | None = None,
    way: Way | None = None,
    adapter: GGUFHeader | None = None,
    tokenizer: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    durable: bool = True,
) -> CheckpointReport:
    """Write config.json, tokenizer and weights into `out_dir`, which exists and is empty.

    `dtype`: "bfloat16", "float16" or "float32"; None chooses (see `choose_dtype`). `way`: see `plan_storage`.
    `adapter` is a LoRA to be folded into the weights. `tokenizer`: see `adopt_tokenizer`. `progress` is called with
    (bytes written, bytes in all). `durable` waits until the weights are on the disk, not only in its cache. After an
    error the directory holds pieces: write beside, then rename.

    Raises:
        UsageError: a dtype nobody knows, or `out_dir` is not an empty directory.
        GGUFError: metadata or tensors are damaged, missing or unknown.
        Refused: the architecture, its settings, or its tokenizer are not supported.
        MigrateError: the disk is too small.
    """
    _check_directory(out_dir)
    layout = architectures.read(header)
    factors = merge_factors(adapter, layout.header) if adapter else {}
    plan = plan_storage(layout, way, dtype, factors)
    outputs = output_tensors(plan.assignments)
    check_disk_space(out_dir, sum(tensor.nbytes for tensor in outputs) + _OTHER_FILES_BYTES)
    if tokenizer is None:
        tokenizer_files, tokenizer_findings = write_tokenizer(layout.header, out_dir)
    else:
        tokenizer_files, tokenizer_findings = adopt_tokenizer(tokenizer, layout.header, out_dir)
    config = model_config(layout, read_vocabulary(layout.header, known_pre=tokenizer is None), plan.dtype)
    if plan.quantization_config:
        config["quantization_config"] = plan.quantization_config
    more = {CONFIG_FILE: json.dumps(config, indent=2) + "\n", **layout.architecture.more_files(layout.header)}
    for name, text in more.items():
        (out_dir / name).parent.mkdir(exist_ok=True)
        (out_dir / name).write_text(text, encoding="utf-8")
    with CheckpointWriter(out_dir, outputs, durable=durable) as writer:
        write_weights(layout.header, plan.assignments, writer, threads=threads, progress=progress)
    files = [*more, *tokenizer_files, *writer.files]
    return CheckpointReport(
        layout.architecture.model_type,
        plan.dtype,
        layout.parameter_count,
        tuple(files),
        sum((out_dir / name).stat().st_size for name in files),
        (*layout.findings, *plan.findings, *plan.measured_findings(), *tokenizer_findings),
    )


def plan_storage(
    layout: ModelLayout, way: Way | None = None, dtype: str | None = None, factors: Mapping[str, Factors] | None = None
) -> RepackPlan:
    """How every tensor is stored, and in which dtype.

    `way`: "dense" unquantizes everything, "repack" moves the integers of Q4_0, Q5_0, Q8_0 and IQ4_NL unchanged,
    "requantize" makes 8-bit integers of the other quantized types too. None is dense, but for the experts of gpt-oss,
    whose released form is MXFP4. `factors`: of an adapter, by the name of the tensor they are folded into.

    Raises:
        UsageError: `dtype` is unknown, or has no kernels for quantized weights.
        Refused: float16 where vLLM refuses it; an adapter and weights that stay quantized.
    """
    if way is None and native_mxfp4(layout):
        way = "repack"
    if way is None or way == "dense":
        chosen, findings = choose_dtype(layout, dtype)
        return RepackPlan(assign(layout, chosen, factors or {}), None, chosen, findings)
    if factors:
        raise Refused("an adapter cannot be folded into weights that stay quantized", hint="--weights dense")
    return plan_repack(layout, way=way, dtype=None if dtype is None else _parse_dtype(dtype))


def assign(
    layout: ModelLayout, dtype: DType, factors: Mapping[str, Factors] = MappingProxyType({})
) -> list[Assignment]:
    """How each tensor is stored. `factors` of an adapter by the name of the tensor they are folded into."""
    dense, merged = Dense(dtype), Merged(dtype, factors)
    assignments: list[Assignment] = []
    for tensor in layout.tensors:
        if tensor.float32 and not (dtype is DType.BFLOAT16 and _all_bfloat16(layout.header, tensor)):
            assignments.append((tensor, Dense(DType.FLOAT32)))
        else:
            assignments.append((tensor, merged if tensor.target in factors else dense))
    return assignments


def _all_bfloat16(header: GGUFHeader, tensor: MappedTensor) -> bool:
    """Whether a small float32 tensor loses nothing in bfloat16: its original was in that dtype, then."""
    values = [value for info in tensor.sources for value in read_float32(header, info)]
    return all(not struct.unpack("<I", struct.pack("<f", value))[0] & 0xFFFF for value in values)


def choose_dtype(layout: ModelLayout, requested: str | None) -> tuple[DType, list[Finding]]:
    """The dtype to write, and a finding for every type of the source.

    Float16 matrices stay float16; everything else becomes bfloat16, which quantized models' families were trained in.

    Raises:
        UsageError: `requested` is no dtype.
        Refused: float16 was asked for, and vLLM refuses it for this family.
    """
    matrices = {kind for tensor in layout.tensors if len(tensor.shape) > 1 for kind in tensor.types}
    only_float16 = GGMLType.F16 in matrices and matrices <= {GGMLType.F16, GGMLType.F32}
    chosen = DType.FLOAT16 if only_float16 and layout.architecture.float16 else DType.BFLOAT16
    if requested is not None:
        chosen = _parse_dtype(requested)
    if chosen is DType.FLOAT16 and not layout.architecture.float16:
        raise Refused(f"vLLM does not run {layout.architecture.model_type} in float16", hint="--dtype bfloat16")
    return chosen, [
        Finding(
            f"weights {share.type.name}",
            _fidelity(share.type, chosen),
            f"{share.tensors} tensors, {share.nbytes / 1e6:.1f} MB",
            chosen.value,
            _fidelity_reason(share.type, chosen),
        )
        for share in layout.header.type_shares()
    ]


def _parse_dtype(name: str) -> DType:
    try:
        return DType(name)
    except ValueError:
        raise UsageError(f"dtype {name!r}: one of {', '.join(DType)}") from None


def _fidelity(source: GGMLType, target: DType) -> Status:
    lossless = {
        GGMLType.F32: {DType.FLOAT32},
        GGMLType.F16: {DType.FLOAT16, DType.FLOAT32},
        GGMLType.BF16: {DType.BFLOAT16, DType.FLOAT32},
    }
    if source.is_quantized or target in lossless.get(source, set()):
        return Status.EXACT
    return Status.EQUIVALENT if source is GGMLType.F32 else Status.APPROXIMATE


def _fidelity_reason(source: GGMLType, target: DType) -> str:
    step = {DType.BFLOAT16: "2^-8", DType.FLOAT16: "2^-11", DType.FLOAT32: "2^-24"}[target]
    if source.is_quantized:
        return f"dequantized to float32 and rounded to nearest even (relative error at most {step})"
    if _fidelity(source, target) is Status.EXACT:
        return "the same values"
    if source is GGMLType.F32:
        return f"rounded to nearest even (relative error at most {step}); none if the original was {target.value}"
    return f"rounded to nearest even (relative error at most {step})"


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise UsageError(f"{directory}: not a directory")
    if any(directory.iterdir()):
        raise OutputExists(f"{directory}: not empty")
