"""Which matrices stay quantized, and how: the plan behind `--weights repack` and `--weights requantize`.

*repack* moves Q4_0, Q5_0, Q8_0 and IQ4_NL without changing a number (see `packing`); what it cannot move stays dense.
*requantize* also takes every other quantized type, as 8-bit integers with a measured error (see `requantize`).

vLLM fuses q, k, v and gate, up into one matrix each and all experts of a layer into one kernel, and takes the scheme of
the first part for all. So a scheme is chosen per such group, as the smallest container that holds all of its types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from migrate.architectures.base import ModelLayout
from migrate.architectures.tensors import MappedTensor
from migrate.checkpoint.dense import Dense
from migrate.checkpoint.measured import Measured
from migrate.checkpoint.mxfp4 import QUANTIZATION_CONFIG, NativeMXFP4, is_native, native_mxfp4
from migrate.checkpoint.packing import BITS, PackQuantized, group_order, module_name, packable
from migrate.checkpoint.requantize import Requantized
from migrate.checkpoint.targets import compressed_tensors_config
from migrate.checkpoint.weights import Assignment
from migrate.errors import Refused, UsageError
from migrate.findings import Finding, Status
from migrate.gguf.types import DType

Way = Literal["repack", "requantize"]

_ALWAYS_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""What vLLM fuses wherever it occurs, in shared experts too. A scheme in common never hurts."""
_EXPERT = re.compile(r"^(.+\.experts)\.\d+\.[^.]+$")
_TABLES = re.compile(r"(?:^|\.)(?:\w*token_embd|position_embd|token_types|ffn_gate_inp\w*|ssm_conv1d\w*)\.")
"""Embeddings are looked up, routers and convolutions have no quantized form in vLLM."""
_HEAD = "output.weight"
_DENSE_HEAD = frozenset({"qwen3_next"})
"""Families whose class in vLLM 0.32 builds the output matrix without a quantization config."""


@dataclass(frozen=True, slots=True)
class RepackPlan:
    """How every tensor is stored. `quantization_config` is for `config.json`; None when nothing stays quantized.

    `requantized` and `rounded_scales` fill up while the weights are written; `measured_findings` tells of them then.
    """

    assignments: Sequence[Assignment]
    quantization_config: dict[str, Any] | None
    dtype: DType
    findings: Sequence[Finding]
    requantized: Measured = field(default_factory=Measured)
    rounded_scales: Measured = field(default_factory=Measured)

    def measured_findings(self) -> list[Finding]:
        """One finding per requantized tensor, worst first, and one on all rounded scales."""
        found = [
            Finding(
                f"requantized {error.name}",
                Status.APPROXIMATE,
                "",
                "8-bit integers, groups of 32",
                f"measured: relative RMS error {error.rms:.1e}, largest {error.maximum:.1e} of the largest weight",
            )
            for error in self.requantized.errors()
        ]
        if scales := self.rounded_scales.errors():
            worst = max(error.rms for error in scales)
            found.append(
                Finding(
                    "scales",
                    Status.APPROXIMATE,
                    f"float16 scales of {len(scales)} matrices",
                    self.dtype.value,
                    f"measured: relative RMS error at most {worst:.1e} per matrix (the bound is 2^-8 per scale)",
                )
            )
        return found


@dataclass(frozen=True, slots=True)
class _Group:
    """Matrices that must share a scheme. `fused`: the name of the module vLLM makes of them, "" when none."""

    members: tuple[MappedTensor, ...]
    fused: str = ""


@dataclass(frozen=True, slots=True)
class _Decision:
    """What becomes of a group: a container of `bits`, or 0 for dense, because of `reason`."""

    group: _Group
    bits: int = 0
    reason: str = ""


def plan_repack(layout: ModelLayout, *, way: Way, dtype: DType | None = None) -> RepackPlan:
    """The assignments for `write_weights`, and what `config.json` has to say about them.

    `dtype` None: for repack float16, in which scales stay as they are, unless vLLM refuses it for the family; bfloat16
    for requantize, as for dense weights.

    Raises:
        Refused: float16 for a family vLLM does not run in it.
        UsageError: float32, for which there are no kernels.
        GGUFError: a tensor of a type that cannot be converted.
    """
    if native_mxfp4(layout):
        return _plan_mxfp4(layout, dtype)
    chosen = _choose_dtype(layout, way, dtype)
    decisions = [_decide(layout, group, way) for group in _groups(layout)]
    packed = {
        tensor.target: decision.bits for decision in decisions if decision.bits for tensor in decision.group.members
    }
    requantized, rounded = Measured(), Measured()
    dense, general = Dense(chosen), Requantized(chosen, requantized)
    exact = {bits: PackQuantized(bits, chosen, rounded) for bits in (4, 8)}
    assignments: list[Assignment] = []
    for tensor in layout.tensors:
        bits = packed.get(tensor.target)
        if bits is None:
            assignments.append((tensor, dense))
        else:
            assignments.append((tensor, exact[bits] if _moves_exactly(tensor) else general))
    config = _config(layout, decisions) if packed else None
    return RepackPlan(assignments, config, chosen, _findings(layout, decisions, chosen, way), requantized, rounded)


