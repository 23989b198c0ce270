"""junit.xml: the samples word for word, what CI systems ask of it, and that it is XML whatever a model said."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest

from migrate.parity.render import render_junit
from migrate.parity.report import ParityReport, Verdict
from tests.parity.render import sample
from tests.parity.render.golden.__main__ import NAMES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    assert render_junit(getattr(sample, name)()) == (GOLDEN / f"{name}.xml").read_text(encoding="utf-8")


ALLOWED = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
        {"properties", "testcase"},
    ),
    "testcase": (
        {"classname", "name", "time"},
        {"properties", "failure", "error", "skipped", "system-out"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}
"""Attributes and children of each element, as the schemas of Jenkins (xUnit) and Ant have them in common."""


@pytest.mark.parametrize("name", [*NAMES, "hostile"])
def test_schema(name: str) -> None:
    root = ET.fromstring(render_junit(getattr(sample, name)()))
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes, element.tag
        assert {child.tag for child in element} <= children, element.tag
        if "time" in element.attrib:
            assert float(element.attrib["time"]) >= 0
    (suite,) = root
    cases = suite.findall("testcase")
    results = Counter(child.tag for case in cases for child in case if child.tag in ("failure", "error", "skipped"))
    assert suite.attrib["tests"] == root.attrib["tests"] == str(len(cases))
    assert suite.attrib["failures"] == root.attrib["failures"] == str(results["failure"])
    assert suite.attrib["errors"] == root.attrib["errors"] == str(results["error"])
    assert suite.attrib["skipped"] == str(results["skipped"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib.get("timestamp", "2026-11-25T14:03:11"))
    assert len({case.attrib["name"] for case in cases}) == len(cases)
    for case in cases:
        assert sum(child.tag in ("failure", "error", "skipped") for child in case) <= 1
        properties = [p.attrib["name"] for p in case.findall("properties/property")]
        assert len(properties) == len(set(properties))


def _case(report: ParityReport, name: str) -> ET.Element:
    root = ET.fromstring(render_junit(report))
    return next(case for case in root.iter("testcase") if case.attrib["name"] == name)


def test_results_become_what_ci_shows() -> None:
    assert _case(sample.failing(), "prompt").find("failure") is not None
    assert _case(sample.partial(), "logprobs").find("error") is not None
    assert _case(sample.partial(), "text").find("skipped") is not None
    assert [child.tag for child in _case(sample.passing(), "text")] == ["properties", "system-out"]
    assert _case(sample.passing(), "500 requests a minute").find("failure") is None
    failed = _case(sample.partial(), "500 requests a minute").find("failure")
    assert failed is not None
    assert failed.attrib["message"].startswith("500 requests/min: not reached")


def test_numbers_are_properties() -> None:
    found = {p.attrib["name"]: p.attrib["value"] for p in _case(sample.passing(), "logprobs").iter("property")}
    assert found["top1_agreement"] == "0.99382"
    assert found["threshold.min_top1_agreement"] == "0.95"
    assert found["compared"] == "398"
    checks = {p.attrib["name"]: p.attrib["value"] for p in _case(sample.passing(), "behaviours").iter("property")}
    assert checks["check.reasoning"] == "unknown"


def test_a_failure_says_where() -> None:
    failure = _case(sample.failing(), "prompt").find("failure")
    assert failure is not None
    assert (failure.text or "").startswith("«one question» at character 58: '\\n<|im_start|>' became")


@pytest.mark.parametrize(("verdict", "kind"), [(Verdict.INCONCLUSIVE, "error"), (Verdict.FAIL, "failure")])
@pytest.mark.parametrize("layers", [0, None], ids=["no layers", "all layers pass"])
def test_no_pass_looks_like_none(verdict: Verdict, kind: str, layers: int | None) -> None:
    report = sample.embedding()
    report.verdict, report.layers = verdict, report.layers[:layers]
    found = _case(report, "verdict").find(kind)
    assert found is not None
    assert found.attrib["message"] == report.reason


def test_hostile_text_is_bounded_xml() -> None:
    text = render_junit(sample.hostile())
    assert len(text) < 300_000
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", text)
    assert "<script>" not in text
