"""Throughput for the page: what its tables say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from migrate.parity.render import charts, words
from migrate.parity.render.text import Listed, first, line, number, percent, sentence
from migrate.parity.report import Load, Percentiles, Ratio, ThroughputReport

MAX_ROWS = 200


def headline_ratios(throughput: ThroughputReport | None) -> list[Ratio]:
    """Of the rate: at the smallest and at the largest concurrency, since vLLM may lose at the one and win at the
    other."""
    if throughput is None:
        return []
    for name in ("requests_per_min", "tokens_per_s"):
        found = [r for r in throughput.ratios if r.metric == name and r.concurrency is not None]
        found.sort(key=lambda r: r.concurrency or 0)
        if found:
            return found if len(found) == 1 else [found[0], found[-1]]
    return []


def view(found: ThroughputReport) -> dict[str, Any]:
    """The values that the template needs of a throughput run."""
    loads, more = first(sorted(found.loads, key=_load_order), MAX_ROWS)
    measured = {load.concurrency for load in found.loads if load.concurrency is not None}
    return {
        "tool": line(found.tool, 120),
        "workload": line(found.workload),
        "seed": found.seed,
        "seconds": number(found.seconds),
        "order": line(" → ".join(line(step, 60) for step in found.order[:MAX_ROWS]), 2000),
        "goal": _goal(found),
        "loads": [_load(load) for load in loads],
        "more_loads": more,
        "ratios": [_ratio(ratio) for ratio in found.ratios[:MAX_ROWS]],
        "more_ratios": max(0, len(found.ratios) - MAX_ROWS),
        "errors": sum(load.errors for load in found.loads),
        "wrong": Listed.of(found.errors),
        "cut_off": any(load.cut_off for load in found.loads),
        "counted": any(load.reported_output_tokens is not None for load in found.loads),
        "single": 1 in measured or not measured,
        "gpu": any(load.gpu_utilization is not None or load.gpu_memory_gb is not None for load in found.loads),
        "goodput": any(load.goodput_per_min is not None for load in found.loads),
        "caveats": Listed.of(found.caveats),
    }


def _load_order(load: Load) -> tuple[bool, float, bool]:
    """Closed loops by concurrency, then open loops by rate; the source above the target."""
    closed = load.concurrency is not None
    return not closed, float(load.concurrency or load.request_rate or 0), load.side == "target"


def _goal(found: ThroughputReport) -> dict[str, Any] | None:
    if (goal := found.goal) is None:
        return None
    return {
        "reached": goal.reached,
        "wanted": number(goal.requests_per_min),
        "measured": number(goal.measured_per_min),
        "slo": line(goal.slo, 120),
        "statement": line(goal.statement),
    }


def _load(load: Load) -> dict[str, Any]:
    return {
        "side": load.side,
        "point": words.load_point(load),
        "requests": f"{load.requests:,}",
        "errors": load.errors,
        "cut_off": f"{load.cut_off:,}",
        "reported": number(load.reported_output_tokens),
        "repeats": f"{load.repeats:,}",
        "seconds": number(load.seconds),
        "input": number(load.input_tokens),
        "output": number(load.output_tokens),
        "tokens": number(load.tokens_per_s),
        "rate": number(load.requests_per_min),
        "goodput": number(load.goodput_per_min),
        "gpu": "–" if load.gpu_utilization is None else f"{number(load.gpu_utilization)}%",
        "memory": number(load.gpu_memory_gb),
        "latencies": [text for name in (load.ttft_ms, load.itl_ms, load.e2e_ms) for text in _percentiles(name)],
    }


def _percentiles(found: Percentiles | None) -> Iterable[str]:
    return (number(found.get(p)) if found else "–" for p in ("p50", "p95", "p99"))


def _ratio(ratio: Ratio) -> dict[str, str]:
    return {
        "metric": sentence(words.metric(ratio.metric)),
        "point": words.load_point(ratio),
        "value": charts.ratio_text(ratio.value),
        "interval": f"{charts.ratio_text(ratio.low)} to {charts.ratio_text(ratio.high)}",
        "confidence": percent(ratio.confidence),
        "judged": charts.judged(ratio),
    }