def _plan_mxfp4(layout: ModelLayout, dtype: DType | None) -> RepackPlan:
    if dtype not in (None, DType.BFLOAT16):
        raise Refused(f"vLLM runs MXFP4 experts in bfloat16, not in {dtype}", hint="Leave --dtype out.")
    dense, native = Dense(DType.BFLOAT16), NativeMXFP4()
    assignments: list[Assignment] = [(t, native if is_native(t) else dense) for t in layout.tensors]
    experts = sum(is_native(tensor) for tensor in layout.tensors)
    finding = Finding(
        "weights MXFP4",
        Status.EXACT,
        f"{experts} stacks of experts",
        "MXFP4 blocks and scales",
        "the same codes and exponents, in the layout of the family's own checkpoints; the rest is bfloat16",
    )
    return RepackPlan(assignments, dict(QUANTIZATION_CONFIG), DType.BFLOAT16, [finding])


def _choose_dtype(layout: ModelLayout, way: Way, requested: DType | None) -> DType:
    family = layout.architecture
    if requested is DType.FLOAT32:
        raise UsageError("quantized weights are computed with in float16 or bfloat16, not in float32")
    if requested is DType.FLOAT16 and not family.float16:
        raise Refused(f"vLLM does not run {family.model_type} in float16", hint="--dtype bfloat16")
    if requested is not None:
        return requested
    return DType.FLOAT16 if way == "repack" and family.float16 else DType.BFLOAT16


# -- groups ------------------------------------------------------------------------------------------------------------


def _groups(layout: ModelLayout) -> list[_Group]:
    """All matrices that vLLM could keep quantized, in groups; order of first appearance."""
    fused = {**_ALWAYS_FUSED, **{k: v for k, v in layout.architecture.fused.items() if k != "experts"}}
    names = {part: name for name, parts in fused.items() for part in parts}
    members: dict[tuple[str, str], list[MappedTensor]] = {}
    for tensor in layout.tensors:
        if not is_matrix(tensor):
            continue
        module = module_name(tensor)
        parent, _, leaf = module.rpartition(".")
        expert = _EXPERT.match(module)
        key = (expert[1], "") if expert else (parent, names[leaf]) if leaf in names else (module, "")
        members.setdefault(key, []).append(tensor)
    return [_Group(tuple(tensors), f"{parent}.{name}" if name else "") for (parent, name), tensors in members.items()]


def is_matrix(tensor: MappedTensor) -> bool:
    """What a linear layer multiplies with: neither a vector nor a table that is looked up."""
    return len(tensor.shape) > 1 and not any(_TABLES.search(info.name) for info in tensor.sources)


def _decide(layout: ModelLayout, group: _Group, way: Way) -> _Decision:
    types = {kind for tensor in group.members for kind in tensor.types}
    listed = ", ".join(sorted(kind.name for kind in types))
    if not any(kind.is_quantized for kind in types):
        return _Decision(group, 0, "not quantized")
    if reason := _family_reason(layout, group):
        return _Decision(group, 0, reason)
    if not all(packable(tensor) for tensor in group.members):
        return _Decision(group, 0, "no plain matrix with rows of whole groups of 32")
    exact = all(_moves_exactly(tensor) for tensor in group.members)
    if exact:
        return _Decision(group, max(BITS[kind] for kind in types))
    if way == "repack":
        movable = types <= BITS.keys()
        return _Decision(group, 0, "columns move within groups of 32" if movable else f"{listed}: no exact container")
    if _is_head(group):
        return _Decision(group, 0, f"{listed}: the output matrix is kept as it is, errors in it show most")
    return _Decision(group, 8)


def _family_reason(layout: ModelLayout, group: _Group) -> str:
    """Why vLLM 0.32 would not load a group of this family in a container; "" when it does."""
    family = layout.architecture
    if family.pooling:
        return "an embedding model: small, and its classes are not made for quantized layers"
    if family.model_type == "gpt_oss":
        return "a gpt-oss whose experts are not MXFP4: its class reads no other container"
    if _is_head(group) and family.model_type in _DENSE_HEAD:
        return f"vLLM's {family.model_type} has no quantized output matrix"
    return ""


