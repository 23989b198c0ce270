"""The charts of a report. No text of a model is drawn: it stands in the page around the chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from migrate.errors import MissingExtra
from migrate.parity.render.svg import INK, Chart, draw_svg
from migrate.parity.render.text import BEYOND, finite, number, sentence, thinned
from migrate.parity.report import Curve, Load, Ratio, ThroughputReport

Side = Literal["source", "target"]

MAX_POINTS = 600
MAX_STEPS = 400
MAX_CURVES = 4
MAX_PANELS = 12
MAX_ROWS = 12

SIDES: tuple[Side, Side] = ("source", "target")
MARKERS = {"source": "o", "target": "s"}
DASHES: dict[str, Any] = {"p50": "-", "p95": (0, (5, 2)), "p99": (0, (1.2, 1.6))}
CURVE_STYLES: tuple[tuple[str, Any], ...] = (
    ("target", "-"),
    ("source", (0, (5, 2))),
    ("third", (0, (1.2, 1.6))),
    ("fourth", (0, (6, 2, 1.2, 2))),
)
LATENCIES = {"ttft_ms": "Time to first token", "itl_ms": "Time between tokens", "e2e_ms": "End to end"}


@dataclass(frozen=True, slots=True)
class Charts:
    """All of a report. `missing` says what to install when there is nothing to draw with."""

    scatter: Chart | None = None
    survival: Chart | None = None
    load: list[Chart] = field(default_factory=list)
    ratios: list[Chart] = field(default_factory=list)
    missing: str = ""


def require() -> None:
    """Raises MissingExtra without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra(
            "charts are drawn with matplotlib, which is not installed", hint="pip install 'ollama-to-vllm[parity]'"
        ) from None


def all_charts(
    pairs: Sequence[tuple[float, float]], curves: Sequence[Curve], throughput: ThroughputReport | None
) -> Charts:
    """What there is to draw of a report; only words when matplotlib is not installed."""
    if not (pairs or curves or throughput):
        return Charts()
    try:
        require()
    except MissingExtra as error:
        return Charts(missing=f"{error}: {error.hint}")
    return Charts(
        scatter=scatter(pairs),
        survival=survival(curves),
        load=load_charts(throughput.loads) if throughput else [],
        ratios=ratio_charts(throughput.ratios) if throughput else [],
    )


def scatter(pairs: Sequence[tuple[float, float]]) -> Chart | None:
    """Log-probabilities (nats) of the same tokens: source across, target up, equal on the diagonal."""
    points = thinned(finite(pairs), MAX_POINTS)
    if not points:
        return None
    low = min(min(a, b) for a, b in points)
    low = min(-1.0, low) * 1.04
    worst = max(points, key=lambda pair: abs(pair[0] - pair[1]))
    description = (
        f"{len(points):,} tokens: the log-probability that each side gives the same token, source across and "
        f"target up. On the diagonal both are equal. Farthest from it: source {worst[0]:.3g}, target {worst[1]:.3g}."
    )

    def paint(axes: Any) -> None:
        axes.plot([low, 0], [low, 0], color=INK["muted"], lw=1, ls=(0, (4, 3)), zorder=1)
        axes.scatter(
            [a for a, _ in points],
            [b for _, b in points],
            s=14,
            facecolor=INK["target"],
            alpha=0.5,
            linewidths=0,
            zorder=2,
        )
        pad = -low * 0.03
        axes.set_xlim(low, pad)
        axes.set_ylim(low, pad)
        axes.set_aspect("equal")
        axes.set_xlabel("source, nats")
        axes.set_ylabel("target, nats")

    return draw_svg("scatter", "Log-probabilities of the same tokens", description, paint, height=4.6)


def survival(curves: Sequence[Curve]) -> Chart | None:
    """Share of answers that still agree after so many tokens, as steps."""
    drawn = [(curve, steps) for curve in curves[:MAX_CURVES] if (steps := curve_steps(curve))]
    if not drawn:
        return None
    last = max(steps[-1][0] for _, steps in drawn)
    ends = "; ".join(f"curve {n} ends at {steps[-1][1]:.0%}" for n, (_, steps) in enumerate(drawn, 1))
    description = f"Share of answers that are still the same after so many tokens, from 0 to {last:,.0f}: {ends}."

    def paint(axes: Any) -> None:
        for (_, steps), (colour, dashes) in zip(drawn, CURVE_STYLES, strict=False):
            thin = [*thinned(steps, MAX_STEPS), steps[-1]]
            axes.step([x for x, _ in thin], [y for _, y in thin], where="post", color=INK[colour], ls=dashes, lw=2)
        axes.set_xlim(0, max(last, 1))
        axes.set_ylim(0, 1.03)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
        axes.set_xlabel("tokens of the answer")
        axes.set_ylabel("answers still the same")

    return draw_svg("survival", "How long the answers stay the same", description, paint, height=3.6)


