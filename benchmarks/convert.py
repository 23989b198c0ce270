"""How fast a quantized GGUF becomes a bfloat16 checkpoint, and in how much memory.

    python benchmarks/convert.py [--layers 16] [--repeat 3] [--threads N] [--directory DIR]

Makes a Llama of 0.85 billion weights with the types of a Q4_K_M (random blocks), and a smaller one of half the layers;
converts each in a fresh process, and dequantizes the same tensors with gguf-py on one thread in pieces that fit the
cache. The difference between the two sizes cancels what it costs to start. Best of `--repeat`, alternating. As with
llama-quantize, writing ends in the page cache; `--durable` waits for the disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate.gguf.header import read_header
from migrate.gguf.types import GGMLType

HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 32_000
SCALES = {GGMLType.Q4_K: (0, 2), GGMLType.Q6_K: (208,)}


def tensors(layers: int) -> Iterator[tuple[str, tuple[int, ...], GGMLType]]:
    """Names, shapes (GGUF order) and types as llama-quantize mixes them for Q4_K_M."""
    q4, q6, f32 = GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.F32
    kv = HIDDEN // HEADS * KV_HEADS
    yield "token_embd.weight", (HIDDEN, VOCAB), q4
    yield "output.weight", (HIDDEN, VOCAB), q6
    yield "output_norm.weight", (HIDDEN,), f32
    for i in range(layers):
        better = q6 if i < layers // 8 or i >= 7 * layers // 8 or i % 3 == 2 else q4
        for name, shape, kind in (
            ("attn_norm", (HIDDEN,), f32),
            ("attn_q", (HIDDEN, HIDDEN), q4),
            ("attn_k", (HIDDEN, kv), q4),
            ("attn_v", (HIDDEN, kv), better),
            ("attn_output", (HIDDEN, HIDDEN), q4),
            ("ffn_norm", (HIDDEN,), f32),
            ("ffn_gate", (HIDDEN, INTERMEDIATE), q4),
            ("ffn_up", (HIDDEN, INTERMEDIATE), q4),
            ("ffn_down", (INTERMEDIATE, HIDDEN), better),
        ):
            yield f"blk.{i}.{name}.weight", shape, kind


def blocks(kind: GGMLType, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks with scales of a sensible size."""
    if kind is GGMLType.F32:
        return np.ones(count, np.float32).view(np.uint8)
    raw = rng.integers(0, 256, (count, kind.block_bytes), dtype=np.uint8)
    for at in SCALES[kind]:
        raw[:, at : at + 2] = rng.uniform(1e-4, 1e-2, (count, 1)).astype(np.float16).view(np.uint8)
    return raw.reshape(-1)


def write_model(path: Path, layers: int) -> None:
    """The synthetic model. Blocks repeat after a few MB; nothing measured here depends on their values."""
    import gguf

    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(4096)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([f"t{i}" for i in range(VOCAB)])
    writer.add_token_merges(["t 1"])
    writer.add_bos_token_id(1)
    patterns: dict[GGMLType, np.ndarray] = {}
    data = []
    for name, shape, kind in tensors(layers):
        count = int(np.prod(shape)) // kind.block_size
        pattern = patterns.setdefault(kind, blocks(kind, 1 << 15, rng)).reshape(-1, kind.block_bytes)
        raw_type = gguf.GGMLQuantizationType(int(kind))
        row_bytes = shape[0] // kind.block_size * kind.block_bytes
        dtype = np.float32 if kind is GGMLType.F32 else np.uint8
        writer.add_tensor_info(
            name,
            shape[::-1] if kind is GGMLType.F32 else (*shape[1:][::-1], row_bytes),
            np.dtype(dtype),
            count * kind.block_bytes,
            raw_type,
        )
        data.append((pattern, count))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout
    out = writer.fout[0]
    for pattern, count in data:
        whole, rest = divmod(count, len(pattern))
        writer.write_padding(out, out.tell())
        for _ in range(whole):
            out.write(pattern.data)
        out.write(pattern[:rest].data)
        writer.write_padding(out, out.tell())
    writer.close()


def peak_megabytes() -> float:
    """This process's largest resident memory (`ru_maxrss` would count the parent's at the time of the fork)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def convert(path: Path, threads: int | None, durable: bool) -> dict[str, float]:
    """One conversion, measured in this process."""
    from migrate.checkpoint.convert import convert_weights

    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        start = time.perf_counter()
        convert_weights(read_header(path), Path(directory), dtype="bfloat16", threads=threads, durable=durable)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "rss": peak_megabytes()}


def by_gguf_py(path: Path, piece: int = 1 << 19) -> dict[str, float]:
    """The same tensors to float32 by gguf-py, one thread, pieces of about `piece` weights, nothing written."""
    import gguf

    header = read_header(path)
    mapped = np.memmap(path, np.uint8, "r")
    start = time.perf_counter()
    for tensor in header.tensors.values():
        kind = gguf.GGMLQuantizationType(int(tensor.type))
        rows = mapped[tensor.offset : tensor.offset + tensor.nbytes].reshape(tensor.parameters // tensor.shape[0], -1)
        step = max(1, piece // tensor.shape[0])
        for first in range(0, len(rows), step):
            gguf.dequantize(rows[first : first + step], kind)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rss": peak_megabytes()}


def in_process(what: str, path: Path, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", what, str(path)]
    command += ["--threads", str(options.threads)] if options.threads else []
    command += ["--durable"] if options.durable else []
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--durable", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, path = options.child[0], Path(options.child[1])
        run = convert(path, options.threads, options.durable) if what == "migrate" else by_gguf_py(path)
        print(json.dumps(run))
        return
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        measure(Path(directory), options)


def measure(directory: Path, options: argparse.Namespace) -> None:
    sizes = {}
    for layers in (options.layers // 2, options.layers):
        path = directory / f"{layers}.gguf"
        write_model(path, layers)
        sizes[path] = read_header(path).parameter_count
    results: dict[tuple[str, Path], list[dict[str, float]]] = {}
    for _ in range(options.repeat):
        for what in ("gguf-py", "migrate"):
            for path in sizes:
                results.setdefault((what, path), []).append(in_process(what, path, options))
    small, large = sizes
    print(f"{'':10} {'weights':>9} {'seconds':>8} {'M/s':>7} {'peak MB':>8}")
    rates = {}
    for what in ("gguf-py", "migrate"):
        best = {path: min(run["seconds"] for run in results[what, path]) for path in sizes}
        for path, weights in sizes.items():
            rss = max(run["rss"] for run in results[what, path])
            print(f"{what:10} {weights / 1e9:8.2f}B {best[path]:8.2f} {weights / best[path] / 1e6:7.0f} {rss:8.0f}")
        rates[what] = (sizes[large] - sizes[small]) / (best[large] - best[small]) / 1e6
        print(f"{what:10} {'per weight':>9} {'':8} {rates[what]:7.0f}")
    print(f"ratio per weight, start-up cancelled: {rates['migrate'] / rates['gguf-py']:.2f}")


if __name__ == "__main__":
    main()
