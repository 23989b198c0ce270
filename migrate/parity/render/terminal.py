"""A report on the terminal: a row per layer, the first differences, for whom it holds, and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrate.parity.render.text import all_visible
from migrate.parity.report import ClientVerdict, LayerReport, ParityReport, SamplePlan

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES: dict[str, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "skipped": "dim"}
SHOWN_DIFFERENCES = 3
SHOWN_NOTES = 4
SHOWN_CHANGES = 3
SHOWN_DEVIATIONS = 2


def render_terminal(report: ParityReport) -> RenderableType:
    """For `rich.print`. What is not shown here is in report.html."""
    from rich.console import Group
    from rich.text import Text

    report = ParityReport.model_validate(all_visible(report.model_dump()))
    sides = f"source     {report.source}\ntarget     {report.target}\n"
    if report.reference:
        sides += f"reference  {report.reference}\n"
    parts: list[Any] = [Text(sides), _table(report)]
    for layer in report.layers:
        parts += _differences(layer)
    for layer in report.layers:
        parts += _notes(layer)
    parts += _deviations(report)
    parts += [_plan(plan) for plan in report.plan]
    parts += [Text(f"a server failed and was asked again: {hiccup}", style="yellow") for hiccup in report.hiccups[:3]]
    if report.throughput is not None:
        from migrate.parity.throughput.terminal import render_terminal as throughput

        parts += [Text(), throughput(report.throughput)]
    for client in report.clients:
        parts += _client(client)
    verdict = Text(f"\n{report.verdict.value.upper()}", style=STYLES[report.verdict.value])
    parts += [verdict.append(f"  {report.reason}", style="default"), Text(f"next: {report.next_step}")]
    return Group(*parts)


def _table(report: ParityReport) -> Any:
    from rich.table import Table
    from rich.text import Text

    asked = report.traffic.origin if report.traffic.origin != "built-in battery" else "built-in conversations"
    title = f"Parity of {report.model}: {report.conversations} from {asked}"
    table = Table(title=Text(title), title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("agree", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for layer in report.layers:
        agree = f"{layer.agreed}/{layer.compared}" if layer.compared else "-"
        table.add_row(layer.name.value, Text(layer.status, style=STYLES[layer.status]), agree, Text(layer.summary))
    return table


def _differences(layer: LayerReport) -> list[Any]:
    from rich.text import Text

    parts: list[Any] = []
    for difference in layer.differences[:SHOWN_DIFFERENCES]:
        where = f" at {difference.position}" if difference.position is not None else ""
        parts.append(Text(f"\n{layer.name.value}{where}, «{difference.conversation}»: {difference.reason}"))
        if difference.source or difference.target:
            parts.append(Text(f"  source {difference.source}\n  target {difference.target}"))
    if (more := len(layer.differences) - SHOWN_DIFFERENCES) > 0:
        parts.append(Text(f"  ... and {more} more in the report", style="dim"))
    return parts


def _notes(layer: LayerReport) -> list[Any]:
    from rich.text import Text

    parts = [Text(f"note ({layer.name.value}): {text}", style="dim") for text in layer.notes[:SHOWN_NOTES]]
    if (more := len(layer.notes) - SHOWN_NOTES) > 0:
        parts.append(Text(f"  ... and {more} more on the {layer.name.value} layer in the report", style="dim"))
    return parts


def _deviations(report: ParityReport) -> list[Any]:
    """Each once, and only those of layers that found something to compare; they are the same in every run."""
    from rich.text import Text

    told = list(dict.fromkeys(text for layer in report.layers if layer.compared for text in layer.deviations))
    parts = [Text(f"known deviation: {text}", style="dim") for text in told[:SHOWN_DEVIATIONS]]
    if (more := len(told) - SHOWN_DEVIATIONS) > 0:
        parts.append(Text(f"  ... and {more} more known deviations in the report; none fails the gate", style="dim"))
    return parts


def _plan(plan: SamplePlan) -> Any:
    from rich.text import Text

    return Text(
        f"plan: {plan.items} tasks have power {plan.achieved_power:.0%} to rule out a loss of {plan.margin:.1%} "
        f"(alpha {plan.alpha:.0%}, {plan.discordance:.0%} answered differently); {plan.power:.0%} needs {plan.needed}"
    )


def _client(client: ClientVerdict) -> list[Any]:
    from rich.text import Text

    parts = [Text(f"\n{client.statement}", style="default" if client.holds else "yellow")]
    parts += [Text(f"  - {change}", style="dim") for change in client.changes[:SHOWN_CHANGES]]
    if (more := len(client.changes) - SHOWN_CHANGES) > 0:
        parts.append(Text(f"  ... and {more} more changes in the report", style="dim"))
    return parts
