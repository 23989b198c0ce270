"""The measurement: run after run, one server at a time, within bounds; then the report.

A server that dies, or a load generator that cannot go on, ends it early: the report has what was measured until then,
and `errors` say why there is no more.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from migrate.engines.base import Conversation, Engine, Kind
from migrate.engines.http import LOOPBACK, JsonClient, base_url
from migrate.errors import EngineError, MissingExtra, NotFound, UsageError
from migrate.parity.facts import Bundle, read_bundle
from migrate.parity.report import Load, Ratio, ThroughputReport
from migrate.parity.throughput import aiperf, gpu, vllm_bench
from migrate.parity.throughput.compare import goal_of, load_of, ratios
from migrate.parity.throughput.plan import SIDES, Plan, Point, Side, Slot, schedule
from migrate.parity.throughput.records import Job, Measured, Tool, measured
from migrate.parity.throughput.workload import Workload, body, read_tokenizer, usable

UNLIMITED = 1 << 62
Runs = dict[tuple[Point, Side], list[Measured]]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a measurement is: run `run` of `runs` (from 1), with `done` of `wanted` requests."""

    run: int
    runs: int
    slot: Slot
    done: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"run {self.run} of {self.runs}: {self.slot.side}, {self.slot.point}, {min(self.done, self.wanted)} of "
            f"{self.wanted} requests"
        )


@dataclass(frozen=True, slots=True)
class Server:
    """One side, as a load generator needs it. `slots`: requests it serves at a time, where it tells."""

    kind: Kind
    url: str
    model: str
    api_key: str | None = None
    slots: int | None = None

    @property
    def is_local(self) -> bool:
        return base_url(self.url).host in LOOPBACK


