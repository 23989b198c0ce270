"""From requests to numbers: what each side did under each load, and how the two compare.

Ratios come with a bootstrap interval of two levels, because requests of one run are not independent: whole runs are
drawn with replacement, then requests within each drawn run. In a closed loop a run's duration goes with the mean time
of its requests (Little's law: as many are always under way), so a resampled run lasts as much longer or shorter as its
requests take. In an open loop the arrivals set the duration, and it stays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from migrate.parity.report import Goal, Load, Percentiles, Ratio
from migrate.parity.throughput.plan import Plan, Point, Side, Slo
from migrate.parity.throughput.records import Measured, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

GOAL_SHARE = 0.95
"""Of the wanted rate that has to be answered, within the service level, for it to be called reached."""
BATCH_NUMBERS = 4_000_000
"""Resampled values held in memory at a time."""


def is_good(request: Request, slo: Slo) -> bool:
    """Whether a request met the service level."""
    itl = request.itl_ms
    return (
        (slo.ttft_ms is None or request.ttft_ms <= slo.ttft_ms)
        and (slo.itl_ms is None or itl is None or itl <= slo.itl_ms)
        and (slo.e2e_ms is None or request.e2e_ms <= slo.e2e_ms)
    )


def load_of(side: Side, point: Point, runs: Sequence[Measured], slo: Slo) -> Load:
    """All runs of one side under one load, taken together."""
    requests = [request for run in runs for request in run.requests]
    seconds = sum(run.seconds for run in runs)
    reported = [r.reported_tokens for r in requests if r.reported_tokens is not None]
    utilization = [run.gpu_utilization for run in runs if run.gpu_utilization is not None]
    memory = [run.gpu_memory_gb for run in runs if run.gpu_memory_gb is not None]
    tokens = sum(request.output_tokens for request in requests)
    per_min = 60 / seconds if seconds else 0.0
    return Load(
        side=side,
        concurrency=point.concurrency,
        request_rate=point.request_rate,
        repeats=len(runs),
        requests=len(requests),
        errors=sum(run.errors for run in runs),
        cut_off=sum(run.cut_off for run in runs),
        seconds=round(seconds, 3),
        input_tokens=_mean([float(r.input_tokens) for r in requests if r.input_tokens is not None]) or 0.0,
        output_tokens=round(tokens / len(requests), 2) if requests else 0.0,
        reported_output_tokens=_mean([float(number) for number in reported]),
        ttft_ms=_percentiles([r.ttft_ms for r in requests]),
        itl_ms=_percentiles([itl for r in requests if (itl := r.itl_ms) is not None]),
        e2e_ms=_percentiles([r.e2e_ms for r in requests]),
        tokens_per_s=round(tokens / seconds, 3) if seconds else 0.0,
        requests_per_min=round(len(requests) * per_min, 3),
        goodput_per_min=round(sum(is_good(r, slo) for r in requests) * per_min, 3) if slo else None,
        gpu_utilization=_mean(utilization),
        gpu_memory_gb=round(max(memory), 3) if memory else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _percentiles(values: Sequence[float]) -> Percentiles | None:
    """Linear between the two nearest values; the highest is close to the largest value when there are few."""
    if not values:
        return None
    import numpy as np

    p50, p95, p99 = (round(float(v), 3) for v in np.percentile(values, (50, 95, 99)))
    return {"p50": p50, "p95": p95, "p99": p99}


@dataclass(frozen=True, slots=True)
class _Sample:
    """The runs of one side under one load as arrays (runs, requests), filled up with NaN behind `lengths`."""

    ttft: Numbers
    itl: Numbers
    e2e: Numbers
    tokens: Numbers
    good: Numbers
    lengths: NDArray[np.int64]
    seconds: Numbers
    closed_loop: bool


Metric = tuple[str, bool, "Callable[[_Sample], Numbers]"]
"""Name, whether more of it is better, and its value over the last two axes of a (resampled) sample."""


def _quantile(field: str, percent: float) -> Callable[[_Sample], Numbers]:
    def value(sample: _Sample) -> Numbers:
        import numpy as np

        values: Numbers = getattr(sample, field)
        flat = values.reshape(*values.shape[:-2], -1)
        which = np.nanpercentile if np.isnan(flat).any() else np.percentile
        return np.asarray(which(flat, percent, axis=-1))

    return value


def _rate(field: str, per: float) -> Callable[[_Sample], Numbers]:
    def value(sample: _Sample) -> Numbers:
        import numpy as np

        amount = sample.lengths if field == "requests" else np.nansum(getattr(sample, field), axis=-1)
        return np.asarray(per * amount.sum(axis=-1) / sample.seconds.sum(axis=-1))

    return value


def _metrics(slo: Slo) -> list[Metric]:
    metrics: list[Metric] = [
        ("requests_per_min", True, _rate("requests", 60)),
        ("tokens_per_s", True, _rate("tokens", 1)),
    ]
    if slo:
        metrics.append(("goodput_per_min", True, _rate("good", 60)))
    for field, percents in (("ttft", (50, 95, 99)), ("itl", (50, 95, 99)), ("e2e", (50, 95, 99))):
        metrics += [(f"{field}_p{percent}", False, _quantile(field, percent)) for percent in percents]
    return metrics


def ratios(point: Point, source: Sequence[Measured], target: Sequence[Measured], plan: Plan) -> list[Ratio]:
    """Target against source in every metric, above 1 where the target is better; none where a side has no answers.

    A metric that is 0 on one side (goodput, mostly) has no ratio and is left out; so are the rates of a single run in
    an open loop, whose arrivals set them.
    """
    runs = {"source": [run for run in source if run.requests], "target": [run for run in target if run.requests]}
    if not runs["source"] or not runs["target"]:
        return []
    import numpy as np
    from scipy.stats import bootstrap

    ours, theirs = (_sample(runs[side], plan.slo, point) for side in ("source", "target"))
    metrics = _metrics(plan.slo)
    chance = np.random.default_rng([plan.seed, point.concurrency or 0])

    def statistic(source_runs: Any, target_runs: Any, axis: int = -1) -> Numbers:
        return _compare(metrics, _drawn(ours, source_runs, chance), _drawn(theirs, target_runs, chance))

    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an answer of one token has no time between tokens
        values = _compare(metrics, ours, theirs)
        interval = bootstrap(
            (_indices(ours), _indices(theirs)),
            statistic,
            n_resamples=plan.resamples,
            batch=max(1, BATCH_NUMBERS // max(ours.e2e.size, theirs.e2e.size)),
            vectorized=True,
            confidence_level=plan.confidence,
            method="percentile",
            rng=chance,
        ).confidence_interval
    found = []
    fixed = point.request_rate is not None and min(len(ours.lengths), len(theirs.lengths)) < 2
    for (name, _, _), *numbers in zip(metrics, values, interval.low, interval.high, strict=True):
        if fixed and name in ("requests_per_min", "tokens_per_s"):
            continue
        if all(np.isfinite(numbers)) and numbers[0] > 0:
            value, low, high = (round(float(number), 4) for number in numbers)
            found.append(
                Ratio(
                    metric=name,
                    concurrency=point.concurrency,
                    request_rate=point.request_rate,
                    value=value,
                    low=low,
                    high=high,
                    confidence=plan.confidence,
                )
            )
    return found


def _compare(metrics: Sequence[Metric], source: _Sample, target: _Sample) -> Numbers:
    """(metrics, ...): better over worse, as seen from the target."""
    import numpy as np

    rows = []
    for _, more_is_better, value in metrics:
        ours, theirs = value(source), value(target)
        rows.append(theirs / ours if more_is_better else ours / theirs)
    return np.stack(rows)


def _sample(runs: Sequence[Measured], slo: Slo, point: Point) -> _Sample:
    import numpy as np

    def table(value: Callable[[Request], float | None]) -> Numbers:
        out = np.full((len(runs), max(len(run.requests) for run in runs)), np.nan)
        for row, run in enumerate(runs):
            numbers = [value(request) for request in run.requests]
            out[row, : len(numbers)] = [np.nan if number is None else number for number in numbers]
        return out

    return _Sample(
        ttft=table(lambda r: r.ttft_ms),
        itl=table(lambda r: r.itl_ms),
        e2e=table(lambda r: r.e2e_ms),
        tokens=table(lambda r: r.output_tokens),
        good=table(lambda r: float(is_good(r, slo))),
        lengths=np.array([len(run.requests) for run in runs]),
        seconds=np.array([run.seconds for run in runs]),
        closed_loop=point.concurrency is not None,
    )


def _indices(sample: _Sample) -> NDArray[np.int64]:
    """What scipy resamples: the numbers of the runs. It wants two at least; a single run then stands for itself."""
    import numpy as np

    return np.arange(max(2, len(sample.lengths)))


def _drawn(sample: _Sample, runs: NDArray[np.int64], chance: np.random.Generator) -> _Sample:
    """For drawn runs (batch, runs): requests drawn within each, and the duration that goes with them."""
    import numpy as np

    count = len(sample.lengths)
    runs = runs[..., :count] % count
    lengths = sample.lengths[runs]
    columns = (chance.random((*runs.shape, sample.e2e.shape[1])) * lengths[..., None]).astype(np.int64)
    missing = np.arange(sample.e2e.shape[1]) >= lengths[..., None]

    def take(values: Numbers) -> Numbers:
        return np.where(missing, np.nan, values[runs[..., None], columns])

    e2e = take(sample.e2e)
    seconds = sample.seconds[runs]
    if sample.closed_loop:
        seconds = seconds * np.nanmean(e2e, axis=-1) / np.nanmean(sample.e2e, axis=-1)[runs]
    drawn = (take(values) for values in (sample.ttft, sample.itl, sample.tokens, sample.good))
    ttft, itl, tokens, good = drawn
    return _Sample(ttft, itl, e2e, tokens, good, lengths, seconds, sample.closed_loop)


def goal_of(runs: Sequence[Measured], plan: Plan, output_tokens: float) -> Goal | None:
    """Whether the target carries the wanted rate: None without a rate, or when it could not be measured.

    The rate is the wanted one times the share of offered requests that were answered within the service level, times
    how far the answers kept up with the arrivals. The latter compares the time between the first and the last answer
    with that between the first and the last arrival, so that neither the chance in the arrivals nor the time of one
    answer counts. When the requests came slower than chance allows (two standard deviations of Poisson arrivals), the
    load generator did not keep up, and what it sent counts instead of what was wanted.
    """
    wanted = plan.request_rate
    offered = sum(run.offered for run in runs)
    if wanted is None or not offered:
        return None
    good = sum(is_good(request, plan.slo) for run in runs for request in run.requests)
    arriving, answering, gaps = 0.0, 0.0, 0
    for run in runs:
        starts = [request.start for request in run.requests]
        ends = [request.start + request.e2e_ms / 1000 for request in run.requests]
        if len(starts) > 1:
            arriving += max(starts) - min(starts)
            answering += max(ends) - min(ends)
            gaps += run.offered - 1
    pace = min(1.0, arriving / answering) if answering > 0 else 0.0
    came = 60 * gaps / arriving if arriving > 0 else wanted
    sent = came if came < wanted * (1 - 2 / max(gaps, 1) ** 0.5) else wanted
    measured = sent * pace * good / offered
    reached = measured >= GOAL_SHARE * wanted
    level = f"answered within {plan.slo}" if plan.slo else "answered (no service level was asked for)"
    return Goal(
        requests_per_min=wanted,
        slo=str(plan.slo),
        reached=reached,
        measured_per_min=round(measured, 2),
        statement=(
            f"{wanted:g} requests a minute: {'reached' if reached else 'not reached'}. Of {offered} requests that came "
            f"at {sent:.0f} a minute, {good} were {level}, and the answers kept {pace:.0%} of that pace; "
            f"{output_tokens:.0f} tokens an answer. Reached means {GOAL_SHARE:.0%} of the rate"
        ),
    )
