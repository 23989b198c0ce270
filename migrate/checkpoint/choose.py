"""`--weights auto` and `--target-gpu`: the way and the dtype that a named GPU runs, and why.

Decided from the file, the family and the GPU that was named; never from the machine this runs on. A way that changes
numbers more than rounding does (`requantize`) is never chosen, only pointed to.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrate.architectures.base import ModelLayout
from migrate.checkpoint.convert import Way, choose_dtype, plan_storage
from migrate.checkpoint.mxfp4 import native_mxfp4
from migrate.checkpoint.packing import PackQuantized
from migrate.checkpoint.repack import is_matrix
from migrate.checkpoint.requantize import Requantized
from migrate.errors import Refused
from migrate.findings import Finding, Status
from migrate.gguf.types import DType
from migrate.vllm import gpus
from migrate.vllm.gpus import Target

ENOUGH = 0.5
"""Share of the matrices' weights that must move unchanged before keeping them quantized is worth a mixed checkpoint."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`dtype` None leaves it to the way."""

    way: Way | None
    dtype: str | None
    findings: tuple[Finding, ...] = ()


def choose(
    layout: ModelLayout, target: Target, way: Way | None, *, auto: bool, dtype: str | None, merged: bool = False
) -> Choice:
    """What to write for `target`. `way` is what was asked for, when not `auto`; `merged`: an adapter is folded in.

    Raises:
        Refused: the GPU runs neither this way nor this dtype of the family.
        UsageError: `dtype` is unknown.
    """
    if auto:
        way, reason = _best(layout, target, merged)
    else:
        reason = "as asked"
        _check_way(layout, target, way)
    chosen = _dtype(layout, target, way, dtype)
    what = f"{way or 'as released'}{f', {chosen}' if chosen else ''}"
    item = "--weights auto" if auto else "--target-gpu"
    return Choice(way, chosen, (Finding(item, Status.EXACT, str(target), what, reason),))


def _best(layout: ModelLayout, target: Target, merged: bool) -> tuple[Way, str]:
    if merged:
        return "dense", "an adapter is folded in, which needs unquantized weights"
    if native_mxfp4(layout):
        if target.reaches(gpus.MXFP4):
            return "repack", "experts stay MXFP4, as the family is released"
        return "dense", f"MXFP4 has kernels from compute capability {_text(gpus.MXFP4)} on"
    if layout.architecture.pooling:
        return "dense", "an embedding model: small, and its classes are not made for quantized layers"
    if not target.reaches(gpus.PACKED_INTEGERS):
        return "dense", f"packed integers have kernels on GPUs from compute capability {_text(gpus.PACKED_INTEGERS)} on"
    if not layout.architecture.float16 and not target.reaches(gpus.BFLOAT16):
        return "dense", f"{layout.architecture.model_type} needs bfloat16 scales, which this GPU does not run"
    share, types = _exact_share(layout)
    if share >= ENOUGH:
        scales = "and scales" if layout.architecture.float16 else "unchanged; scales are rounded to bfloat16"
        return "repack", f"{share:.0%} of the matrices' weights ({types}) keep their integers {scales}"
    if not types:
        return "dense", "the file is not quantized"
    return "dense", (
        f"{share:.0%} of the matrices' weights could stay quantized unchanged (the file is a mixture of {types}); "
        "--weights requantize makes 8-bit integers of the others, with a small error that is measured"
    )


def _exact_share(layout: ModelLayout) -> tuple[float, str]:
    """The share of the matrices' weights that repacking moves unchanged, and the quantized types there are."""
    plan = plan_storage(layout, "repack")
    matrices = [(tensor, encoding) for tensor, encoding in plan.assignments if is_matrix(tensor)]
    moved = sum(tensor.parameters for tensor, encoding in matrices if isinstance(encoding, PackQuantized))
    total = sum(tensor.parameters for tensor, _ in matrices)
    types = sorted({kind.name for tensor, _ in matrices for kind in tensor.types if kind.is_quantized})
    return (moved / total if total else 0.0), ", ".join(types)


def _check_way(layout: ModelLayout, target: Target, way: Way | None) -> None:
    if way == "dense":
        return
    encodings = {type(encoding) for _, encoding in plan_storage(layout, way).assignments}
    needed = gpus.MXFP4 if native_mxfp4(layout) else gpus.PACKED_INTEGERS
    packed = native_mxfp4(layout) or encodings & {PackQuantized, Requantized}
    if packed and not target.reaches(needed):
        raise Refused(
            f"{target}: vLLM has no kernels for these weights below compute capability {_text(needed)}",
            hint="--weights dense",
        )


def _dtype(layout: ModelLayout, target: Target, way: Way | None, dtype: str | None) -> str | None:
    """`dtype`, checked; or the one that an old GPU needs. None where any default will do."""
    old = target.capability is not None and not target.reaches(gpus.BFLOAT16)
    if dtype == DType.BFLOAT16 and old:
        raise Refused(f"{target}: bfloat16 needs compute capability {_text(gpus.BFLOAT16)}", hint="--dtype float16")
    if dtype is not None or not old:
        return dtype
    if layout.architecture.float16:
        return DType.FLOAT16.value
    if way in ("repack", "requantize"):
        raise Refused(
            f"{target} does not run bfloat16, and vLLM does not run {layout.architecture.model_type} in float16",
            hint="--weights dense --dtype float32",
        )
    choose_dtype(layout, DType.FLOAT32.value)
    return DType.FLOAT32.value


def _text(capability: gpus.Capability) -> str:
    return f"{capability[0]}.{capability[1]}"