def measure(
    bundle: Path,
    source: Engine,
    target: Engine,
    *,
    plan: Plan | None = None,
    conversations: Sequence[Conversation] = (),
    tool: Tool | None = None,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> ThroughputReport:
    """Measures both servers with the same work: the user's `conversations`, else what `plan` says.

    `target` is vLLM's server on `bundle`, `source` Ollama's or llama.cpp's. `tool` is found (aiperf: installed) from
    the plan when it is not given. Raises what cannot be right before anything is measured: NotFound or BadInput for
    the bundle, MissingExtra without scipy, UsageError when no prompt fits, EngineError when a server cannot be asked.
    """
    plan = plan or Plan()
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtra("intervals need scipy", hint="pip install 'ollama-to-vllm[parity]'")
    opened = read_bundle(bundle)
    if opened.is_embedding:
        raise UsageError(f"{bundle} serves embeddings; throughput is measured for models that answer")
    servers = {"source": server_of(source), "target": server_of(target)}
    workload = _workload(opened, source, target, plan, conversations)
    caveats = _caveats(servers, workload, opened, plan, conversations)
    if tool is None:
        tool = aiperf.find() if plan.tool == "aiperf" else vllm_bench.find()
    started = time.monotonic()
    runs, made, errors = _make_runs(plan, servers, workload, opened.model, tool, progress)
    loads: list[Load] = []
    every_ratio: list[Ratio] = []
    for point in plan.points:
        ours, theirs = (runs.get((point, side), []) for side in SIDES)
        loads += [
            load_of(side, point, done, plan.slo) for side, done in zip(SIDES, (ours, theirs), strict=True) if done
        ]
        every_ratio += ratios(point, ours, theirs, plan)
    target_rate = runs.get((Point(request_rate=plan.request_rate), "target"), [])
    length = next((load.output_tokens for load in loads if load.request_rate and load.side == "target"), 0.0)
    return ThroughputReport(
        tool=tool.name,
        workload=workload.describe(),
        order=[str(slot) for slot in made],
        seed=plan.seed,
        loads=loads,
        ratios=every_ratio,
        goal=goal_of(target_rate, plan, length),
        caveats=caveats + _seen(loads, workload) + _unstreamed(runs),
        errors=errors,
        seconds=round(time.monotonic() - started, 1),
    )


def server_of(engine: Engine) -> Server:
    """What a load generator needs to know of an engine. Raises EngineError when it does not answer."""
    url, model = str(getattr(engine, "url", "")), str(getattr(engine, "model", "model"))
    if engine.kind == "vllm":
        return Server("vllm", url, model, api_key=os.environ.get("VLLM_API_KEY") or None)
    if engine.kind == "ollama":
        return Server("ollama", url, model)
    client = JsonClient(url, label="llama.cpp", timeout=30.0)
    try:
        props = client.get("/props")
    finally:
        client.close()
    slots = props.get("total_slots") if isinstance(props, dict) else None
    return Server("llama.cpp", url, model, slots=slots if isinstance(slots, int) else None)


def _workload(
    bundle: Bundle, source: Engine, target: Engine, plan: Plan, conversations: Sequence[Conversation]
) -> Workload:
    chosen = usable(conversations)
    if conversations and not chosen:
        raise UsageError("none of the conversations ends with a question to answer")
    return Workload(
        plan=plan,
        output_tokens=min(plan.output_tokens, _answer_limit(bundle) or plan.output_tokens),
        fixed_length=source.kind != "ollama",
        target=target,
        tokenizer=read_tokenizer(bundle.model),
        context=min(engine.context_length() or UNLIMITED for engine in (source, target)),
        conversations=chosen,
    )


def _answer_limit(bundle: Bundle) -> int | None:
    """`max_new_tokens` of generation_config.json, which vLLM takes for the most that a request may ask for."""
    limit = bundle.model_json("generation_config.json").get("max_new_tokens")
    return limit if isinstance(limit, int) and limit > 0 else None


def _make_runs(
    plan: Plan,
    servers: dict[str, Server],
    workload: Workload,
    model: Path,
    tool: Tool,
    progress: Callable[[Progress], None],
) -> tuple[Runs, list[Slot], list[str]]:
    """(runs, the slots in the order made, errors)."""
    runs: Runs = {}
    made: list[Slot] = []
    errors: list[str] = []
    slots = schedule(plan)
    deadline = time.monotonic() + plan.total_seconds
    for number, slot in enumerate(slots, start=1):
        if time.monotonic() > deadline:
            errors.append(f"the time of {plan.total_seconds:g} s was over")
            break
        try:
            job = _job(slot, plan, servers[slot.side], workload, model)
            wanted = len(job.bodies)

            def told(done: int, number: int = number, slot: Slot = slot, wanted: int = wanted) -> None:
                progress(Progress(number, len(slots), slot, done, wanted))

            told(0)
            result, error = _one_run(tool, job, workload, local=servers[slot.side].is_local, watch=told)
        except (EngineError, NotFound) as failure:
            errors.append(f"{slot}: {failure}")
            break
        made.append(slot)
        runs.setdefault((slot.point, slot.side), []).append(result)
        if result.errors:
            what = f"{result.errors} of {result.offered} requests failed, the first with: {result.first_error}"
            errors.append(f"{slot}: {what}")
        if error:
            errors.append(f"{slot}: {error}")
        if not result.requests:
            errors.append(f"{slot}: no request was answered, so nothing more was measured")
            break
        told(wanted)
    if left := len(slots) - len(made):
        errors.append(f"{left} of {len(slots)} runs were not made")
    return runs, made, errors


def _job(slot: Slot, plan: Plan, server: Server, workload: Workload, model: Path) -> Job:
    warmup = plan.warmup_at(slot.point)
    prompts = workload.prompts(slot.point, slot.repeat, warmup + plan.requests_at(slot.point))
    length, fixed = workload.output_tokens, workload.fixed_length
    return Job(
        url=server.url,
        model=server.model,
        route="completions" if server.kind == "llama.cpp" else "chat/completions",
        bodies=[body(server.kind, server.model, p, output_tokens=length, fixed_length=fixed) for p in prompts],
        warmup=warmup,
        point=slot.point,
        seconds=plan.run_seconds,
        request_timeout=plan.request_timeout,
        seed=plan.seed + slot.repeat,
        output_tokens=length,
        tokenizer=model,
        api_key=server.api_key,
    )


def _one_run(
    tool: Tool, job: Job, workload: Workload, *, local: bool, watch: Callable[[int], None]
) -> tuple[Measured, str]:
    """(what was measured, why it ended early). The GPU is watched only when the server runs on this machine."""
    with tempfile.TemporaryDirectory(prefix="migrate-load-") as directory, gpu.watch(enabled=local) as use:
        outcome = tool.run(job, Path(directory), watch)
    result = measured(outcome, workload.tokenizer, gpu_utilization=use.utilization, gpu_memory_gb=use.memory_gb)
    return result, outcome.error


def _caveats(
    servers: dict[str, Server],
    workload: Workload,
    bundle: Bundle,
    plan: Plan,
    conversations: Sequence[Conversation],
) -> list[str]:
    """What a reader of the numbers has to know, as far as it is known before they are there."""
    source = servers["source"]
    found = []
    if source.kind == "ollama":
        found.append(
            "Ollama knows neither ignore_eos nor min_tokens: both sides stop where the model does, at most after "
            f"{workload.output_tokens} tokens; compare tokens/s where the lengths differ"
        )
        found.append(
            "Ollama answers OLLAMA_NUM_PARALLEL requests at a time (1 unless it was set) and does not tell; the others "
            "wait, which is in their time to the first token"
        )
        found.append("the Modelfile's penalties are at work in Ollama; its OpenAI route cannot switch them off")
    else:
        found.append(
            "llama.cpp was given the target's token ids on /v1/completions: its chat endpoint renders the GGUF's own "
            "template; with ignore_eos it never samples an end token, where vLLM samples it and goes on"
        )
        if source.slots:
            found.append(f"llama.cpp answers {source.slots} at a time; others wait, as in Ollama (OLLAMA_NUM_PARALLEL)")
    if any(server.is_local for server in servers.values()):
        found.append(
            "the load generator ran on the same machine as a server and took processor time from it; the other server "
            "was idle meanwhile, but kept its memory"
        )
    if (limit := _answer_limit(bundle)) and limit < plan.output_tokens:
        found.append(f"answers of {limit} tokens instead of {plan.output_tokens}: the bundle allows no more")
    if dropped := len(conversations) - len(workload.conversations):
        found.append(f"{dropped} conversations were left out: they end with a begun answer")
    if plan.repeats < 3:
        found.append("fewer than three runs for each side and load: the intervals say little of how runs differ")
    return found


def _seen(loads: Sequence[Load], workload: Workload) -> list[str]:
    """What the numbers themselves give away."""
    found = []
    if workload.too_long:
        found.append(f"prompts that left no room for the answer were passed over {workload.too_long} times")
    for load in loads:
        where = f"{load.side}, {Point(load.concurrency, load.request_rate)}"
        said = load.reported_output_tokens
        if said and load.output_tokens and abs(load.output_tokens - said) > 0.05 * said:
            found.append(
                f"{where}: {load.output_tokens:g} tokens a request in the text, {said:g} as the server counts: "
                "special tokens or thoughts that it does not show"
            )
        if load.cut_off:
            found.append(f"{where}: {load.cut_off} requests were cut off by the time limit and are in no number")
    for source in (load for load in loads if load.side == "source"):
        same = (source.concurrency, source.request_rate)
        target = next((x for x in loads if x.side == "target" and (x.concurrency, x.request_rate) == same), None)
        ours = source.output_tokens
        if target and ours and abs(target.output_tokens - ours) > 0.05 * ours:
            found.append(
                f"{Point(*same)}: answers of {ours:g} tokens from the source and {target.output_tokens:g} from the "
                "target: compare tokens/s, not requests/min or end to end"
            )
    if 0 < (fewest := min((load.requests for load in loads), default=0)) < 100:
        found.append(f"the 99th percentile of {fewest} requests is nearly their slowest one")
    return found


def _unstreamed(runs: Runs) -> list[str]:
    """Answers that came all at once make the time to the first token as long as the whole."""
    counts = []
    for side in SIDES:
        requests = [r for (_, whose), done in runs.items() if whose == side for run in done for r in run.requests]
        if whole := sum(request.in_one_piece for request in requests):
            counts.append(f"{whole} of {len(requests)} from the {side}")
    if not counts:
        return []
    return [
        f"answers that came in one piece: {', '.join(counts)}; the processors were too busy to stream them, so their "
        "time to the first token is the whole time, and they have none between tokens"
    ]