def _is_head(group: _Group) -> bool:
    return any(info.name == _HEAD for tensor in group.members for info in tensor.sources)


def _moves_exactly(tensor: MappedTensor) -> bool:
    return tensor.types <= BITS.keys() and (tensor.columns is None or group_order(tensor.columns) is not None)


# -- what is told ------------------------------------------------------------------------------------------------------


def _config(layout: ModelLayout, decisions: Iterable[_Decision]) -> dict[str, Any]:
    containers: dict[int, list[tuple[str, ...]]] = {}
    for decision in decisions:
        modules = tuple(dict.fromkeys(module_name(tensor) for tensor in decision.group.members))
        fused = (decision.group.fused,) if decision.group.fused else ()
        containers.setdefault(decision.bits, []).append(modules + fused)
    names: Mapping[int, list[str]] = {
        bits: list(dict.fromkeys(name for group in groups for name in group)) for bits, groups in containers.items()
    }
    return compressed_tensors_config(layout.architecture.model_type, names)


def _findings(layout: ModelLayout, decisions: Sequence[_Decision], dtype: DType, way: Way) -> list[Finding]:
    return [
        *_packed_findings(decisions, dtype),
        *_dense_findings(decisions, dtype),
        *_table_findings(layout, dtype),
        *_float16_findings(layout, decisions, dtype, way),
    ]


def _packed_findings(decisions: Sequence[_Decision], dtype: DType) -> list[Finding]:
    found: list[Finding] = []
    for bits in (4, 8):
        tensors = [t for d in decisions if d.bits == bits for t in d.group.members]
        for exact in (True, False):
            chosen = [tensor for tensor in tensors if _moves_exactly(tensor) is exact]
            if chosen:
                found.append(_packed_finding(chosen, bits, dtype, exact))
    return found


def _packed_finding(tensors: Sequence[MappedTensor], bits: int, dtype: DType, exact: bool) -> Finding:
    kinds = "/".join(sorted({kind.name for tensor in tensors for kind in tensor.types}))
    target = f"{bits}-bit integers in groups of 32, {dtype.value} scales"
    count = f"{len(tensors)} matrices, {sum(tensor.parameters for tensor in tensors) / 1e6:.1f} M weights"
    if not exact:
        reason = "quantized anew; the error of every tensor is measured while it is written"
        return Finding(f"weights {kinds}", Status.APPROXIMATE, count, target, reason)
    if dtype is DType.FLOAT16:
        return Finding(f"weights {kinds}", Status.EXACT, count, target, "the same integers and the same scales")
    reason = f"the same integers; scales rounded to {dtype.value} (relative error at most 2^-8)"
    return Finding(f"weights {kinds}", Status.APPROXIMATE, count, target, reason)


def _dense_findings(decisions: Sequence[_Decision], dtype: DType) -> list[Finding]:
    reasons: dict[str, list[MappedTensor]] = {}
    for decision in decisions:
        if not decision.bits:
            reasons.setdefault(decision.reason, []).extend(decision.group.members)
    return [
        Finding(
            "matrices that stay dense",
            Status.EQUIVALENT,
            f"{len(tensors)} matrices ({tensors[0].target}{', ...' if len(tensors) > 1 else ''})",
            dtype.value,
            reason,
        )
        for reason, tensors in reasons.items()
    ]


def _table_findings(layout: ModelLayout, dtype: DType) -> list[Finding]:
    tables = [t for t in layout.tensors if len(t.shape) > 1 and not is_matrix(t)]
    quantized = [t for t in tables if any(kind.is_quantized for kind in t.types)]
    reason = "a table that is looked up, or a router: dequantized and rounded to nearest even"
    return [
        Finding(t.target, Status.EQUIVALENT, "/".join(k.name for k in t.types), dtype.value, reason) for t in quantized
    ]


def _float16_findings(layout: ModelLayout, decisions: Sequence[_Decision], dtype: DType, way: Way) -> list[Finding]:
    if way != "repack" or dtype is DType.FLOAT16 or not any(decision.bits for decision in decisions):
        return []
    why = (
        "as asked" if layout.architecture.float16 else f"vLLM does not run {layout.architecture.model_type} in float16"
    )
    return [Finding("dtype", Status.APPROXIMATE, "float16 scales", dtype.value, f"{why}; near-lossless only")]