def curve_steps(curve: Curve) -> list[tuple[float, float]]:
    """(tokens, share) in order, beginning at 0 tokens; [] when there is nothing."""
    steps = finite((float(x), y) for x, y in zip(curve.tokens, curve.share, strict=False))
    steps = sorted((x, min(1.0, max(0.0, y))) for x, y in steps if x >= 0)
    return [(0.0, 1.0), *steps] if steps and steps[0][0] > 0 else steps


def load_charts(loads: Sequence[Load]) -> list[Chart]:
    """Of the closed-loop runs: rate over concurrency, latency over rate, and each latency over concurrency."""
    closed = [load for load in loads if load.concurrency is not None]
    if not closed:
        return []
    charts = [_rate_chart(closed, "requests_per_min", "requests a minute"), _trade_off_chart(closed)]
    charts.append(_rate_chart(closed, "tokens_per_s", "tokens a second"))
    charts += [_latency_chart(closed, name) for name in LATENCIES]
    return [chart for chart in charts if chart is not None]


def _series(loads: Iterable[Load], side: Side, y: Callable[[Load], float | None]) -> list[tuple[float, float]]:
    found = [(float(load.concurrency or 0), y(load)) for load in loads if load.side == side]
    return sorted(finite((x, value) for x, value in found if value is not None))


def _rate_chart(loads: Sequence[Load], name: str, what: str) -> Chart | None:
    series: dict[Side, list[tuple[float, float]]] = {
        side: _series(loads, side, lambda load: getattr(load, name)) for side in SIDES
    }
    if not any(series.values()):
        return None

    def paint(axes: Any) -> None:
        for side, points in series.items():
            _line(axes, points, side, "p50")
        _concurrency_axis(axes, series.values())
        axes.set_ylim(0, 1.08 * max((y for points in series.values() for _, y in points), default=1.0) or 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set_ylabel(what)

    title = sentence(what)
    return draw_svg(name, title, f"{title} over concurrency. {_told(series, '')}", paint)


def _trade_off_chart(loads: Sequence[Load]) -> Chart | None:
    """Latency over throughput: to the right and low is better. Every point is a concurrency."""
    series: dict[Side, list[tuple[float, float, int]]] = {}
    for side in SIDES:
        mine = sorted((load for load in loads if load.side == side), key=lambda load: load.concurrency or 0)
        series[side] = [
            (load.requests_per_min, load.e2e_ms["p95"], load.concurrency or 0)
            for load in mine
            if load.e2e_ms and "p95" in load.e2e_ms and finite([(load.requests_per_min, load.e2e_ms["p95"])])
        ]
    if not any(series.values()):
        return None

    def paint(axes: Any) -> None:
        unit, scale = _unit([y for points in series.values() for _, y, _ in points])
        for side, points in series.items():
            _line(axes, [(x, y / scale) for x, y, _ in points], side, "p50")
        axes.set_xlim(left=0)
        _latency_axis(axes, [y / scale for points in series.values() for _, y, _ in points], unit)
        axes.set_xlabel("requests a minute (numbers: concurrency)")
        placed: list[tuple[float, float]] = []
        for side, points in series.items():
            for x, y, concurrency in reversed(points):
                _label(axes, (x, y / scale), str(concurrency), side, placed)

    told = "; ".join(
        f"{side}: " + ", ".join(f"at {c} {number(x)} a minute in {number(y)} ms" for x, y, c in points)
        for side, points in series.items()
        if points
    )
    return draw_svg("tradeoff", "End to end p95 against rate", f"To the right and low is better. {told}.", paint)


def _label(axes: Any, point: tuple[float, float], text: str, side: Side, placed: list[tuple[float, float]]) -> None:
    """A small number beside a point, left out where it would lie on another one."""
    x, y = axes.transData.transform(point)
    if any(abs(x - a) < 14 and abs(y - b) < 14 for a, b in placed):
        return
    placed.append((x, y))
    offset = (6, 4) if side == "source" else (0, -14)
    place = {"ha": "left" if side == "source" else "center", "fontsize": 9.5, "color": INK[side]}
    axes.annotate(text, point, textcoords="offset points", xytext=offset, **place)


def _unit(values: Sequence[float]) -> tuple[str, float]:
    """(name, milliseconds) of the unit that latencies are drawn in."""
    return ("s", 1000.0) if max(values, default=0.0) >= 10_000 else ("ms", 1.0)


def _latency_chart(loads: Sequence[Load], name: str) -> Chart | None:
    series: dict[tuple[Side, str], list[tuple[float, float]]] = {}
    for side in SIDES:
        for percentile in DASHES:
            series[side, percentile] = _series(loads, side, lambda load, p=percentile: _percentile(load, name, p))  # type: ignore[misc]
    if not any(series.values()):
        return None

    def paint(axes: Any) -> None:
        unit, scale = _unit([y for points in series.values() for _, y in points])
        for (side, percentile), points in series.items():
            _line(axes, [(x, y / scale) for x, y in points], side, percentile)
        _concurrency_axis(axes, series.values())
        _latency_axis(axes, [y / scale for points in series.values() for _, y in points], unit)

    medians = {side: series[side, "p50"] for side in SIDES}
    title = LATENCIES[name]
    return draw_svg(name, title, f"{title} over concurrency, p50, p95 and p99. Medians: {_told(medians, ' ms')}", paint)


def _percentile(load: Load, name: str, percentile: str) -> float | None:
    values: dict[str, float] | None = getattr(load, name)
    return values.get(percentile) if values else None


def _told(series: dict[Side, list[tuple[float, float]]], unit: str) -> str:
    return (
        "; ".join(
            f"{side}: " + ", ".join(f"{number(y)}{unit} at {x:.0f}" for x, y in points)
            for side, points in series.items()
            if points
        )
        + "."
    )


def _line(axes: Any, points: Sequence[tuple[float, float]], side: Side, percentile: str) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=INK[side],
        ls=DASHES[percentile],
        lw=2 if percentile == "p50" else 1.4,
        marker=MARKERS[side] if percentile == "p50" else None,
        ms=5.5,
        mec=INK["paper"],
        mew=0.8,
        solid_capstyle="round",
    )


