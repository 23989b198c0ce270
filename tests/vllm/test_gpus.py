"""Names of GPUs and what they run."""

from __future__ import annotations

import pytest

from migrate.errors import UsageError
from migrate.vllm import gpus


@pytest.mark.parametrize(
    ("text", "capability"),
    [
        *[("8.9", (8, 9)), ("89", (8, 9)), ("sm_90", (9, 0)), ("SM90a", (9, 0)), ("12.0", (12, 0)), ("sm120", (12, 0))],
        *[("NVIDIA H100", (9, 0)), ("rtx 4090", (8, 9)), ("GeForce RTX 3090", (8, 6)), ("Tesla T4", (7, 5))],
        *[("a10g", (8, 6)), ("L40S", (8, 9)), ("B200", (10, 0)), ("cpu", None)],
    ],
)
def test_parse(text: str, capability: gpus.Capability | None) -> None:
    assert gpus.parse(text).capability == capability


@pytest.mark.parametrize("text", ["", "gpu", "8.", "RX 7900", "8.9.1", "-1", "H1000", "100000"])
def test_what_nobody_knows(text: str) -> None:
    with pytest.raises(UsageError, match="table of GPUs"):
        gpus.parse(text)


def test_reaches() -> None:
    assert gpus.parse("T4").reaches(gpus.PACKED_INTEGERS)
    assert not gpus.parse("T4").reaches(gpus.BFLOAT16)
    assert gpus.parse("10.0").reaches(gpus.MXFP4)
    assert not gpus.parse("cpu").reaches((1, 0))
