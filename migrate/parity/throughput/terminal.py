"""A throughput report for people at a terminal: what each side did, how they compare, and what to keep in mind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from migrate.parity.render.text import all_visible
from migrate.parity.report import Load, Percentiles, ThroughputReport

if TYPE_CHECKING:
    from rich.console import RenderableType

RATIOS = {
    "requests_per_min": "requests/min",
    "tokens_per_s": "tokens/s",
    "goodput_per_min": "goodput",
    "ttft_p50": "ttft p50",
    "ttft_p95": "ttft p95",
    "itl_p50": "itl p50",
    "e2e_p50": "e2e p50",
    "e2e_p95": "e2e p95",
}
"""Those shown, of all in the report."""

LEGEND = "x8: 8 requests at a time; times in milliseconds: median/95th/99th percentile; tokens: of an answer, mean\n"


def render_terminal(report: ThroughputReport) -> RenderableType:
    """Two tables, the goal, and notes, for `rich.print`."""
    from rich.console import Group
    from rich.text import Text

    report = ThroughputReport.model_validate(all_visible(report.model_dump()))
    parts: list[Any] = [Text(f"{report.tool}, seed {report.seed}, {report.seconds:.0f} s. {report.workload}\n")]
    if report.loads:
        parts += [_loads(report), Text(LEGEND, style="dim")]
    if report.ratios:
        parts += [
            _ratios(report),
            Text("above 1 the target is better, in every column; below it the interval\n", "dim"),
        ]
    if goal := report.goal:
        parts.append(Text(goal.statement, style="green" if goal.reached else "bold red"))
    parts += [Text(f"error: {error}", style="yellow") for error in report.errors]
    parts += [Text(f"note: {caveat}", style="dim") for caveat in report.caveats]
    return Group(*parts)


def _table(*headings: str) -> Any:
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("load", "side") else "right", no_wrap=True)
    return table


def _loads(report: ThroughputReport) -> Any:
    columns: dict[str, Callable[[Load], str]] = {
        "load": lambda load: _name(load.concurrency, load.request_rate),
        "side": lambda load: load.side,
        "answers": lambda load: str(load.requests),
        "failed": lambda load: str(load.errors + load.cut_off),
        "tokens": lambda load: f"{load.output_tokens:.4g}",
        "req/min": lambda load: f"{load.requests_per_min:.4g}",
        "tok/s": lambda load: f"{load.tokens_per_s:.4g}",
        "ttft": lambda load: _times(load.ttft_ms),
        "itl": lambda load: _times(load.itl_ms),
        "e2e": lambda load: _times(load.e2e_ms),
        "good/min": lambda load: "-" if load.goodput_per_min is None else f"{load.goodput_per_min:.4g}",
        "GPU": _gpu,
    }
    if not any(load.errors or load.cut_off for load in report.loads):
        del columns["failed"]
    if all(load.goodput_per_min is None for load in report.loads):
        del columns["good/min"]
    if all(load.gpu_utilization is None for load in report.loads):
        del columns["GPU"]
    table = _table(*columns)
    for load in report.loads:
        table.add_row(*(cell(load) for cell in columns.values()))
    return table


def _ratios(report: ThroughputReport) -> Any:
    shown = [name for name in RATIOS if any(ratio.metric == name for ratio in report.ratios)]
    table = _table("load", *(RATIOS[name] for name in shown))
    loads = dict.fromkeys((ratio.concurrency, ratio.request_rate) for ratio in report.ratios)
    for load in loads:
        here = {r.metric: r for r in report.ratios if (r.concurrency, r.request_rate) == load}
        cells = [
            "\n".join((_ratio(here[name].value), f"{_ratio(here[name].low)}-{_ratio(here[name].high)}"))
            if name in here
            else "-"
            for name in shown
        ]
        table.add_row(_name(*load), *cells)
    return table


def _name(concurrency: int | None, rate: float | None) -> str:
    return f"x{concurrency}" if concurrency else f"{rate:g}/min"


def _times(values: Percentiles | None) -> str:
    return "-" if values is None else "/".join(_number(values[name]) for name in ("p50", "p95", "p99"))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _gpu(load: Load) -> str:
    if load.gpu_utilization is None:
        return "-"
    return f"{load.gpu_utilization:.0f}%" + (f" {load.gpu_memory_gb:.0f}GB" if load.gpu_memory_gb else "")
