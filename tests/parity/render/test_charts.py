"""Charts: what is drawn, that the page colours them, and that numbers nobody should send do no harm."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from migrate.parity.render import charts
from migrate.parity.render.svg import Chart
from migrate.parity.report import Curve, Load, Ratio
from tests.parity.render import sample


def _texts(chart: Chart) -> list[str]:
    return [text.text or "" for text in ET.fromstring(chart.svg).iter("text")]


def _load(**values: object) -> Load:
    base: dict[str, object] = {
        "side": "target",
        "concurrency": 1,
        "repeats": 1,
        "requests": 1,
        "errors": 0,
        "seconds": 1,
        "input_tokens": 1,
        "output_tokens": 1,
        "tokens_per_s": 1,
        "requests_per_min": 1,
        "e2e_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
    }
    return Load.model_validate(base | values)


def test_all_charts_of_a_report() -> None:
    report = sample.passing()
    drawn = charts.all_charts(report.evidence.logprob_pairs, report.evidence.survival, report.throughput)
    assert drawn.scatter is not None
    assert drawn.survival is not None
    assert [chart.key for chart in drawn.load] == [
        "requests_per_min",
        "tradeoff",
        "tokens_per_s",
        "ttft_ms",
        "itl_ms",
        "e2e_ms",
    ]
    assert [chart.title for chart in drawn.ratios] == [
        "Requests a minute",
        "Tokens a second",
        "Time to first token, p50",
        "End to end, p95",
    ]
    for chart in (drawn.scatter, drawn.survival, *drawn.load, *drawn.ratios):
        svg = chart.svg
        assert ET.fromstring(svg).attrib["viewBox"].startswith("0 0 360 ")
        assert not re.findall(r"#[0-9a-fA-F]{6}", svg), "every colour is the page's"
        assert "var(--" in svg
        assert "font-family" not in svg
        assert "://" not in svg
        assert "<style" not in svg
        assert all(name.startswith(f"{chart.key}-") for name in re.findall(r'\bid="([^"]+)"', svg))
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_the_scatter_has_a_dot_for_each_token_and_the_diagonal() -> None:
    chart = charts.scatter([(-0.5, -0.4), (-3.0, -1.0), (-0.1, -0.1)])
    assert chart is not None
    assert chart.svg.count("<use") >= 3
    assert "Farthest from it: source -3, target -1." in chart.description
    many = charts.scatter([(-n / 1000, -n / 1000) for n in range(10_000)])
    assert many is not None
    assert many.svg.count("<use") <= charts.MAX_POINTS + 40


@pytest.mark.parametrize("pairs", [[], [(math.nan, -1.0)], [(-math.inf, -1.0), (1e300, -1e300)]])
def test_nothing_to_draw(pairs: list[tuple[float, float]]) -> None:
    assert charts.scatter(pairs) is None


def test_survival_begins_with_all() -> None:
    curve = Curve(label="x", tokens=[10, 4], share=[0.5, 0.75], answers=4, censored=2)
    assert charts.curve_steps(curve) == [(0.0, 1.0), (4.0, 0.75), (10.0, 0.5)]
    odd = Curve(label="x", tokens=[-1, 2, 3], share=[1.0, 7.0, math.nan], answers=1, censored=0)
    assert charts.curve_steps(odd) == [(0.0, 1.0), (2.0, 1.0)]
    assert charts.survival([Curve(label="x", tokens=[], share=[], answers=0, censored=0)]) is None


def test_concurrency_one_has_its_tick_even_when_it_was_not_measured() -> None:
    chart = charts.load_charts([_load(concurrency=8), _load(side="source", concurrency=32)])[0]
    texts = _texts(chart)
    assert texts[:3] == ["1", "8", "32"]
    assert charts.load_charts([_load(concurrency=None, request_rate=10.0)]) == []


def test_wide_latencies_are_logarithmic_and_say_so() -> None:
    narrow, wide = (
        charts.load_charts([_load(), _load(side="source", e2e_ms={"p50": top, "p95": top, "p99": top})])[-1]
        for top in (4.0, 40_000.0)
    )
    assert "ms" in _texts(narrow)
    assert "s (log scale)" in _texts(wide)


def test_a_missing_percentile_is_left_out() -> None:
    drawn = charts.load_charts([_load(e2e_ms={"p50": 1.0}), _load(side="source", e2e_ms=None)])
    assert [chart.key for chart in drawn] == ["requests_per_min", "tokens_per_s", "e2e_ms"]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(1.01, 3.0, "better"), (0.2, 0.99, "worse"), (0.9, 1.1, "undecided"), (1.0, 2, "undecided")],
)
def test_a_ratio_is_judged_by_its_interval(low: float, high: float, word: str) -> None:
    ratio = Ratio(metric="tokens_per_s", concurrency=1, value=(low + high) / 2, low=low, high=high)
    assert charts.judged(ratio) == word
    (chart,) = charts.ratio_charts([ratio])
    assert word in chart.description
    assert "1 at a time" in _texts(chart)


def test_text_of_others_is_not_drawn() -> None:
    ratio = Ratio(metric="$\\frac{</svg><script>", concurrency=1, value=2, low=1, high=3)
    (chart,) = charts.ratio_charts([ratio])
    assert ET.fromstring(chart.svg).find("title") is not None
    assert "<script>" not in chart.svg


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, 1e300])
def test_impossible_ratios_are_not_drawn(value: float) -> None:
    assert charts.ratio_charts([Ratio(metric="x", concurrency=1, value=1, low=value, high=2)]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, 1e300])
def test_impossible_loads_do_no_harm(value: float) -> None:
    load = _load(requests_per_min=value, tokens_per_s=value, e2e_ms={"p50": value, "p95": value, "p99": value})
    for chart in charts.load_charts([load, _load(side="source")]):
        ET.fromstring(chart.svg)


def test_the_users_settings_of_matplotlib_are_neither_used_nor_changed() -> None:
    pairs = [(-1.0, -2.0)]
    plain = charts.scatter(pairs)
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert charts.scatter(pairs) == plain
        assert mpl.rcParams["font.size"] == 30


def test_without_matplotlib_words_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "ollama-to-vllm[parity]" in charts.all_charts([(-1.0, -1.0)], [], None).missing
    assert charts.all_charts([], [], None).missing == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0904, "0.09"),
        (0.0492, "0.049"),
        (0.147, "0.15"),
        (1.0, "1.00"),
        (9.999, "10.00"),
        (64.53, "64.5"),
        (0, "0.00"),
    ],
)
def test_ratios_have_two_digits(value: float, shown: str) -> None:
    assert charts.ratio_text(value) == shown
