"""What the gateway adds: to one request, to a chunk of a stream, to a server under load, and in memory.

    python benchmarks/gateway.py [--parts overhead,vllm,memory] [--pairs 400] [--vllm URL --bundle DIR] [--json FILE]
    python benchmarks/gateway.py --record URL

`overhead`: a server that replays streams recorded from a real vLLM (tests/live/replaying.py), asked directly and
through the gateway in turn by one client; each difference is of two requests that followed one another. The replay
also sends an event every 5 ms and tells when: the way of a chunk is from there to the client. `vllm`: real vLLM on the
demo's support-bot (CPU, float32; `--vllm` takes one that runs), the same greedy requests on both sides: in pairs, one
at a time, then with aiperf (connections not kept) at several concurrencies. `memory`: resident memory of the gateway
over 10,000 requests of four kinds. `--record` makes fixtures/gateway anew from a vLLM that serves support-bot.

Client, gateway and server share the machine's cores. The load average before and after is part of the output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate import resources
from migrate.bundle import write
from migrate.engines import provision, vllm
from migrate.mapping.migration import plan as migration_of
from migrate.ollama.store import Store
from migrate.parity.throughput import aiperf
from migrate.parity.throughput.plan import Point
from migrate.parity.throughput.records import Job
from tests.live import replaying
from tests.live.gateway import Running, gateway

MODEL = "support-bot"
QUESTION: list[dict[str, str]] = [{"role": "user", "content": "Tell me a story about a fox."}]
CONCURRENCIES = (1, 8, 32, 200)
ANSWER_TOKENS = 32
PACE_MS = 5.0
Report = dict[str, Any]


# ---- helpers ---------------------------------------------------------------------------------------------------------


def bundle_of(root: Path) -> Path:
    migration = migration_of(Store(resources.directory("demo-store")).load(MODEL))
    write.write(migration, root / "bundle")
    return root / "bundle"


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def summary(values: list[float]) -> dict[str, float]:
    """Milliseconds, of seconds."""
    return {name: round(quantile(values, q) * 1e3, 3) for name, q in (("p50", 0.5), ("p99", 0.99))}


def timed(client: httpx.Client, url: str, body: dict[str, Any]) -> tuple[float, float, bytes]:
    """Seconds to the first piece of the body and to its end, and the body."""
    started = time.perf_counter()
    first, pieces = 0.0, []
    with client.stream("POST", url, json=body) as response:
        for piece in response.iter_raw():
            first = first or time.perf_counter() - started
            pieces.append(piece)
        assert response.status_code == 200, b"".join(pieces)
    return first, time.perf_counter() - started, b"".join(pieces)


def processor_time(process: int) -> float:
    """Seconds its first thread has run. Waiting for a core is not in it, so that a busy machine does not change it."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def paired(
    pairs: int, direct: tuple[str, dict[str, Any]], others: dict[str, tuple[str, dict[str, Any]]], process: int
) -> Report:
    """Each of `others` beside a request to `direct` of its own, in random order, one client, connections kept.

    `process`: the gateway's, for the processor time of each request.
    """
    used: dict[str, list[float]] = {name: [] for name in others}
    times: dict[str, dict[str, list[float]]] = {name: {"first": [], "total": []} for name in ("direct", *others)}
    added: dict[str, dict[str, list[float]]] = {name: {"first": [], "total": []} for name in others}
    random.seed(1)
    with httpx.Client(timeout=120) as client:
        for i in range(pairs + 20):
            for name, other in random.sample(list(others.items()), len(others)):
                found: dict[str, tuple[float, float, bytes]] = {}
                for side in random.sample(["direct", name], 2):
                    before = processor_time(process)
                    found[side] = timed(client, *(direct if side == "direct" else other))
                    if side == name and i >= 20:
                        used[name].append(processor_time(process) - before)
                if i < 20:  # warming up
                    continue
                for k, what in enumerate(("first", "total")):
                    ours, theirs = float(found[name][k]), float(found["direct"][k])
                    times[name][what].append(ours)
                    times["direct"][what].append(theirs)
                    added[name][what].append(ours - theirs)
    return {
        "gateway_cpu_ms": {name: round(1e3 * sum(values) / len(values), 3) for name, values in used.items()},
        "ms": {name: {what: summary(values) for what, values in found.items()} for name, found in times.items()},
        "added_ms": {
            name: {
                what: summary(values)
                | {
                    "p99_of_sides": round(
                        (quantile(times[name][what], 0.99) - quantile(times["direct"][what], 0.99)) * 1e3, 3
                    )
                }
                for what, values in found.items()
            }
            for name, found in added.items()
        },
    }


