"""Every kernel gives gguf-py's float32, rounded to nearest even, to the last bit."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from migrate.errors import GGUFError
from migrate.gguf.dequantize import PIECE, Bytes, NonFiniteError, Workspace, check_convertible, convert
from migrate.gguf.types import DType, GGMLType

# Where the float16 scales of a block are, in bytes; random ones would often be NaN.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "IQ3_S": (0,),
    "IQ3_XXS": (0,),
    "IQ2_S": (0,),
    "IQ2_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ1_S": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
}


def random_blocks(kind: GGMLType, count: int, seed: int = 1) -> Bytes:
    """Any bits at all in the quants; scales of all finite sizes, both signs, zero and subnormal included."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    for at in SCALES[kind.name]:
        exponent = rng.integers(0, 28, (count, 1)) << 10
        bits = exponent | rng.integers(0, 1024, (count, 1)) | (rng.integers(0, 2, (count, 1)) << 15)
        raw[:, at : at + 2] = bits.astype(np.uint16).view(np.uint8)
    return raw.reshape(-1)


def reference(raw: Bytes, kind: GGMLType) -> npt.NDArray[np.float32]:
    floats: npt.NDArray[np.float32] = gguf.dequantize(
        raw.reshape(-1, kind.block_bytes), gguf.GGMLQuantizationType(int(kind))
    )
    return floats.reshape(-1)


