"""What it costs to read the header of a large GGUF: the time and memory of a whole process.

    python benchmarks/read_header.py [--repeat 5] [--directory DIR]

Makes a sparse file of 1 GB with a vocabulary of 128 thousand tokens and 280 thousand merges, as Llama 3 has them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

TOKENS, MERGES = 128_256, 280_147
HIDDEN, LAYERS, SIZE = 4096, 32, 1 << 30

VERB = (
    "import contextlib, io; from migrate.cli.app import main\n"
    "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main({})"
)

PROGRAMS = {
    "python -c pass": "pass",
    "read_header": "from migrate.gguf.header import read_header; read_header(Path(sys.argv[1]))",
    "+ architecture": (
        "from migrate.gguf.header import read_header; from migrate.architectures import for_header;"
        "h = read_header(Path(sys.argv[1])); m = for_header(h).read(h); m.kv_bytes_per_token(); m.parameter_count"
    ),
    "+ all tokens": (
        "from migrate.gguf.header import read_header; h = read_header(Path(sys.argv[1]));"
        "h.get('tokenizer.ggml.tokens')[0]"
    ),
    "migrate inspect": VERB.format("['inspect', sys.argv[1]]"),
    "  --json": VERB.format("['inspect', sys.argv[1], '--json']"),
    "migrate --help": VERB.format("['--help']"),
}


def write_model(path: Path) -> None:
    from tests.gguf.build import TensorSpec, build

    metadata = {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 8192,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": 1024,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 8,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [f"token{i}" for i in range(TOKENS)],
        "tokenizer.ggml.token_type": [1] * TOKENS,
        "tokenizer.ggml.merges": [f"to ken{i}" for i in range(MERGES)],
        "tokenizer.ggml.bos_token_id": 128000,
        "tokenizer.ggml.eos_token_id": 128001,
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (HIDDEN, TOKENS), "output_norm.weight": (HIDDEN,)}
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (HIDDEN,),
            f"blk.{i}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.attn_k.weight": (HIDDEN, 1024),
            f"blk.{i}.attn_v.weight": (HIDDEN, 1024),
            f"blk.{i}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{i}.ffn_norm.weight": (HIDDEN,),
            f"blk.{i}.ffn_gate.weight": (HIDDEN, 1024),
            f"blk.{i}.ffn_up.weight": (HIDDEN, 1024),
            f"blk.{i}.ffn_down.weight": (1024, HIDDEN),
        }
    specs, offset = [], 0
    for name, shape in shapes.items():
        kind = "F32" if len(shape) == 1 else "Q4_0"
        spec = TensorSpec(name, shape, kind, data=b"", offset=offset)
        specs.append(spec)
        offset += -(-spec.nbytes // 32) * 32
    path.write_bytes(build(metadata, specs))
    os.truncate(path, max(SIZE, path.stat().st_size + offset))


def run(program: str, path: Path) -> tuple[float, float]:
    """Seconds and peak MB of a fresh interpreter."""
    # VmHWM, because ru_maxrss counts the parent's memory at the time of the fork.
    peak = "[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0]"
    code = f"import sys; from pathlib import Path; {program}\nprint({peak})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    start = time.perf_counter()
    child = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start, int(child.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "large.gguf"
        write_model(path)
        print(f"{path.stat().st_size / 1e9:.2f} GB, {TOKENS} tokens, {MERGES} merges; best of {options.repeat}")
        print(f"{'':16} {'seconds':>8} {'peak MB':>8}")
        for name, program in PROGRAMS.items():
            runs = [run(program, path) for _ in range(options.repeat)]
            print(f"{name:16} {min(s for s, _ in runs):8.3f} {max(m for _, m in runs):8.1f}")


if __name__ == "__main__":
    main()
