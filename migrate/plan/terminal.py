"""The plan for a person: what was assumed, the table, the choice, and with --explain every formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from migrate.plan import density, throughput
from migrate.plan.advise import Model, Row, Wanted
from migrate.plan.figures import gib, shown
from migrate.plan.layers import Kind, growing_bytes_per_token

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(model: Model, wanted: Wanted, rows: Sequence[Row], *, explain: bool = False) -> Iterator[RenderableType]:
    """Everything to print, part by part."""
    from rich.text import Text

    yield Text(_clean(model.name), style="bold")
    yield _facts(model, wanted)
    yield Text()
    yield _table(rows)
    yield Text()
    yield from _choice(rows)
    if explain:
        for row in rows:
            yield Text()
            yield from _explained(row)


def _facts(model: Model, wanted: Wanted) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    weights, load = model.weights, wanted.load
    exact = "counted" if weights.exact else "computed from the config"
    ways = ", ".join(f"{way} {gib(nbytes)}" for way, nbytes in model.alternatives.items() if way != weights.way)
    token = growing_bytes_per_token(model.layers, throughput.cache_item_bytes(model.config, wanted.kv_cache_dtype))
    shared = f", {load.shared:.0%} of the prompt in the prefix cache" if load.shared else ""
    facts = [
        ("weights", f"{gib(weights.nbytes)} as {weights.way}, {weights.parameters:,} parameters ({exact})"),
        ("other ways", ways),
        ("KV cache", f"{token:,} bytes per token{_kinds(model)}"),
        ("context", f"{wanted.settings.max_model_len:,} tokens, {wanted.settings.utilization:g} of the memory"),
        ("load", f"{load.prompt:,} prompt and {load.output:,} output tokens{shared}"),
        ("target", _target(wanted)),
    ]
    grid = Table.grid(padding=(0, 2))
    for name, value in facts:
        if value:
            grid.add_row(Text(name, style="dim"), Text(_clean(value)))
    return grid


def _kinds(model: Model) -> str:
    counts = {kind: sum(layer.kind is kind for layer in model.layers) for kind in Kind}
    told = [f"{count} layers {kind}" for kind, count in counts.items() if count]
    return f" ({', '.join(told)})" if len(told) > 1 or counts[Kind.LATENT] or counts[Kind.SLIDING] else ""


def _target(wanted: Wanted) -> str:
    rate = "one instance" if wanted.rate is None else f"{wanted.rate:g} requests a minute"
    money = "" if wanted.budget is None else f", at most ${wanted.budget:,.0f} a month"
    return f"{rate} within {wanted.level}, on average{money}"


def _table(rows: Sequence[Row]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("GPU", "for KV", "requests/min", "GPUs", "$/month", "$/M tokens", ""):
        table.add_column(name, justify="left" if name in ("GPU", "") else "right", no_wrap=name not in ("",))
    for row in rows:
        style = "" if row.wins else "dim"
        verdict = row.reason or "; ".join(row.notes)
        note = Text(_clean(verdict), style="red" if row.reason else "dim")
        table.add_row(Text(row.gpu.name, style="bold" if row.wins else style), *_cells(row, style), note)
    return table


def _cells(row: Row, style: str) -> list[RenderableType]:
    from rich.text import Text

    at, cost = row.operating, row.cost
    room = gib(row.memory.kv_cache) if row.memory is not None else ""
    rate = f"{at.per_minute:,.0f} ({row.rates[0]:,.0f}-{row.rates[2]:,.0f})" if at and row.rates else ""
    gpus = "" if cost is None else str(cost.gpus)
    monthly = cost.monthly if cost else None
    money = f"{monthly[1]:,.0f} ({monthly[0]:,.0f}-{monthly[2]:,.0f})" if monthly else "?" if cost else ""
    million = f"{cost.per_million_tokens[1]:.3f}" if cost and cost.per_million_tokens else ""
    return [Text(value, style=style) for value in (room, rate, gpus, money, million)]


def _choice(rows: Sequence[Row]) -> Iterator[RenderableType]:
    from rich.text import Text

    row = next((row for row in rows if row.wins), None)
    if row is None or row.cost is None or row.density is None or row.operating is None:
        yield Text("none of these GPUs does it", style="bold red")
        return
    money = f", about ${row.cost.monthly[1]:,.0f} a month" if row.cost.monthly else ""
    date = f" (prices of {row.gpu.price.date}: {row.gpu.price.source})" if row.gpu.price and money else ""
    yield Text(f"{row.cost.gpus} x {row.gpu.name}{money}", style="bold green").append(
        _clean(date), style="not bold dim"
    )
    at = row.operating
    yield Text(
        f"instances: {row.cost.instances}, {row.density.instances} on a GPU ({row.density.reason}; "
        f"source: {row.density.source})"
    )
    if row.density.how:
        yield Text(f"how: {row.density.how}")
        yield Text(f"each with --kv-cache-memory-bytes {row.kv_cache_memory_bytes}")
    yield Text(
        f"each: {at.batch:g} requests at a time (bound by {at.limit}), first token {at.ttft * 1000:,.0f} ms, "
        f"then one each {at.itl * 1000:.1f} ms"
    )
    if row.alone is not None:
        yield Text(f"one user alone: about {row.alone:,.0f} tokens a second; compare with Ollama before you cut over")
    origin = next((figure.source for figure in row.figures if "efficiencies" in figure.source), "")
    measured = "measured" in origin
    yield Text(
        "rates are a roofline with measured efficiencies"
        if measured
        else "rates are a roofline with assumed efficiencies: calibrate with --calibrate URL before you sign anything",
        style="dim",
    )
    yield Text(density.OTHER_REASONS, style="dim")


def _explained(row: Row) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(row.gpu.name, style="bold")
    for figure in row.figures:
        line = Text(f"  {figure.name}: {shown(figure.value, figure.unit)}")
        line.append(f"\n      = {_clean(figure.formula)}", style="dim")
        if figure.values:
            line.append(f"\n      = {_clean(figure.values)}", style="dim")
        if figure.source:
            line.append(f"\n      {_clean(figure.source)}", style="dim italic")
        yield line


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