def rounded(floats: npt.NDArray[np.float32], dtype: DType) -> Bytes:
    """To `dtype`, to nearest even; bfloat16 through exact arithmetic instead of bits."""
    if dtype is DType.FLOAT32:
        return floats.view(np.uint8)
    if dtype is DType.FLOAT16:
        return floats.astype(np.float16).view(np.uint8)
    exponent = np.maximum(np.frexp(floats.astype(np.float64))[1], -125)
    quantum = np.ldexp(1.0, exponent - 8)
    nearest = np.rint(floats.astype(np.float64) / quantum) * quantum
    nearest = np.copysign(nearest, floats)
    upper: npt.NDArray[np.uint16] = (nearest.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return upper.view(np.uint8)


def converted(raw: Bytes, kind: GGMLType, dtype: DType) -> Bytes:
    out = np.empty(raw.size // kind.block_bytes * kind.block_size * dtype.itemsize, np.uint8)
    convert(raw, kind, out, dtype, Workspace())
    return out


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("name", SCALES)
def test_random_blocks_as_gguf_py(name: str, dtype: DType) -> None:
    kind = GGMLType[name]
    raw = random_blocks(kind, PIECE // kind.block_size + 37 if kind.block_size == 32 else 700)
    expected = reference(raw, kind)
    if dtype is DType.FLOAT16:
        expected = np.clip(expected, -60000, 60000)
        fits = np.abs(reference(raw, kind).reshape(-1, kind.block_size)).max(axis=1) < 60000
        raw = np.ascontiguousarray(raw.reshape(-1, kind.block_bytes)[fits]).reshape(-1)
        expected = reference(raw, kind)
    assert raw.size
    np.testing.assert_array_equal(converted(raw, kind, dtype), rounded(expected, dtype))


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("name", ["MXFP4", "NVFP4"])
def test_microscaling_formats_as_gguf_py(name: str, dtype: DType) -> None:
    kind = GGMLType[name]
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 256, (253, kind.block_bytes), dtype=np.uint8)
    if name == "MXFP4":  # the scale is 2^(byte - 127)
        raw[:, 0] = rng.integers(90, 140, 253) if dtype is DType.FLOAT16 else np.arange(253)
    else:
        raw[:, :4] &= 0x3F
    flat = raw.reshape(-1)
    np.testing.assert_array_equal(converted(flat, kind, dtype), rounded(reference(flat, kind), dtype))


@pytest.mark.parametrize("dtype", list(DType))
def test_iq1_m_as_gguf_py(dtype: DType) -> None:
    """Its float16 scale lies in the upper four bits of four words."""
    kind = GGMLType.IQ1_M
    raw = np.random.default_rng(4).integers(0, 256, (700, kind.block_bytes), dtype=np.uint8)
    raw[:, -1] &= 0xBF  # neither NaN nor infinite, nor too large for float16
    flat = raw.reshape(-1)
    expected = reference(flat, kind)
    assert np.unique(expected).size > 1000
    np.testing.assert_array_equal(converted(flat, kind, dtype), rounded(expected, dtype))


def test_every_type_gguf_py_reads_is_here() -> None:
    from gguf.quants import _type_traits

    for kind in _type_traits:
        check_convertible(GGMLType[kind.name], "x")
    tried = {*SCALES, "MXFP4", "NVFP4", "IQ1_M", "F32", "F16", "BF16"}
    assert {kind.name for kind in _type_traits} | {"F32", "F16"} == tried


@pytest.mark.parametrize("bad", [0x7E00, 0x7C00, 0xFC00, 0xFFFF])
@pytest.mark.parametrize("name", SCALES)
def test_nan_and_infinite_scales_are_found(name: str, bad: int) -> None:
    kind = GGMLType[name]
    for at in SCALES[name]:
        raw = random_blocks(kind, 300).reshape(-1, kind.block_bytes)
        raw[-1] = 255  # no zero quants, whose product with an infinite scale would be NaN anyway
        raw[-1, at : at + 2] = np.array([bad], np.uint16).view(np.uint8)
        with pytest.raises(NonFiniteError):
            converted(raw.reshape(-1), kind, DType.BFLOAT16)


FLOATS = np.array([0.0, -0.0, 1.0, -1.5, 1 / 3, 65504.0, 1e-8, 2.0**-24, 3.0e-39, 1.00390625, 1.01171875], np.float32)


@pytest.mark.parametrize("dtype", list(DType))
def test_floats_to_floats(dtype: DType) -> None:
    sources = {
        GGMLType.F32: FLOATS.view(np.uint8),
        GGMLType.F16: FLOATS.astype(np.float16).view(np.uint8),
        GGMLType.BF16: rounded(FLOATS, DType.BFLOAT16),
    }
    for kind, raw in sources.items():
        if dtype is DType.FLOAT16 and kind is GGMLType.BF16:
            raw = rounded(np.minimum(FLOATS, 1.0), DType.BFLOAT16)  # 65504 rounds up to what float16 cannot hold
        np.testing.assert_array_equal(converted(raw, kind, dtype), rounded(reference(raw, kind), dtype))


@pytest.mark.parametrize(("kind", "dtype"), [(GGMLType.F16, DType.FLOAT16), (GGMLType.BF16, DType.BFLOAT16)])
def test_same_type_passes_through_untouched(kind: GGMLType, dtype: DType) -> None:
    finite = np.arange(0x7800, dtype=np.uint16).view(np.uint8)
    np.testing.assert_array_equal(converted(finite, kind, dtype), finite)


@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.BF16])
def test_nan_weights_are_found(kind: GGMLType, dtype: DType) -> None:
    words = np.uint32 if kind is GGMLType.F32 else np.uint16
    nan = {GGMLType.F32: 0x7FC00001, GGMLType.F16: 0x7E00, GGMLType.BF16: 0x7FC1}[kind]
    raw = np.zeros(PIECE + 5, words)
    raw[-2] = nan
    with pytest.raises(NonFiniteError):
        converted(raw.view(np.uint8), kind, dtype)


def test_overflow_of_float16_is_found() -> None:
    with pytest.raises(NonFiniteError):
        converted(np.array([70000.0], np.float32).view(np.uint8), GGMLType.F32, DType.FLOAT16)


def test_integers_are_not_weights() -> None:
    check_convertible(GGMLType.IQ1_M, "x")
    with pytest.raises(GGUFError, match=r"tensor 'blk\.0\.x' is stored as I32"):
        check_convertible(GGMLType.I32, "blk.0.x")
