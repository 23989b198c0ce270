"""Rotary settings out of a tensor of ratios and out of metadata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.architectures import for_header
from migrate.architectures.rope import recover_llama3
from migrate.errors import Refused
from migrate.findings import Status
from tests.architectures.tiny import tiny_llama


def forward(theta: float, dim: int, factor: float, low: float, high: float, original: int) -> list[float]:
    """The ratios as a converter makes them: float32 frequencies, Llama-3's published rule."""
    frequencies = 1.0 / np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    ratios = []
    for frequency in frequencies.astype(np.float32):
        turns = original * float(frequency) / (2 * math.pi)
        if turns > high:
            ratios.append(1.0)
        elif turns < low:
            ratios.append(factor)
        else:
            smooth = (turns - low) / (high - low)
            ratios.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return [float(ratio) for ratio in np.array(ratios, np.float32)]


@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("factor", [8.0, 16.0, 32.0])
@pytest.mark.parametrize(("theta", "original"), [(500000.0, 8192), (500000.0, 512), (10000.0, 4096), (1e6, 32768)])
def test_usual_parameters_come_back(theta: float, dim: int, factor: float, original: int) -> None:
    assert recover_llama3(forward(theta, dim, factor, 1.0, 4.0, original), theta, dim) == {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }


@settings(deadline=None)
@given(
    factor=st.sampled_from([2.0, 4.0, 8.0, 32.0]),
    low=st.sampled_from([1.0, 2.0]),
    high=st.sampled_from([4.0, 8.0, 16.0]),
    original=st.sampled_from([2048, 6000, 8192, 10000]),
    theta=st.sampled_from([10000.0, 500000.0]),
)
def test_unusual_parameters_come_back_as_equals(
    factor: float, low: float, high: float, original: int, theta: float
) -> None:
    ratios = forward(theta, 128, factor, low, high, original)
    found = recover_llama3(ratios, theta, 128)
    assert found is not None
    again = forward(theta, 128, *(found[key] for key in FIELDS))  # type: ignore[arg-type]
    np.testing.assert_allclose(again, ratios, rtol=2e-4)


FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@settings(deadline=None)
@given(
    dim=st.sampled_from([8, 16, 24, 32]),
    factor=st.sampled_from([1.5, 3.0, 8.0, 32.0]),
    high=st.sampled_from([2.0, 4.0, 6.0]),
    original=st.integers(20, 40000),
    theta=st.sampled_from([10000.0, 25000.0, 500000.0, 1e6]),
)
def test_small_heads_have_few_ratios_to_go_by(
    dim: int, factor: float, high: float, original: int, theta: float
) -> None:
    ratios = forward(theta, dim, factor, 1.0, high, original)
    if max(ratios) == factor:
        found = recover_llama3(ratios, theta, dim)
        assert found is not None
        again = forward(theta, dim, *(found[key] for key in FIELDS))  # type: ignore[arg-type]
        np.testing.assert_allclose(again, ratios, rtol=2e-4)


NOT_LLAMA3: list[Sequence[float]] = [
    [1.0, 2.0, 3.0, 4.0],
    [4.0, 1.0, 1.0, 1.0],
    [1.0, float("nan"), 8.0, 8.0],
    [0.5, 1.0, 8.0, 8.0],
    [1.0, 8.0],
]


@pytest.mark.parametrize("ratios", NOT_LLAMA3)
def test_other_ratios_are_not_explained(ratios: Sequence[float]) -> None:
    assert recover_llama3(ratios, 10000.0, 8) is None


def rope_of(directory: Path, metadata: dict[str, Any], ratios: Sequence[float] | None = None) -> dict[str, Any]:
    tensors = {} if ratios is None else {"rope_freqs.weight": (len(ratios),)}
    data = {} if ratios is None else {"rope_freqs.weight": np.array(ratios, np.float32).tobytes()}
    header = tiny_llama(directory, metadata, tensors, data)
    parameters: dict[str, Any] = for_header(header).read(header).config["rope_parameters"]
    return parameters


SCALINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"rope_type": "default", "rope_theta": 10000.0}),
    ({"llama.rope.freq_base": 5e5}, {"rope_type": "default", "rope_theta": 500000.0}),
    ({"llama.rope.scaling.type": "none"}, {"rope_type": "default", "rope_theta": 10000.0}),
    (
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
        {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
    ({"llama.rope.scale_linear": 2.0}, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    ({"llama.rope.scaling.factor": 4.0}, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    (
        {"llama.rope.scaling.type": "none", "llama.rope.scale_linear": 2.0},
        {"rope_type": "default", "rope_theta": 10000.0},
    ),
    (
        {
            "llama.rope.scaling.type": "yarn",
            "llama.rope.scaling.factor": 16.0,
            "llama.rope.scaling.original_context_length": 4096,
        },
        {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 16.0,
            "original_max_position_embeddings": 4096,
        },
    ),
]


YARN = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 8.0,
    "llama.rope.scaling.original_context_length": 64,
}
USUAL = 1.0 + 0.1 * math.log(8.0)


@pytest.mark.parametrize(
    ("key", "value", "factor", "differs"),
    [
        ("yarn_attn_factor", USUAL, USUAL, False),
        ("yarn_attn_factor", 1.3, 1.3, True),  # what the model was made with; llama.cpp does not read it
        ("attn_factor", 1.5, 1.5 * USUAL, False),  # what llama.cpp multiplies with
    ],
)
def test_attention_factor_of_yarn(tmp_path: Path, key: str, value: float, factor: float, differs: bool) -> None:
    header = tiny_llama(tmp_path, YARN | {f"llama.rope.scaling.{key}": value}, {}, {})
    layout = for_header(header).read(header)
    assert layout.config["rope_parameters"]["attention_factor"] == pytest.approx(factor, rel=1e-6)
    told = [f.item for f in layout.findings if f.status in (Status.APPROXIMATE, Status.DROPPED)]
    assert told == (["rope.scaling.yarn_attn_factor"] if differs else [])


@pytest.mark.parametrize(("metadata", "expected"), SCALINGS)
def test_scaling_in_metadata(tmp_path: Path, metadata: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope_of(tmp_path, metadata) == expected


def test_ratios_of_one_are_no_scaling(tmp_path: Path) -> None:
    assert rope_of(tmp_path, {}, [1.0] * 4) == {"rope_type": "default", "rope_theta": 10000.0}


def test_unexplained_ratios_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"rope_freqs\.weight is not Llama-3's"):
        rope_of(tmp_path, {}, [1.0, 2.0, 3.0, 4.0])


def test_two_kinds_of_scaling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="both"):
        rope_of(tmp_path, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, [1.0, 2.0, 8.0, 8.0])
