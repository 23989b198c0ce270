"""A LoRA adapter from GGUF to PEFT's layout, which vLLM loads.

In a GGUF the two factors of a weight carry its name: `blk.0.attn_q.weight.lora_a` and `.lora_b`. The product b @ a has
the base weight's layout, so where llama.cpp moved rows of the weight it moved those of b, and they are moved back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.architectures.tensors import MappedTensor, Piece, copied
from migrate.architectures.variants import normalise
from migrate.checkpoint.dense import Dense
from migrate.checkpoint.merge import Factors, check_mergeable
from migrate.checkpoint.weights import output_tensors, write_weights
from migrate.checkpoint.writer import CheckpointWriter
from migrate.errors import GGUFError, Refused
from migrate.findings import Finding, Status
from migrate.gguf.dequantize import Workspace, convert
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.tensors import TensorReader
from migrate.gguf.types import DType, GGMLType

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_A, _B = ".lora_a", ".lora_b"
_DTYPES = {GGMLType.F16: DType.FLOAT16, GGMLType.BF16: DType.BFLOAT16}


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """What was written. `scale` is alpha / rank, by which the product of the factors is multiplied."""

    files: Sequence[str]
    nbytes: int
    rank: int
    alpha: float
    target_modules: Sequence[str]
    findings: Sequence[Finding]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class _Pair:
    """The factors of one weight: a is (rank, in), b is (out, rank), in torch's order."""

    base: MappedTensor
    a: TensorInfo
    b: TensorInfo

    @property
    def module(self) -> str:
        return self.base.target.removesuffix(".weight")

    def mapped(self) -> list[MappedTensor]:
        prefix = f"base_model.model.{self.module}"
        out, rank = self.b.torch_shape
        rows = tuple(Piece((self.b,), piece.rows) for piece in self.base.pieces)
        return [
            copied(f"{prefix}.lora_A.weight", self.a),
            MappedTensor(f"{prefix}.lora_B.weight", (out, rank), rank, rows),
        ]


