"""junit.xml: the report for a CI system. A layer is a test case, and so is the goal of a throughput run.

There is no one schema; what is written here is what Jenkins, GitLab and GitHub's viewers agree on: <testsuites>, one
<testsuite> with its counts, <testcase> with at most one of <failure>, <error> and <skipped>. Fail is a failure,
inconclusive an error, since neither may look like a pass.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from migrate.parity.render import words
from migrate.parity.render.text import clip, line, visible
from migrate.parity.report import LayerReport, ParityReport, ThroughputReport, Verdict

MAX_TEXT = 4000
MAX_DIFFERENCES = 20
MAX_NOTES = 30
MAX_PROPERTIES = 200
CLASS = "migrate.parity"
KINDS = {"fail": "failure", "inconclusive": "error", "skipped": "skipped"}


def render_junit(report: ParityReport) -> str:
    """The XML document, UTF-8, with valid characters only."""
    suites = ET.Element("testsuites", name="migrate parity")
    suite = ET.SubElement(suites, "testsuite", name=f"migrate parity {line(report.model, 120)}")
    _properties(suite, _about(report))
    cases = [_layer(suite, layer) for layer in report.layers[:MAX_PROPERTIES]]
    if report.throughput is not None and report.throughput.goal is not None:
        cases.append(_goal(suite, report.throughput))
    if report.verdict is not Verdict.PASS and not {"failure", "error"} & set(cases):
        cases.append(_verdict(suite, report))
    throughput = report.throughput.seconds if report.throughput else 0.0
    seconds = sum(_seconds(layer.seconds) for layer in report.layers) + _seconds(throughput)
    counts = {
        "tests": str(len(cases)),
        "failures": str(cases.count("failure")),
        "errors": str(cases.count("error")),
        "skipped": str(cases.count("skipped")),
        "time": f"{seconds:.3f}",
    }
    suites.attrib |= {key: value for key, value in counts.items() if key != "skipped"}
    suite.attrib |= counts
    if (created := words.utc(report.created)) is not None:
        suite.set("timestamp", f"{created:%Y-%m-%dT%H:%M:%S}")
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"


def _about(report: ParityReport) -> dict[str, str]:
    about = {
        "verdict": report.verdict.value,
        "reason": report.reason,
        "next_step": report.next_step,
        "source": report.source,
        "target": report.target,
        "reference": report.reference,
        "generator": report.generator,
        "battery": report.battery,
        "conversations": str(report.conversations),
        "hiccups": str(len(report.hiccups)),
    }
    return {key: value for key, value in about.items() if value}


def _layer(suite: ET.Element, layer: LayerReport) -> str:
    case = _case(suite, CLASS, layer.name.value, layer.seconds)
    found: dict[str, object] = {"compared": layer.compared, "agreed": layer.agreed}
    found |= layer.metrics
    found |= {f"threshold.{name}": limit for name, limit in layer.thresholds.items()}
    found |= {f"check.{check.name}": check.result for check in layer.checks}
    _properties(case, found)
    kind = KINDS.get(layer.status, "")
    if kind:
        _result(case, kind, layer.summary, _differences(layer))
    out = [layer.summary, *(f"note: {line(note)}" for note in layer.notes[:MAX_NOTES])]
    out += [f"known deviation: {line(text)}" for text in layer.deviations[:MAX_NOTES]]
    ET.SubElement(case, "system-out").text = "\n".join(_text(part) for part in out)
    return kind


def _goal(suite: ET.Element, throughput: ThroughputReport) -> str:
    goal = throughput.goal
    assert goal is not None
    name = f"{goal.requests_per_min:g} requests a minute"
    case = _case(suite, f"{CLASS}.throughput", name, throughput.seconds)
    _properties(case, {"measured_per_min": goal.measured_per_min, "slo": goal.slo, "tool": throughput.tool})
    if not goal.reached:
        _result(case, "failure", goal.statement, f"workload: {line(throughput.workload)}")
    out = [goal.statement, *(f"error: {line(error)}" for error in throughput.errors[:MAX_NOTES])]
    out += [f"caveat: {line(caveat)}" for caveat in throughput.caveats[:MAX_NOTES]]
    ET.SubElement(case, "system-out").text = "\n".join(_text(part) for part in out)
    return "" if goal.reached else "failure"


def _verdict(suite: ET.Element, report: ParityReport) -> str:
    """No layer says why the run is no pass, and still it must not look like one."""
    kind = KINDS[report.verdict.value]
    _result(_case(suite, CLASS, "verdict", 0.0), kind, report.reason, report.next_step)
    return kind


def _case(suite: ET.Element, class_name: str, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=class_name, name=name, time=f"{_seconds(seconds):.3f}")


def _result(case: ET.Element, kind: str, message: str, text: str) -> None:
    found = ET.SubElement(case, kind, message=line(message))
    if kind != "skipped":
        found.set("type", f"{CLASS}.{'Failed' if kind == 'failure' else 'Inconclusive'}")
        found.text = _text(text)


def _differences(layer: LayerReport) -> str:
    unit = "character" if layer.name == "prompt" else "token"
    found = []
    for difference in layer.differences[:MAX_DIFFERENCES]:
        where = f" at {unit} {difference.position}" if difference.position is not None else ""
        found.append(f"«{line(difference.conversation, 160)}»{where}: {line(difference.reason)}")
        found += [
            f"  {side} {line(text, 300)}"
            for side, text in (("source", difference.source), ("target", difference.target))
            if text
        ]
    if (more := len(layer.differences) - MAX_DIFFERENCES) > 0:
        found.append(f"and {more:,} more in report.json")
    return "\n".join(found) or f"{words.layer_title(layer.name)}: {line(layer.summary)}"


def _properties(element: ET.Element, found: Mapping[str, object]) -> None:
    if not found:
        return
    properties = ET.SubElement(element, "properties")
    for name, value in list(found.items())[:MAX_PROPERTIES]:
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        ET.SubElement(properties, "property", name=line(name, 120), value=line(shown))


def _text(text: str) -> str:
    return visible(clip(text, MAX_TEXT))


def _seconds(value: float) -> float:
    return value if math.isfinite(value) and value >= 0 else 0.0
