"""Rotary embeddings: transformers' `rope_parameters` out of what a GGUF says. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from migrate.architectures.base import Source, shortest_float
from migrate.errors import Refused
from migrate.findings import Status

ROPE_FREQS = "rope_freqs.weight"
TOLERANCE = 1e-4
"""Relative. The tensor was made in float32 from float32 frequencies; neighbouring parameters differ far more."""


def rope_parameters(source: Source, head_dim: int, default_theta: float = 10_000.0) -> dict[str, Any]:
    """`rope_parameters` of a model whose heads are rotated whole.

    Raises:
        Refused: a scaling transformers has no words for.
    """
    theta = source.number("rope.freq_base", default_theta)
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    scaling = _metadata_scaling(source)
    ratios = source.floats(ROPE_FREQS)
    if ratios is None or all(ratio == 1.0 for ratio in ratios):
        return parameters | scaling
    if scaling:
        raise Refused(f"{source.header.path.name}: both {ROPE_FREQS} and rope.scaling metadata; no checkpoint has both")
    llama3 = recover_llama3(ratios, theta, head_dim)
    if llama3 is None:
        raise Refused(
            f"{source.header.path.name}: {ROPE_FREQS} is not Llama-3's rope scaling: no parameters reproduce it",
            hint="Use the original checkpoint if it can be had.",
        )
    shown = ", ".join(f"{key} {value:g}" for key, value in llama3.items())
    reason = f"recovered from the tensor; recomputing it gives the same values ({shown})"
    source.ledger.add(f"tensor {ROPE_FREQS}", Status.EQUIVALENT, f"{len(ratios)} ratios", "rope_parameters", reason)
    return parameters | {"rope_type": "llama3"} | llama3


def _metadata_scaling(source: Source) -> dict[str, Any]:
    """Linear and YaRN scaling from `<arch>.rope.scaling.*`; {} when there is none."""
    # llama.cpp takes a factor without a type for linear scaling, and scales nothing when the type is "none".
    kind = source.get("rope.scaling.type") or "linear"
    factor = source.number("rope.scaling.factor", 0.0) or source.number("rope.scale_linear", 0.0)
    original = source.integer("rope.scaling.original_context_length", 0)
    source.get("rope.scaling.finetuned")  # a remark; nothing computes with it
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor > 0.0:
        return _yarn(source, factor, original)
    raise Refused(f"{source.header.path.name}: rope scaling {kind!r} is not known for {source.header.architecture!r}")


def _yarn(source: Source, factor: float, original: int) -> dict[str, Any]:
    # Without a length of its own, llama.cpp and transformers alike take the context's.
    length = original or source.integer("context_length")
    parameters: dict[str, Any] = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
    for key, name in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        if (value := source.number(f"rope.scaling.{key}", 0.0)) > 0.0:
            parameters[name] = value
    return parameters | _attention_factor(source, factor)


def _attention_factor(source: Source, factor: float) -> dict[str, float]:
    """YaRN's attention factor, where the file names one; without it, it is 1 + 0.1 ln(factor) everywhere.

    llama.cpp multiplies that number with `attn_factor`; transformers' replaces it. `yarn_attn_factor` is transformers',
    written by llama.cpp's converter and read by nobody there.
    """
    usual = 1.0 + 0.1 * math.log(factor)
    if (multiplier := source.number("rope.scaling.attn_factor", 1.0)) != 1.0:
        return {"attention_factor": shortest_float(multiplier * usual)}
    key = "rope.scaling.yarn_attn_factor"
    if not (trained := source.number(key, 0.0)):
        return {}
    if not math.isclose(trained, usual, rel_tol=1e-4):
        reason = f"the model was made with this; llama.cpp does not read it and computes with {usual:.4f}"
        source.ledger.add(key, Status.APPROXIMATE, trained, f'"attention_factor": {trained:g}', reason)
    return {"attention_factor": trained}


def recover_llama3(ratios: Sequence[float], theta: float, head_dim: int) -> dict[str, float | int] | None:
    """Parameters of Llama-3's rope scaling that reproduce `ratios` (original over scaled frequency), or None.

    Wavelengths shorter than original / high_freq_factor keep their frequency, those longer than
    original / low_freq_factor are divided by `factor`, between them the frequency is interpolated linearly in
    original / wavelength. Multiplying the three others by one number changes nothing, so low_freq_factor is 1.
    """
    if len(ratios) != head_dim // 2 or not all(math.isfinite(ratio) and ratio >= 1.0 for ratio in ratios):
        return None
    factor = shortest_float(max(ratios))
    wavelengths = [2 * math.pi * theta ** (2 * i / head_dim) for i in range(head_dim // 2)]
    for original, high in _llama3_candidates(ratios, wavelengths, factor):
        expected = [llama3_ratio(wavelength, factor, 1.0, high, original) for wavelength in wavelengths]
        if all(math.isclose(a, b, rel_tol=TOLERANCE) for a, b in zip(expected, ratios, strict=True)):
            return {
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    return None


def llama3_ratio(wavelength: float, factor: float, low: float, high: float, original: float) -> float:
    """By how much Llama-3's scaling slows down one rotary frequency."""
    if wavelength < original / high:
        return 1.0
    if wavelength > original / low:
        return factor
    smooth = (original / wavelength - low) / (high - low)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def _llama3_candidates(
    ratios: Sequence[float], wavelengths: Sequence[float], factor: float
) -> Iterator[tuple[int, float]]:
    """Pairs (original context, high_freq_factor) worth trying, the usual ones first."""
    usual = [8192, *(1 << exponent for exponent in range(4, 21))]
    yield from ((original, 4.0) for original in usual)
    # In the interpolated stretch, smooth = slope / wavelength - offset, so two points give both; low_freq_factor is 1.
    between = [
        (1.0 / wavelength, (1.0 / ratio - 1.0 / factor) / (1.0 - 1.0 / factor))
        for ratio, wavelength in zip(ratios, wavelengths, strict=True)
        if 1.0 < ratio < factor
    ]
    if len(between) >= 2:
        (x0, y0), (x1, y1) = between[0], between[-1]
        slope = (y1 - y0) / (x1 - x0)
        offset = slope * x0 - y0
        if offset > 0.0:
            high = float(f"{1.0 + 1.0 / offset:.4g}")
            exact = slope * (high - 1.0)
            yield from ((original, high) for original in _rounded(exact))
        return
    # With fewer points several pairs give the same ratios, and any of them is the same model.
    for high in (4.0, 8.0, 6.0, 3.0, 2.0, 1.5, 1.1):
        if between:
            ((x, y),) = between
            yield from ((original, high) for original in _rounded((1.0 + y * (high - 1.0)) / x))
        else:
            first = next((w for w, ratio in zip(wavelengths, ratios, strict=True) if ratio > 1.0), wavelengths[-1])
            yield max(int(first), 1), high


def _rounded(original: float) -> list[int]:
    """Whole numbers the length of a context may be, when it comes out as `original`."""
    return sorted({number for number in (round(original / 100) * 100, round(original)) if number > 0})
