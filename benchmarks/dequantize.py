"""Every block format to bfloat16 on one thread: our kernels beside gguf-py's, which stop at float32.

python benchmarks/dequantize.py [--million 4] [--repeats 3]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate.gguf.dequantize import PIECE, Workspace, convert
from migrate.gguf.types import DType, GGMLType

NAMES = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)

CUT = 1 << 19
"""Weights that gguf-py gets at a time: what fits the cache."""


def best(work: Callable[[], None], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def rates(kind: GGMLType, million: int, repeats: int) -> tuple[float, float]:
    """Million weights per second: gguf-py's and ours."""
    count = million * 1_000_000 // PIECE * PIECE
    # Small bytes keep the scales finite wherever a type has them.
    raw = np.random.default_rng(1).integers(0, 60, count // kind.block_size * kind.block_bytes, dtype=np.uint8)
    out, work = np.empty(count * 2, np.uint8), Workspace()
    quantization = gguf.GGMLQuantizationType(int(kind))
    step = CUT // kind.block_size * kind.block_bytes

    def theirs() -> None:
        for first in range(0, raw.size, step):
            gguf.dequantize(raw[first : first + step].reshape(-1, kind.block_bytes), quantization)

    def ours() -> None:
        convert(raw, kind, out, DType.BFLOAT16, work)

    return count / best(theirs, repeats) / 1e6, count / best(ours, repeats) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--million", type=int, default=4, help="weights per type")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'type':8} {'gguf-py':>10} {'migrate':>10} {'ratio':>6}   (million weights per second)")
    for name in NAMES:
        theirs, ours = rates(GGMLType[name], options.million, options.repeats)
        print(f"{name:8} {theirs:10.0f} {ours:10.0f} {ours / theirs:6.2f}", flush=True)


if __name__ == "__main__":
    main()
