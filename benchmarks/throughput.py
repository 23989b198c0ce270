"""llama.cpp (Ollama's engine) on the original GGUF against vLLM on the bundle, both on this machine's CPU.

    python benchmarks/throughput.py [--model support-bot] [--gguf FILE] [--parallel 1] [--threads 1]
                                    [--plan '{"repeats": 3}'] [-o report.json]

Converts the model from the demo's store, starts both servers in the engines' environment, and measures them with
`migrate.parity.throughput`. `--parallel` is what OLLAMA_NUM_PARALLEL sets in Ollama; `--gguf` serves another file of
the same model. vLLM computes in float32 without compilation, as everywhere in these tests. It shows how to measure and
what a report looks like: a model this small on a machine this small says nothing about a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate import resources
from migrate.bundle import write
from migrate.engines import provision, vllm
from migrate.engines.llamacpp import LlamaCppEngine
from migrate.engines.supervisor import Process, free_port
from migrate.mapping.migration import plan as migration_of
from migrate.ollama.store import Store
from migrate.parity.report import Percentiles, ThroughputReport
from migrate.parity.throughput import Plan, measure
from migrate.parity.throughput.terminal import render_terminal

SERVER = """
import signal, sys, threading, xllamacpp
path, port, parallel, threads, context = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel, params.n_ctx = path, port, parallel, context * parallel
params.warmup = params.fit_params = params.ui = False
params.offline = True
params.cpuparams.n_threads = threads
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopped.set())
server = xllamacpp.Server(params)
stopped.wait()
"""


@contextmanager
def llamacpp(python: Path, gguf: Path, log: Path, parallel: int, threads: int) -> Iterator[LlamaCppEngine]:
    port = free_port()
    arguments = [str(gguf), str(port), str(parallel), str(threads), "1024"]
    with Process([python, "-I", "-c", SERVER, *arguments], name="llama.cpp", log=log) as process:
        engine = LlamaCppEngine(f"http://127.0.0.1:{port}", process=process)
        process.wait_ready(lambda: engine.generate("a", max_tokens=1), timeout=120)
        yield engine
        engine.close()


def markdown(report: ThroughputReport) -> str:
    """The rows for docs/benchmarks.md: each side under each load, then the ratios with their intervals."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"

    def times(values: Percentiles | None) -> str:
        return " / ".join(number(values[name]) for name in ("p50", "p95", "p99")) if values else "-"

    ratios = {(r.metric, r.concurrency, r.request_rate): r for r in report.ratios}
    lines = [
        "| load | | requests/min | tokens/s | first token, ms | between tokens, ms | end to end, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for load in report.loads:
        name = f"{load.concurrency} at a time" if load.concurrency else f"{load.request_rate:g}/min"
        numbers = f"{load.requests_per_min:,.0f} | {load.tokens_per_s:,.0f}"
        columns = " | ".join(times(values) for values in (load.ttft_ms, load.itl_ms, load.e2e_ms))
        lines.append(f"| {name} | {'llama.cpp' if load.side == 'source' else 'vLLM'} | {numbers} | {columns} |")
        if load.side == "target":
            cells = []
            for metric in ("requests_per_min", "tokens_per_s", "ttft_p50", "itl_p50", "e2e_p50"):
                found = ratios.get((metric, load.concurrency, load.request_rate))
                cells.append(f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})" if found else "-")
            lines.append(f"| | ratio | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="support-bot")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plan", default="{}", help="fields of migrate.parity.throughput.Plan, as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/benchmarks.md too")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    plan = Plan.model_validate_json(args.plan)
    engines = provision.ensure()
    with tempfile.TemporaryDirectory(prefix="throughput-") as directory:
        root = Path(directory)
        migration = migration_of(Store(resources.directory("demo-store")).load(args.model))
        assert migration.model.gguf is not None
        write.write(migration, root / "bundle")
        gguf = args.gguf or migration.model.gguf.path
        with (
            llamacpp(engines.python, gguf, root / "llamacpp.log", args.parallel, args.threads) as source,
            vllm.serve(
                root / "bundle",
                vllm=str(engines.vllm),
                args=vllm.COMPARE_ARGS,
                env=vllm.CPU_ENV,
                log=root / "vllm.log",
            ) as target,
        ):
            report = measure(
                root / "bundle",
                source,
                target,
                plan=plan,
                progress=lambda at: print(f"\r{at}   ", end="", file=sys.stderr),
            )
    from rich.console import Console

    Console(width=150).print(render_terminal(report))
    if args.markdown:
        print(markdown(report))
    if args.output:
        args.output.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