def _concurrency_axis(axes: Any, series: Iterable[Sequence[tuple[float, float]]]) -> None:
    """Every measured concurrency has a tick; 1 is always there."""
    ticks = sorted({1.0} | {x for points in series for x, _ in points if x > 0})
    axes.set_xscale("log", base=2)
    kept = ticks if len(ticks) <= 9 else [ticks[0], *ticks[1:-1:2], ticks[-1]]
    axes.set_xticks(kept, [f"{x:.0f}" for x in kept])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(ticks) / 1.18, max(max(ticks), 2.0) * 1.18)
    axes.set_xlabel("requests at a time")


def _latency_axis(axes: Any, values: Sequence[float], unit: str) -> None:
    """From 0; logarithmic, and saying so, where low loads would lie flat on the ground otherwise."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) / min(positive) < 8:
        axes.set_ylim(0, 1.1 * max(positive, default=1.0))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.set_ylabel(unit)
        return
    axes.set_yscale("log")
    low, high = min(positive) / 1.4, max(positive) * 1.4
    ticks = _log_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low, high)
    axes.set_ylabel(f"{unit} (log scale)")


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between the two, or powers of ten where that would be too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{exponent}") for exponent in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) <= 7:
        return ticks
    powers = [tick for tick in ticks if f"{tick:.0e}".startswith("1")]
    return powers[:: 1 + len(powers) // 8]


def ratio_charts(ratios: Sequence[Ratio]) -> list[Chart]:
    """One small chart per metric: a dot and its interval for each load, and the line at 1. 99th percentiles, which
    few requests decide, are in the table only."""
    drawn = [r for r in ratios if all(1 / BEYOND < v < BEYOND for v in (r.value, r.low, r.high))]
    if not drawn:
        return []
    groups: dict[str, list[Ratio]] = {}
    for ratio in drawn:
        if not ratio.metric.endswith("_p99"):
            groups.setdefault(ratio.metric, []).append(ratio)
    return [
        _ratio_chart(f"ratio{n}", name, group[:MAX_ROWS])
        for n, (name, group) in enumerate(list(groups.items())[:MAX_PANELS])
    ]


def judged(ratio: Ratio) -> Literal["better", "worse", "undecided"]:
    """Of the target: the whole interval lies on one side of 1."""
    return "better" if ratio.low > 1 else "worse" if ratio.high < 1 else "undecided"


def ratio_text(value: float) -> str:
    """Two digits behind the point, and two that count where the value is small."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}"
    return f"{value:.2f}" if abs(value) < 10 else number(value)


def _ratio_chart(key: str, name: str, group: Sequence[Ratio]) -> Chart:
    from migrate.parity.render.words import load_point, metric

    limits = min(0.8, *(r.low for r in group)) / 1.15, max(1.25, *(r.high for r in group)) * 1.15
    styles = {"better": ("good", "o"), "worse": ("bad", "s"), "undecided": ("muted", "D")}

    def paint(axes: Any) -> None:
        axes.set_xscale("log")
        axes.axvline(1, color=INK["ink"], lw=1)
        for row, ratio in enumerate(group):
            colour, marker = styles[judged(ratio)]
            axes.plot([ratio.low, ratio.high], [row, row], color=INK[colour], lw=1.6, marker="|", ms=6, mew=1.4)
            hollow = INK["paper"] if judged(ratio) == "undecided" else INK[colour]
            axes.plot([ratio.value], [row], color=INK[colour], marker=marker, ms=6, mfc=hollow, mew=1.4)
            place = {"va": "center", "fontsize": 10.5, "color": INK["ink"]}
            axes.text(1.02, row, ratio_text(ratio.value), transform=axes.get_yaxis_transform(), **place)
        axes.set_yticks(range(len(group)), [load_point(ratio) for ratio in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_xlim(*limits)
        ticks = _log_ticks(*limits)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("target / source")

    told = "; ".join(
        f"{load_point(r)}: {number(r.value)} ({number(r.low)} to {number(r.high)}), {judged(r)}" for r in group
    )
    title = sentence(metric(name))
    description = f"Target divided by source, above 1 is better for the target. {told}."
    return draw_svg(key, title, description, paint, height=0.85 + 0.28 * len(group))
