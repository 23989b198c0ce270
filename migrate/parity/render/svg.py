"""matplotlib's SVG as an element of the page: the page's colours and font, words for those who cannot see it.

Every colour is drawn as a sentinel and becomes a CSS variable (`INK`), so that a chart follows light and dark; text
stays text in the page's font. A chart is 360 units wide, so that it is read at its own size on a phone. The same chart
gives the same bytes: no dates, ids from a fixed salt, matplotlib's own defaults whatever the user's matplotlibrc says.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

INK = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "source": "#040404",
    "target": "#050505",
    "good": "#060606",
    "bad": "#070707",
    "paper": "#080808",
    "third": "#090909",
    "fourth": "#0a0a0a",
}
"""Sentinels, by the name of the CSS variable that takes their place."""

WIDTH = 5.0
"""Inches of 72 units."""


@dataclass(frozen=True, slots=True)
class Chart:
    """`svg` is one <svg> element with title and description. `key` is unique in a report."""

    key: str
    title: str
    description: str
    svg: str


def draw_svg(key: str, title: str, description: str, paint: Callable[[Any], None], *, height: float = 3.3) -> Chart:
    with _style(key):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        paint(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Chart(key, title, description, _embedded(out.getvalue(), key, title, description))


@contextmanager
def _style(key: str) -> Iterator[None]:
    """matplotlib as we want it, whatever the user's settings are; they are back afterwards."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": key,
                "font.size": 11,
                "axes.labelsize": 11,
                "xtick.labelsize": 10.5,
                "ytick.labelsize": 10.5,
                "text.color": INK["ink"],
                "axes.labelcolor": INK["muted"],
                "axes.edgecolor": INK["muted"],
                "axes.linewidth": 0.8,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "axes.axisbelow": True,
                "axes.facecolor": "none",
                "figure.facecolor": "none",
                "savefig.facecolor": "none",
                "grid.color": INK["line"],
                "grid.linewidth": 0.8,
                "xtick.color": INK["muted"],
                "ytick.color": INK["muted"],
                "xtick.labelcolor": INK["muted"],
                "ytick.labelcolor": INK["muted"],
                "text.parse_math": False,
            }
        )
        yield


def _embedded(svg: str, key: str, title: str, description: str) -> str:
    """An SVG file as an element of an HTML page: no prolog, ids of its own, colours and font of the page, and words
    for those who cannot see it."""
    body = svg[svg.index("<svg") :]
    head, _, body = body.partition(">")
    box = re.search(r'viewBox="([^"]+)"', head)
    assert box is not None, "matplotlib writes a viewBox"
    for name, sentinel in INK.items():
        body = body.replace(sentinel, f"var(--{name})")
    body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', body)
    body = re.sub(r"font-family: [^;\"]+; ?|font: ", "", body)
    body = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", body)
    body = re.sub(r'\b(d|x|y|transform)="([^"]+)"', lambda m: f'{m[1]}="{_rounded(m[2])}"', body)
    body = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL
    )
    words = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    labels = f'role="img" aria-labelledby="{key}-title" aria-describedby="{key}-desc"'
    return re.sub(r"\n\s*", "\n", f'<svg viewBox="{box[1]}" {labels}>{words}{body}'.strip())


def _rounded(numbers: str) -> str:
    return " ".join(re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", numbers).split())
