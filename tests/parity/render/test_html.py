"""The page: its parts, that it needs nothing else, and that nothing a model says can do harm in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest

from migrate.parity.render import render_html
from migrate.parity.report import Difference, Evidence, Example, LayerName, LayerReport, ParityReport, ThroughputReport
from migrate.resources import directory
from tests.parity.render import sample
from tests.parity.render.page import Element, parse

REPORTS = (sample.passing, sample.failing, sample.partial, sample.embedding)


@cache
def _html(make: Callable[[], ParityReport]) -> str:
    return render_html(make())


@cache
def _page(make: Callable[[], ParityReport]) -> Element:
    return parse(_html(make))


@pytest.fixture(scope="module")
def passing() -> Element:
    return _page(sample.passing)


def _words(element: Element) -> str:
    return " ".join(element.words.split())


@pytest.mark.parametrize(
    ("make", "word", "why"),
    [
        (sample.passing, "PASS", "401 of 412 answers are the same"),
        (sample.failing, "FAIL", "Prompt: 12 of 14 prompts differ"),
        (sample.partial, "INCONCLUSIVE", "Logprobs: vLLM ended on signal 9"),
        (sample.embedding, "PASS", "All 24 vectors are the same"),
    ],
)
def test_the_verdict_comes_first_and_in_words(make: Callable[[], ParityReport], word: str, why: str) -> None:
    report = make()
    page = _page(make)
    assert page.all("title")[0].text.startswith(f"{word}: parity of {report.model}")
    verdict = page.by_id("verdict")
    assert page.all("section")[0] is verdict
    assert word in verdict.all("h2")[0].text
    said = _words(verdict)
    assert why in said
    assert report.next_step[1:] in said


@pytest.mark.parametrize(
    ("make", "there", "charts"),
    [
        (sample.passing, ["clients", "layers", "certainty", "evidence", "examples", "throughput"], 2 + 6 + 4),
        (sample.failing, ["layers", "certainty", "evidence", "examples"], 2),
        (sample.partial, ["clients", "layers", "certainty", "throughput"], 6 + 2),
        (sample.embedding, ["layers"], 0),
    ],
)
def test_sections(make: Callable[[], ParityReport], there: list[str], charts: int) -> None:
    page = _page(make)
    sections = [section.attributes["id"] for section in page.all("section")]
    assert sections == ["verdict", *there, "traffic", "details"]
    assert [link.attributes["href"] for link in page.all("nav")[0].all("a")] == [f"#{s}" for s in sections[1:]]
    assert len([svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]) == charts


def test_what_was_not_run_is_told() -> None:
    details = _words(_page(sample.embedding).by_id("details"))
    assert "the noise floor: how much each server differs from itself is not known" in details
    assert details.endswith("throughput")


def test_a_row_for_each_layer(passing: Element) -> None:
    report = sample.passing()
    (table,) = [table for table in passing.by_id("layers").all("table") if table.attributes.get("class") == "layers"]
    rows = [row for row in table.all("tr") if row.all("th") and row.attributes.get("role") == "row"]
    body = [row for row in rows if row.all("th")[0].attributes["scope"] == "row"]
    assert len(body) == len(report.layers)
    cells = [_words(cell) for cell in body[4].children if isinstance(cell, Element)]
    assert cells[:3] == ["Log-probabilities", "✓ pass", "398/398"]
    assert cells[3].startswith("Top-1 agreement 99.4%")
    assert cells[4] == "213"


def test_numbers_stand_beside_what_they_were_held_to(passing: Element) -> None:
    rows = [[_words(c) for c in row.children if isinstance(c, Element)] for row in passing.by_id("layer-5").all("tr")]
    assert ["same most likely token", "99.4%", "at least 95%", "✓ yes"] in rows
    assert ["mean KL divergence, nats", "8.6e-05", "at most 0.00504", "✓ yes"] in rows
    tasks = [[_words(c) for c in row.children if isinstance(c, Element)] for row in passing.by_id("layer-9").all("tr")]
    assert ["its lower bound", "-1.1%", "at least -2.0%", "✓ yes"] in tasks


def test_checks_are_a_table(passing: Element) -> None:
    rows = [[_words(c) for c in row.children if isinstance(c, Element)] for row in passing.by_id("layer-8").all("tr")]
    assert ["reasoning", "? not decided", "this model does not reason"] in rows
    assert ["context overflow", "– known deviation", "vLLM answers 400; Ollama drops old messages"] in rows


def test_many_changes_of_client_code_are_folded() -> None:
    report = sample.passing()
    report.clients[0].changes = [f"field {n}: vLLM ignores it. To do: leave it out." for n in range(8)]
    card = parse(render_html(report)).all("article")[0]
    assert [len(listed.all("li")) for listed in card.all("ul")] == [5, 3]
    assert card.all("summary")[0].text == "3 more"
    assert _words(card.all("li")[7]) == "field 7: vLLM ignores it. To do: leave it out."


def test_failed_layers_are_open_and_others_closed() -> None:
    page = _page(sample.failing)
    layers = [e for e in page.everything() if e.attributes.get("id", "").startswith("layer-")]
    opened = [layer.attributes["id"] for layer in layers if "open" in layer.attributes]
    assert opened == ["layer-2", "layer-3", "layer-5", "layer-6"]


def test_clients_plan_noise_deviations_traffic_and_goal_are_told(passing: Element) -> None:
    native, openai = passing.by_id("clients").all("article")
    assert "✓ holds" in _words(native)
    assert "options.num_predict becomes max_completion_tokens (1,204 of 5,210 requests)" in _words(native)
    assert "✕ does not hold" in _words(openai)
    certainty = _words(passing.by_id("certainty"))
    assert "1,600 1,546 2 points 0.05 80% 81.2% 10% ✓ yes" in certainty
    assert "the target 7 of 8" in certainty
    assert "as a Go struct" in _words(passing.by_id("layers"))
    traffic = _words(passing.by_id("traffic"))
    assert "412 conversations (requests.jsonl" in traffic
    assert "Redacted:" in traffic
    assert "read 5,210 duplicates 1,874 not usable 63 used 412" in traffic
    throughput = _words(passing.by_id("throughput"))
    assert "✓ reached 500 requests/min: reached" in throughput
    assert "Ollama has no ignore_eos" in throughput
    assert "2 requests ended in an error." in throughput


def test_what_is_not_proved_does_not_hold() -> None:
    page = _page(sample.partial)
    assert "? not proved" in _words(page.by_id("clients"))
    assert "503 Service Unavailable" in _words(page.by_id("certainty"))
    assert "the server was gone after 3 answers" in _words(page.by_id("throughput"))
    assert "✕ not reached" in _words(page.by_id("throughput"))


def test_concurrency_one_is_always_spoken_of() -> None:
    report = sample.passing()
    assert "1 at a time" in _words(parse(render_html(report)).by_id("verdict"))
    assert report.throughput is not None
    report.throughput.loads = [load for load in report.throughput.loads if load.concurrency != 1]
    assert "One request at a time was not measured." in _words(parse(render_html(report)).by_id("throughput"))


def test_first_differences_are_marked_where_they_are() -> None:
    report = sample.passing()
    report.evidence = Evidence(
        examples=[
            Example(
                conversation="c", layer=LayerName.TEXT, reason="r", at=8, source="It is a <b>", target="It is a cat."
            )
        ]
    )
    source, target = parse(render_html(report)).by_id("examples").all("pre")
    assert source.children == ["\nIt is a ", source.all("mark")[0]]
    assert source.all("mark")[0].text == "<b>"
    assert target.all("mark")[0].text == "cat."


def test_a_line_break_at_the_beginning_is_not_lost() -> None:
    """HTML drops the first line break in <pre>, so there has to be one more."""
    report = sample.passing()
    example = Example(conversation="c", layer=LayerName.TEXT, reason="r", at=2, source="\n\nA", target="\n\nB")
    report.evidence = Evidence(examples=[example])
    assert '<pre dir="auto">\n\n\n<mark>A</mark></pre>' in render_html(report)


@pytest.mark.parametrize(
    ("layer", "source", "target", "marks"),
    [
        (LayerName.PROMPT, "…'a>\\n<b'…", "…'a><b'…", ["\\n", "‸"]),
        (LayerName.PROMPT, "'a\\tb'", "'a\\nb'", ["\\tb'", "\\nb'"]),
        (LayerName.TOKENS, "a:10 b:112 c:3", "a:10 b:117 c:3", ["b:112", "b:117"]),
        (LayerName.LOGPROBS, "' Ada' -0.412", "'.' -0.020", []),
    ],
)
def test_differences_of_layers_are_marked(layer: LayerName, source: str, target: str, marks: list[str]) -> None:
    report = sample.embedding()
    found = Difference(conversation="c", reason="r", position=7, source=source, target=target)
    report.layers = [LayerReport(name=layer, status="fail", summary="s", differences=[found])]
    details = parse(render_html(report)).by_id("layer-1")
    assert [mark.text for mark in details.all("mark")] == marks
    assert f"c {'character' if layer == 'prompt' else 'token'} 7" in _words(details)


@pytest.mark.parametrize("make", REPORTS)
def test_the_page_needs_nothing_else(make: Callable[[], ParityReport]) -> None:
    page = _page(make)
    assert not page.all("script")
    assert not [e for e in page.everything() if any(name.startswith("on") for name in e.attributes)]
    for element in page.everything():
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            link = element.attributes.get(name, "")
            assert not link or link.startswith("#") or link == "data:,", link
    css = page.all("style")[0].text + "".join(e.attributes.get("style", "") for e in page.everything())
    assert set(re.findall(r"url\(([^)]*)", css)) == set()
    assert all(link.startswith("#") for e in page.all("svg") for c in e.everything()
               for link in re.findall(r"url\(([^)]*)", c.attributes.get("clip-path", "")))  # fmt: skip
    assert "@import" not in css
    policy = page.all("meta")[1].attributes
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'")
    assert "script-src" not in policy["content"]


@pytest.mark.parametrize("make", REPORTS)
def test_the_page_can_be_read_by_all(make: Callable[[], ParityReport]) -> None:
    page = _page(make)
    assert page.all("html")[0].attributes["lang"] == "en"
    assert len(page.all("h1")) == 1
    levels = [int(e.tag[1]) for e in page.everything() if re.fullmatch("h[1-6]", e.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    for table in page.all("table"):
        assert table.all("th")
        assert all("scope" in cell.attributes for cell in table.all("th"))
        assert table.all("caption") or table.attributes.get("aria-labelledby")
    for svg in page.all("svg"):
        if svg.attributes.get("aria-hidden") != "true":
            title, description = svg.all("title")[0], svg.all("desc")[0]
            assert svg.attributes["aria-labelledby"] == title.attributes["id"]
            assert svg.attributes["aria-describedby"] == description.attributes["id"]
            assert len(description.text) > 40
    ids = [e.attributes["id"] for e in page.everything() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for badge in page.all("span"):
        if "badge" in badge.attributes.get("class", ""):
            assert re.search("[a-z]{2}", badge.text), "colour is never the only sign"


def test_the_same_report_gives_the_same_page() -> None:
    assert render_html(sample.passing()) == _html(sample.passing)


def test_a_page_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = parse(render_html(sample.passing()))
    assert not [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    evidence = _words(page.by_id("evidence"))
    assert "matplotlib, which is not installed: pip install 'ollama-to-vllm[parity]'" in evidence
    assert "95th percentile" in evidence
    assert all("open" in details.attributes for details in page.by_id("evidence").all("details"))
    assert all("open" in details.attributes for details in page.by_id("throughput").all("details"))
    assert "requests a minute 1 at a time 0.89" in _words(page.by_id("throughput")).lower()


@pytest.fixture(scope="module")
def hostile() -> str:
    return _html(sample.hostile)


def test_hostile_text_is_shown_and_does_nothing(hostile: str) -> None:
    page = parse(hostile)
    assert not page.all("script")
    assert not page.all("img")
    assert "<script>alert('x')</script>" in page.by_id("verdict").text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]", hostile)
    assert "\\x1b[2J\\u202egnp.exe" in page.text
    hostile.encode("utf-8")


def test_hostile_text_is_bounded(hostile: str) -> None:
    assert len(hostile) < 600_000
    assert max(len(word) for word in parse(hostile).text.split()) < 2_000


def test_a_place_in_a_huge_text_is_marked(hostile: str) -> None:
    source, target = parse(hostile).by_id("examples").all("pre")[:2]
    assert source.all("mark")[0].text.startswith("x")
    assert target.all("mark")[0].text.startswith("<script>")
    assert "… 8,999,200 characters …" in target.text


def test_an_empty_report() -> None:
    report = sample.embedding()
    report.layers, report.reason, report.next_step, report.model = [], "", "", ""
    report.throughput = ThroughputReport(tool="", workload="", order=[], seed=0, loads=[])
    page = parse(render_html(report))
    assert "No layer was run." in _words(page.by_id("layers"))
    assert "no reason was given" in _words(page.by_id("verdict")).lower()


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    """WCAG AA: 4.5 for text, 3 for lines and marks of charts."""
    css = (directory("templates") / "report" / "report.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): (#\w+);", re.findall(r":root \{([^}]*)\}", css)[scheme]))
    for behind in ("paper", "raised", "sunk"):
        for text in ("ink", "muted", "good", "bad", "unsure"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for mark in ("source", "target", "third", "fourth"):
        assert _contrast(colours[mark], colours["paper"]) >= 3, mark
    assert _contrast(colours["mark-ink"], colours["mark"]) >= 4.5
