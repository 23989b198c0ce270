"""What the journal of shadowed requests says: rates with intervals, latencies, and a verdict on thresholds.

A check passes when the lower end of its one-sided 95 % interval is at least the threshold, fails when the upper end
lies below it, and is too little to decide in between: the same three verdicts as parity's. Statuses, prompts and
beginnings (or embeddings) have to pass; what not every client uses (tools, JSON) only must not fail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from migrate.gateway.shadow import ShadowPolicy
from migrate.gateway.shadow_compare import CHECKS, Pair, SideTimes
from migrate.gateway.shadow_journal import Row
from migrate.gateway.watch import percentile
from migrate.parity.report import EXIT_CODES, Verdict
from migrate.parity.statistics import stats

CONFIDENCE = 0.95
EXAMPLES = 5

Result = Literal["pass", "fail", "too few", "told", "-"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rate(_Model):
    """A check over all pairs it applies to. `low` and `high` are the ends of the 95 % interval of the rate (Wilson);
    `threshold` None: only told. `needed`: pairs that would do if none of them differed."""

    check: str
    what: str
    compared: int
    same: int
    rate: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    result: Result
    needed: int | None = None


class Latency(_Model):
    """Seconds, of answers that succeeded on both sides. `answers` counts them."""

    side: Literal["source", "target"]
    what: Literal["total", "first token"]
    answers: int
    p50: float
    p95: float
    p99: float


class Example(_Model):
    """A pair that differs, without its text."""

    time: datetime
    path: str
    differences: list[str]
    source: SideTimes
    target: SideTimes
    at: int | None = None


class ShadowReport(_Model):
    """A model's summary. `first` and `last` are the times of its pairs; `kept`: how many requests the journal holds in
    full."""

    schema_version: Literal[1] = 1
    model: str
    pairs: int
    greedy: int
    kept: int
    first: datetime | None = None
    last: datetime | None = None
    paths: dict[str, int]
    rates: list[Rate]
    latencies: list[Latency]
    parts_at: float | None = None
    """Median character at which greedy answers that differ part."""
    examples: list[Example]
    verdict: Verdict
    reason: str

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


@dataclass(frozen=True, slots=True)
class _Check:
    """`required`: too little to decide is too little for the whole."""

    name: str
    what: str
    threshold: float | None
    required: bool = False


def _checks(policy: ShadowPolicy) -> tuple[_Check, ...]:
    return (
        _Check("status", "success or the same refusal", policy.min_same_status, True),
        _Check("prompt", "prompt tokens, BOS included", policy.min_same_prompt, True),
        _Check("beginning", "greedy answers begin alike", policy.min_same_beginning, True),
        _Check("text", "greedy answers equal to the end", policy.min_same_text),
        _Check("end", "greedy answers: done_reason", None),
        _Check("tokens", "greedy answers: number of tokens", None),
        _Check("called", "tools called, or not", None),
        _Check("calls", "greedy answers: same tool calls", policy.min_same_calls),
        _Check("json_valid", "JSON where it was asked for", policy.min_valid_json),
        _Check("embeddings", "embeddings: cosine of at least 0.99", policy.min_same_embeddings, True),
    )


def summarize(model: str, rows: Iterable[Row], policy: ShadowPolicy, *, proved: bool = False) -> ShadowReport:
    """`proved`: parity's layers were run as well and passed, so that texts need not be judged here.

    Raises MissingExtra without the statistics.
    """
    stats()
    seen = list(rows)
    pairs = [row.pair for row in seen]
    rates = [_rate(check, [getattr(pair, check.name) for pair in pairs]) for check in _checks(policy)]
    verdict, reason = _verdict(rates, pairs, policy, proved=proved)
    parted = sorted(pair.at for pair in pairs if pair.at is not None)
    return ShadowReport(
        model=model,
        pairs=len(pairs),
        greedy=sum(pair.greedy for pair in pairs),
        kept=sum(row.body is not None for row in seen),
        first=min((row.time for row in seen), default=None),
        last=max((row.time for row in seen), default=None),
        paths=dict(Counter(row.path for row in seen).most_common()),
        rates=[rate for rate in rates if rate.compared],
        latencies=_latencies(pairs),
        parts_at=percentile([float(at) for at in parted], 0.5) if parted else None,
        examples=_examples(seen),
        verdict=verdict,
        reason=reason,
    )


def _rate(check: _Check, results: Sequence[bool | None]) -> Rate:
    counted = [result for result in results if result is not None]
    same, total = sum(counted), len(counted)
    if not total:
        return Rate(check=check.name, what=check.what, compared=0, same=0, threshold=check.threshold, result="-")
    low, high = interval(same, total)
    needed = None
    result: Result = "told"
    if check.threshold is not None:
        lower, upper = one_sided(same, total)
        result = "pass" if lower >= check.threshold else "fail" if upper < check.threshold else "too few"
        needed = enough(check.threshold) if result == "too few" else None
    return Rate(
        check=check.name,
        what=check.what,
        compared=total,
        same=same,
        rate=same / total,
        low=low,
        high=high,
        threshold=check.threshold,
        result=result,
        needed=needed,
    )


def interval(same: int, total: int) -> tuple[float, float]:
    """The two-sided 95 % interval of a rate (Wilson)."""
    found = stats().binomtest(same, total).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def one_sided(same: int, total: int) -> tuple[float, float]:
    """Lower and upper end, each wrong in at most 5 % of cases (Clopper-Pearson, which is never too narrow)."""
    found = stats().binomtest(same, total).proportion_ci(confidence_level=2 * CONFIDENCE - 1, method="exact")
    return float(found.low), float(found.high)


def enough(threshold: float) -> int | None:
    """Pairs without any difference from which on a rate is surely above `threshold`; None: no number is enough."""
    if threshold >= 1:
        return None
    return max(1, math.ceil(math.log(1 - CONFIDENCE) / math.log(threshold))) if threshold > 0 else 1


def _verdict(
    rates: Sequence[Rate], pairs: Sequence[Pair], policy: ShadowPolicy, *, proved: bool
) -> tuple[Verdict, str]:
    for rate in rates:
        if rate.result == "fail":
            share = 100 * (rate.rate or 0.0)
            return Verdict.FAIL, (
                f"{rate.what}: {rate.same} of {rate.compared} ({share:.1f} %, not {100 * (rate.threshold or 0):g} %)"
            )
    if len(pairs) < policy.min_pairs:
        return Verdict.INCONCLUSIVE, f"{len(pairs)} pairs, at least {policy.min_pairs} are wanted"
    required = {check.name for check in _checks(policy) if check.required}
    for rate in rates:
        if rate.result == "too few" and rate.check in required and not (proved and rate.check == "beginning"):
            more = (
                f"{rate.needed} without a difference would do" if rate.needed else "no number would do: the threshold"
            )
            return Verdict.INCONCLUSIVE, f"{rate.what}: {rate.same} of {rate.compared} is too little to decide ({more})"
    compared = {rate.check for rate in rates if rate.compared}
    if "status" not in compared:
        return Verdict.INCONCLUSIVE, "the source answered none of the requests"
    if not proved and not compared & {"beginning", "embeddings"}:
        return Verdict.INCONCLUSIVE, (
            "no request was greedy (temperature 0), so no texts could be compared: run the report with --parity"
        )
    return Verdict.PASS, f"{len(pairs)} pairs within every threshold"


def _latencies(pairs: Sequence[Pair]) -> list[Latency]:
    both = [p for p in pairs if all(s.status is not None and s.status < 400 for s in (p.source, p.target))]
    found: list[Latency] = []
    for what in ("total", "first token"):
        for side in ("source", "target"):
            times = [getattr(pair, side) for pair in both]
            values = [t.total if what == "total" else t.ttft for t in times]
            measured = [value for value in values if value is not None]
            if measured:
                shares = {f"p{share}": percentile(measured, share / 100) for share in (50, 95, 99)}
                found.append(Latency.model_validate({"side": side, "what": what, "answers": len(measured), **shares}))
    return found


def _examples(rows: Sequence[Row]) -> list[Example]:
    """The latest pairs that differ in something the verdict looks at, the gravest check first."""
    order = {name: number for number, name in enumerate(CHECKS)}
    differing = [row for row in rows if row.pair.differences]
    differing.sort(key=lambda row: (order[row.pair.differences[0]], -row.time.timestamp()))
    return [
        Example(
            time=row.time,
            path=row.path,
            differences=list(row.pair.differences),
            source=row.pair.source,
            target=row.pair.target,
            at=row.pair.at,
        )
        for row in differing[:EXAMPLES]
    ]


def to_markdown(report: ShadowReport) -> str:
    """The report for people: a table of rates, one of latencies, and the verdict first."""
    lines = [f"# Shadowed requests of {report.model}", "", f"**{report.verdict.value.upper()}**: {report.reason}", ""]
    if report.first is not None and report.last is not None:
        span = f"{report.first:%Y-%m-%d %H:%M} to {report.last:%Y-%m-%d %H:%M} UTC"
        lines += [f"{report.pairs} pairs ({report.greedy} greedy), {span}; {report.kept} kept in full.", ""]
    if report.rates:
        lines += ["| check | same | rate | 95 % interval | at least | result |", "|---|---|---|---|---|---|"]
        lines += [_rate_line(rate) for rate in report.rates]
        lines.append("")
    if report.parts_at is not None:
        lines += [f"Greedy answers that differ part at character {report.parts_at:.0f} (median).", ""]
    if report.latencies:
        lines += ["| seconds | side | answers | p50 | p95 | p99 |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {t.what} | {t.side} | {t.answers} | {t.p50:.3f} | {t.p95:.3f} | {t.p99:.3f} |" for t in report.latencies
        ]
        lines.append("")
    if report.examples:
        lines += ["Pairs that differ, the gravest first:", ""]
        lines += [f"- {_example(example)}" for example in report.examples]
        lines.append("")
    return "\n".join(lines)


def _rate_line(rate: Rate) -> str:
    ends = f"{100 * (rate.low or 0):.1f} to {100 * (rate.high or 0):.1f} %"
    least = f"{100 * rate.threshold:g} %" if rate.threshold is not None else "-"
    share = f"{100 * (rate.rate or 0):.1f} %"
    return f"| {rate.what} | {rate.same}/{rate.compared} | {share} | {ends} | {least} | {rate.result} |"


def _example(example: Example) -> str:
    def side(times: SideTimes) -> str:
        parts: list[Any] = [times.status or "broken off"]
        if times.prompt_tokens is not None:
            parts.append(f"{times.prompt_tokens}+{times.tokens or 0} tokens")
        return ", ".join(map(str, parts))

    at = f", parts at character {example.at}" if example.at is not None else ""
    return (
        f"{example.time:%Y-%m-%d %H:%M:%S} {example.path}: {', '.join(example.differences)}{at} "
        f"(Ollama {side(example.source)}; vLLM {side(example.target)})"
    )