def convert_adapter(
    adapter: GGUFHeader, base: GGUFHeader, out_dir: Path, *, base_name: str = "", threads: int | None = None
) -> AdapterReport:
    """Write `adapter` as a PEFT directory into `out_dir`, which exists. `base` is the model it was made for.

    Raises:
        GGUFError: factors are missing, of the wrong shape, or belong to no weight of `base`.
        Refused: the file is no LoRA, is for another architecture, or changes what vLLM cannot adapt.
    """
    _check_kind(adapter, base)
    layout = architectures.read(base)
    pairs = _pairs(adapter, layout)
    rank = _rank(adapter, pairs)
    alpha = _alpha(adapter, rank)
    mapped = [tensor for pair in pairs for tensor in pair.mapped()]
    dtype = _dtype(mapped)
    assignments = [(tensor, Dense(dtype)) for tensor in mapped]
    with CheckpointWriter(out_dir, output_tensors(assignments), single_file=WEIGHTS_FILE) as writer:
        write_weights(adapter, assignments, writer, threads=threads)
    used = {pair.module.rpartition(".")[2] for pair in pairs}
    targets = [name for name in layout.architecture.lora_targets if name in used]
    config = adapter_config(rank, alpha, targets, base_name)
    (out_dir / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    finding = Finding(
        "ADAPTER",
        Status.EXACT,
        f"{len(pairs)} weights, rank {rank}, alpha {alpha:g}",
        ", ".join(targets),
        "the same factors in PEFT's layout; rows of q and k in the order of the checkpoint",
    )
    nbytes = sum((out_dir / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE))
    return AdapterReport((CONFIG_FILE, WEIGHTS_FILE), nbytes, rank, alpha, targets, (finding,))


def merge_factors(adapter: GGUFHeader, base: GGUFHeader) -> dict[str, Factors]:
    """The factors of `adapter` as float32, by the name of the checkpoint's tensor they change.

    Raises:
        GGUFError: factors are missing, of the wrong shape, or belong to no weight of `base`.
        Refused: the file is no LoRA, is for another architecture, or adapts what is stored differently.
    """
    _check_kind(adapter, base)
    pairs = _pairs(adapter, architectures.read(base))
    scale = _alpha(adapter, rank := _rank(adapter, pairs)) / rank
    factors = {}
    with TensorReader(adapter) as reader:
        for pair in pairs:
            check_mergeable(pair.base)
            b = _floats(reader, pair.b)
            order = [row for piece in pair.base.pieces for row in piece.rows]
            factors[pair.base.target] = Factors(_floats(reader, pair.a), b[np.asarray(order)], scale)
    return factors


def _floats(reader: TensorReader, info: TensorInfo) -> npt.NDArray[np.float32]:
    rows, width = info.torch_shape
    raw = reader.rows(info, width, 0, rows, np.empty(info.nbytes, np.uint8))
    out = np.empty(rows * width * 4, np.uint8)
    convert(raw, info.type, out, DType.FLOAT32, Workspace())
    return out.view(np.float32).reshape(rows, width)


def adapter_config(rank: int, alpha: float, target_modules: Sequence[str], base_name: str) -> dict[str, Any]:
    """PEFT's `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(target_modules),
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _check_kind(adapter: GGUFHeader, base: GGUFHeader) -> None:
    base, _ = normalise(base)
    adapter, _ = normalise(adapter)
    name = adapter.path.name
    if adapter.kind != "adapter" or adapter.get("adapter.type") != "lora":
        raise Refused(f"{name}: not a LoRA adapter (general.type {adapter.kind!r})")
    if adapter.architecture != base.architecture:
        raise Refused(f"{name}: made for architecture {adapter.architecture!r}, the model is {base.architecture!r}")
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        raise Refused(f"{name}: an activated LoRA, which begins at a token; vLLM applies adapters to whole prompts")


def _pairs(adapter: GGUFHeader, layout: ModelLayout) -> list[_Pair]:
    by_source = {tensor.sources[0].name: tensor for tensor in layout.tensors if len(tensor.sources) == 1}
    names = [name.removesuffix(_A) for name in adapter.tensors if name.endswith(_A)]
    known = {name + suffix for name in names for suffix in (_A, _B)}
    if odd := [name for name in adapter.tensors if name not in known]:
        raise GGUFError(f"{adapter.path.name}: tensor {odd[0]!r} is not half of a pair {_A}, {_B}")
    if not names:
        raise GGUFError(f"{adapter.path.name}: an adapter without tensors")
    return [_pair(adapter, layout, name, by_source.get(name)) for name in names]


def _pair(adapter: GGUFHeader, layout: ModelLayout, name: str, base: MappedTensor | None) -> _Pair:
    if base is None:
        raise GGUFError(f"{adapter.path.name}: adapts {name!r}, which the model does not have")
    if name + _B not in adapter.tensors:
        raise GGUFError(f"{adapter.path.name}: tensor {name + _B!r} is missing")
    pair = _Pair(base, adapter.tensors[name + _A], adapter.tensors[name + _B])
    if pair.module.rpartition(".")[2] not in layout.architecture.lora_targets:
        raise Refused(f"{adapter.path.name}: adapts {name!r}; vLLM adapts linear layers inside the blocks only")
    a, b, shape = pair.a.torch_shape, pair.b.torch_shape, base.shape
    if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or a[0] != b[1]:
        raise GGUFError(f"{adapter.path.name}: factors {b} and {a} do not make {name!r} of shape {shape}")
    return pair


def _rank(adapter: GGUFHeader, pairs: Sequence[_Pair]) -> int:
    ranks = {pair.a.torch_shape[0] for pair in pairs}
    if len(ranks) > 1:
        raise Refused(f"{adapter.path.name}: ranks {sorted(ranks)} in one adapter; vLLM scales all by one rank")
    return ranks.pop()


def _alpha(adapter: GGUFHeader, rank: int) -> float:
    """llama.cpp multiplies with alpha / rank, and with 1 when alpha is absent or 0."""
    alpha = adapter.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, int | float):
        raise GGUFError(f"{adapter.path.name}: adapter.lora.alpha is {alpha!r}, not a number")
    return float(alpha) or float(rank)


def _dtype(tensors: Sequence[MappedTensor]) -> DType:
    """The stored dtype when it is one half-precision type, else float32."""
    kinds = {kind for tensor in tensors for kind in tensor.types}
    return _DTYPES.get(kinds.pop(), DType.FLOAT32) if len(kinds) == 1 else DType.FLOAT32
