"""report.md: the report as a comment under a pull request, in GitHub's Markdown.

A comment may have 65,536 characters, so lists and texts become shorter until the whole fits. Text of a model can set no
link, call nobody (@name), and leaves no table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migrate.parity.render import charts, words
from migrate.parity.render.loads import headline_ratios
from migrate.parity.render.text import Pieces, first, line, number, percent, side_by_side
from migrate.parity.report import Difference, Example, LayerReport, Load, ParityReport, Ratio

MAX_CHARACTERS = 60_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a list (`items`) and of a text (`characters`) is shown."""

    items: int
    characters: int


SIZES = (Size(20, 300), Size(8, 160), Size(3, 80))
FLOOR = Size(1, 40)


def render_markdown(report: ParityReport) -> str:
    """The report in at most `MAX_CHARACTERS`."""
    for size in SIZES:
        text = _render(report, size)
        if len(text) <= MAX_CHARACTERS:
            return text
    return _render(report, FLOOR)[:MAX_CHARACTERS]


def prose(text: object, limit: int) -> str:
    """Text as a sentence, in or outside of a table: nothing in it is markup but `code` in pairs of single backticks."""
    parts = line(str(text), limit).split("`")
    if len(parts) % 2 == 0 or not all(parts[1::2]):
        return _escaped("`".join(parts))
    return "".join(code(part, limit) if index % 2 else _escaped(part) for index, part in enumerate(parts))


def _escaped(text: str) -> str:
    shown = re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[#>+-])", r"\\\1", text)
    shown = re.sub(r"^(\d+)([.)])", r"\1\\\2", shown)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"(@|://|www\.|#(?=\d))", r"\1<!-- -->", shown)


def code(text: str, limit: int) -> str:
    """Text as a code span, in or outside of a table."""
    shown = line(text, limit).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}" if shown else ""


def fenced(pieces: Pieces, limit: int) -> str:
    """A text as a block of code, the first difference between ⟦ and ⟧."""
    text = "".join(f"⟦{piece.text}⟧" if piece.kind == "mark" else piece.text for piece in pieces)
    text = text if len(text) <= limit else text[:limit] + "…"
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}text\n{text}\n{fence}"


def _render(report: ParityReport, size: Size) -> str:
    from migrate.resources import render

    throughput = report.throughput
    return render(
        "report/report.md.j2",
        r=report,
        sign={"pass": "✅", "fail": "❌", "inconclusive": "⚠️", "skipped": "➖"},
        meaning=words.VERDICTS[report.verdict],
        titles=words.layer_title,
        client_names=words.CLIENTS,
        results=words.results(report.layers),
        headline=[
            (words.metric(r.metric), charts.ratio_text(r.value), words.load_point(r))
            for r in headline_ratios(throughput)
        ],
        layers=first(report.layers, 40)[0],
        numbers=[(layer, words.rows(layer)[: size.items]) for layer in report.layers[:40] if layer.metrics],
        differences=[row for layer in report.layers[:40] for row in _differences(layer, size)],
        notes=[(layer.name, note) for layer in report.layers[:40] for note in layer.notes[: size.items]],
        deviations=[(layer.name, text) for layer in report.layers[:40] for text in layer.deviations[: size.items]],
        examples=[_example(example, size) for example in report.evidence.examples[: min(3, size.items)]],
        loads=[_load(load) for load in (throughput.loads[: 2 * size.items] if throughput else ())],
        ratios=[_ratio(ratio) for ratio in (throughput.ratios[: 2 * size.items] if throughput else ())],
        plan=report.plan[: size.items],
        p=lambda text: prose(text, size.characters),
        c=lambda text: code(str(text), size.characters),
        some=lambda items: first(items, size.items)[0],
        more=lambda items: first(items, size.items)[1],
        number=number,
        percent=percent,
    )


def _differences(layer: LayerReport, size: Size) -> Sequence[tuple[LayerReport, Difference]]:
    return [(layer, difference) for difference in layer.differences[: size.items]]


def _example(example: Example, size: Size) -> dict[str, Any]:
    source, target = side_by_side(example.source, example.target, example.at, context=size.characters // 2)
    limit = 2 * size.characters
    return {"example": example, "source": fenced(source, limit), "target": fenced(target, limit)}


def _load(load: Load) -> list[str]:
    latencies = [
        " / ".join(number(found.get(p)) for p in ("p50", "p95", "p99")) if found else "–"
        for found in (load.ttft_ms, load.itl_ms, load.e2e_ms)
    ]
    counts = [f"{load.requests:,}", f"{load.errors:,}", number(load.requests_per_min), number(load.tokens_per_s)]
    return [words.load_point(load), load.side, *counts, number(load.output_tokens), *latencies]


def _ratio(ratio: Ratio) -> list[str]:
    interval = f"{charts.ratio_text(ratio.low)} to {charts.ratio_text(ratio.high)}"
    point = words.load_point(ratio)
    return [
        prose(words.metric(ratio.metric), 80),
        point,
        charts.ratio_text(ratio.value),
        interval,
        charts.judged(ratio),
    ]