# ---- the parts -------------------------------------------------------------------------------------------------------


def overhead(running: Running, replay: replaying.Replay, pairs: int) -> Report:
    chat: dict[str, Any] = {"model": MODEL, "messages": QUESTION}
    replay.set()
    direct = (replay.url + "/v1/completions", {"model": MODEL, "prompt": "x", "stream": True})
    routes = {
        "/api/chat, streamed": (running.url + "/api/chat", chat),
        "/api/chat, whole": (running.url + "/api/chat", chat | {"stream": False}),
        "/v1/chat/completions, streamed": (running.url + "/v1/chat/completions", chat | {"stream": True}),
    }
    report = paired(pairs, direct, routes, running.process.pid)
    report["events"] = len(replaying.events("/v1/completions"))
    report["chunks"] = chunk_delays(replay, direct, routes["/api/chat, streamed"], answers=max(pairs // 20, 5))
    return report


def chunk_delays(replay: replaying.Replay, *sides: tuple[str, dict[str, Any]], answers: int) -> Report:
    """From the replay's socket to the client's, for each chunk with text of paced answers, sides in turn."""
    replay.set(pace_ms=PACE_MS)
    spoken = [i for i, event in enumerate(replaying.events("/v1/completions")) if replaying.text(event)]
    delays: tuple[list[float], ...] = ([], [])
    together = 0
    with httpx.Client(timeout=60) as client:
        for _ in range(answers):
            for k, (url, body) in enumerate(sides):
                arrivals: list[float] = []
                with client.stream("POST", url, json=body) as response:
                    for piece in response.iter_raw():
                        now = time.monotonic()
                        lines = [line for line in piece.split(b"\n") if _speaks(line)]
                        together += len(lines) > 1
                        arrivals += [now] * len(lines)
                sent = replay.stats.times
                assert len(arrivals) == len(spoken), (len(arrivals), len(spoken))
                delays[k].extend(at - sent[i] for at, i in zip(arrivals, spoken, strict=True))
    replay.set()
    direct, ours = summary(delays[0]), summary(delays[1])
    added = {q: round(ours[q] - direct[q], 3) for q in direct}
    return {"direct_ms": direct, "gateway_ms": ours, "added_ms": added, "arrived_together": together}


def _speaks(line: bytes) -> bool:
    """Whether a line of NDJSON or an event has text of the answer."""
    if line.startswith(b"data:"):
        return bool(replaying.text(line))
    return bool(line) and bool(json.loads(line)["message"]["content"])


def real(running: Running, url: str, bundle: Path, pairs: int, directory: Path) -> Report:
    options = {"temperature": 0, "num_predict": ANSWER_TOKENS}
    asked = {"model": MODEL, "messages": QUESTION}
    plain = asked | {"temperature": 0, "max_tokens": ANSWER_TOKENS, "stream": True}
    direct = (url + "/v1/chat/completions", plain)
    routes = {"/api/chat, streamed": (running.url + "/api/chat", asked | {"options": options})}
    with httpx.Client(timeout=120) as client:
        expected = _said(timed(client, *direct)[2])
        said = _said(timed(client, *routes["/api/chat, streamed"])[2])
    report = paired(pairs, direct, routes, running.process.pid)
    report["same_text"] = expected == said
    report["load"] = [under_load(n, running.url, url, bundle, directory) for n in CONCURRENCIES]
    return report


def _said(answer: bytes) -> str:
    lines = [line.strip() for line in answer.split(b"\n") if line.strip()]
    if lines[0].startswith(b"data:"):
        return "".join(replaying.text(line) for line in lines)
    return "".join(json.loads(line)["message"]["content"] for line in lines)


def under_load(concurrency: int, ours: str, theirs: str, bundle: Path, directory: Path) -> Report:
    """aiperf against each side in turn, twice: ABBA."""
    tool = aiperf.find()
    count = max(60, 2 * concurrency)
    words = ["fox", "train", "sea", "king", "robot", "garden", "clock", "winter"]
    bodies = [
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Tell me a story about a {words[i % 8]}."}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for i in range(count + 8)
    ]
    found: dict[str, list[Report]] = {"direct": [], "gateway": []}
    for i, side in enumerate(("direct", "gateway", "gateway", "direct")):
        place = directory / f"{concurrency}-{i}"
        place.mkdir()
        job = Job(
            url=theirs if side == "direct" else ours,
            model=MODEL,
            route="chat/completions",
            bodies=bodies,
            warmup=8,
            point=Point(concurrency=concurrency),
            seconds=240.0,
            request_timeout=120.0,
            seed=1,
            output_tokens=ANSWER_TOKENS,
            tokenizer=bundle / "model",
        )
        outcome = tool.run(job, place, lambda done: None)
        good = [a for a in outcome.answers if not a.error and not a.cut_off]
        assert good, outcome.error or [a.error for a in outcome.answers][:1]
        seconds = max(a.start + a.e2e_ms / 1e3 for a in good) - min(a.start for a in good)
        firsts = [a.ttft_ms / 1e3 for a in good if a.ttft_ms is not None]
        found[side].append(
            {
                "requests": len(good),
                "errors": len(outcome.answers) - len(good),
                "per_s": round(len(good) / seconds, 2),
                "tokens": sum(a.reported_tokens or 0 for a in good),
                "first_ms": summary(firsts),
                "total_ms": summary([a.e2e_ms / 1e3 for a in good]),
            }
        )
    rate = {side: sum(run["per_s"] for run in runs) / 2 for side, runs in found.items()}
    return {"concurrency": concurrency, "ratio": round(rate["gateway"] / rate["direct"], 3), **found}


async def memory(running: Running, replay: replaying.Replay, requests: int = 10_000, at_a_time: int = 16) -> Report:
    """RSS in MiB after some requests: streamed, whole, left in the middle, refused."""
    replay.set()
    chat: dict[str, Any] = {"model": MODEL, "messages": QUESTION}
    marks, rows, done = {1_000, 2_000, 5_000, requests}, {}, 0
    started = time.perf_counter()

    async def one(client: httpx.AsyncClient, kind: int) -> None:
        url = running.url + "/api/chat"
        if kind == 0:
            await client.post(url, json=chat)
        elif kind == 1:
            await client.post(url, json=chat | {"stream": False})
        elif kind == 2:
            async with client.stream("POST", url, json=chat) as response:
                await anext(response.aiter_raw())
        else:
            await client.post(url, json=chat | {"model": "nobody"})

    async with httpx.AsyncClient(timeout=60) as client:
        while done < requests:
            await asyncio.gather(*(one(client, (done + i) % 4) for i in range(min(at_a_time, requests - done))))
            before, done = done, min(done + at_a_time, requests)
            if any(before < mark <= done for mark in marks):
                rows[done] = round(running.memory / 2**20, 1)
    return {"rss_mib": rows, "per_s": round(requests / (time.perf_counter() - started), 1), "at_a_time": at_a_time}


def record(url: str) -> None:
    """Writes fixtures/gateway: the requests, and the bytes of a real vLLM's answers."""
    common = {
        "model": MODEL,
        "temperature": 0,
        "max_tokens": 64,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    prompt = f"<|im_start|>user\n{QUESTION[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    bodies = {"/v1/completions": common | {"prompt": prompt}, "/v1/chat/completions": common | {"messages": QUESTION}}
    for path, body in bodies.items():
        answer = httpx.post(url + path, json=body, timeout=120).raise_for_status().content
        (replaying.FIXTURES / replaying.RECORDED[path]).write_bytes(answer)
    (replaying.FIXTURES / "requests.json").write_text(json.dumps(bodies, indent=2) + "\n", encoding="utf-8")


# ---- putting it together ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def vllm_server(url: str | None, bundle: Path, root: Path) -> Iterator[str]:
    if url:
        yield url.rstrip("/")
        return
    engines = provision.ensure()
    args = vllm.COMPARE_ARGS
    with vllm.serve(bundle, vllm=str(engines.vllm), args=args, env=vllm.CPU_ENV, log=root / "vllm.log") as engine:
        yield engine.url


def markdown(report: Report) -> str:
    """The tables of docs/benchmarks.md."""
    lines: list[str] = []
    for part, title in (("overhead", "replayed answers"), ("vllm", "vLLM, one request at a time")):
        if part not in report:
            continue
        lines += [f"| {title}, ms | first piece p50 / p99 | whole answer p50 / p99 |", "|---|---|---|"]
        for name, found in report[part]["ms"].items():
            cells = [f"{found[w]['p50']:.2f} / {found[w]['p99']:.2f}" for w in ("first", "total")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        for name, found in report[part]["added_ms"].items():
            cells = [f"**{found[w]['p50']:.2f}** / {found[w]['p99']:.2f}" for w in ("first", "total")]
            lines.append(f"| added: {name} | {' | '.join(cells)} |")
        lines.append("")
    if "vllm" in report:
        lines += [
            "| at a time | requests/s direct | through the gateway | ratio | first token p50, ms |",
            "|---|---|---|---|---|",
        ]
        for load in report["vllm"]["load"]:
            rate = {s: sum(r["per_s"] for r in load[s]) / 2 for s in ("direct", "gateway")}
            first = {s: sum(r["first_ms"]["p50"] for r in load[s]) / 2 for s in ("direct", "gateway")}
            lines.append(
                f"| {load['concurrency']} | {rate['direct']:.1f} | {rate['gateway']:.1f} | {load['ratio']:.2f} "
                f"| {first['direct']:.0f} / {first['gateway']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="overhead,memory,vllm")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--vllm", metavar="URL", help="a vLLM that serves --bundle already")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--record", metavar="URL")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.record:
        record(args.record.rstrip("/"))
        return
    parts: dict[str, Callable[[Path, Path], Report]] = {
        "overhead": lambda root, bundle: with_replay(root, bundle, lambda g, r: overhead(g, r, args.pairs)),
        "memory": lambda root, bundle: with_replay(root, bundle, lambda g, r: asyncio.run(memory(g, r))),
        "vllm": lambda root, bundle: with_vllm(root, bundle, args),
    }
    report: Report = {"machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}"}
    report["load_average_before"] = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="gw-") as directory:
        bundle = args.bundle or bundle_of(Path(directory))
        for name in args.parts.split(","):
            root = Path(directory) / name
            root.mkdir()
            report[name] = parts[name](root, bundle.resolve())
    report["load_average_after"] = os.getloadavg()
    print(json.dumps(report, indent=1))
    print(markdown(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def with_replay(root: Path, bundle: Path, measure: Callable[[Running, replaying.Replay], Report]) -> Report:
    with replaying.serving(root / "replay.log") as replay:
        models: list[Mapping[str, Any]] = [{"bundle": bundle, "upstream": "a"}]
        with gateway(root, {"a": replay.url}, models) as running:
            return measure(running, replay)


def with_vllm(root: Path, bundle: Path, args: argparse.Namespace) -> Report:
    with vllm_server(args.vllm, bundle, root) as url:
        models: list[Mapping[str, Any]] = [{"bundle": bundle, "upstream": "a"}]
        with gateway(root, {"a": url}, models) as running:
            return real(running, url, bundle, max(args.pairs // 8, 20), root)


if __name__ == "__main__":
    main()
