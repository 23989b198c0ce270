"""Each probe tells a server that behaves from one that does not. The servers are the toy model with a fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.parity.behaviours import PROBES
from migrate.parity.report import LayerName, LayerReport, Verdict
from migrate.parity.run import run
from tests.parity.toy import ToyEngine, conversations, write_bundle

BATTERY = conversations(6, least=8)


def _behaviours(tmp_path: Path, source: ToyEngine, target: ToyEngine, stops: tuple[str, ...] = ()) -> LayerReport:
    parameters = [{"name": "stop", "value": list(stops), "origin": "Modelfile"}]
    bundle = write_bundle(tmp_path / "bundle", parameters=parameters)
    report = run(bundle, source, target, battery=BATTERY, layers=[LayerName.BEHAVIOURS])
    return report.layer(LayerName.BEHAVIOURS)


def _results(layer: LayerReport) -> dict[str, str]:
    return {check.name: check.result for check in layer.checks}


def test_a_server_that_behaves(tmp_path: Path) -> None:
    layer = _behaviours(tmp_path, ToyEngine("ollama", ids=False), ToyEngine())
    assert layer.status == "pass", layer
    assert [check.name for check in layer.checks] == list(PROBES)
    assert "context overflow: a prompt of more than 600 tokens is refused with 400" in " ".join(layer.deviations)
    same = {check.name for check in layer.checks if check.result == "same"}
    assert {"max tokens", "stop in the request", "streaming", "seeds", "many at once"} <= same


@pytest.mark.parametrize(
    ("fault", "probe", "reason"),
    [
        ("max_tokens", "max tokens", "the target"),
        ("stop", "stop in the request", "the target does not end before it"),
        ("format", "JSON mode", "only the source does"),
        ("stream", "streaming", "streamed and whole, the target says different things"),
        ("pieces", "streaming", "tokens came in 1 piece"),
        ("seeds", "seeds", "a seed gives the same answer again only on the source"),
        ("overflow", "context overflow", "a prompt that is too long breaks the target"),
    ],
)
def test_each_fault_is_found_by_its_probe(fault: str, probe: str, reason: str, tmp_path: Path) -> None:
    layer = _behaviours(tmp_path, ToyEngine("ollama", ids=False), ToyEngine(faults=[fault]))
    assert layer.status == "fail"
    found = next(d for d in layer.differences if d.conversation == probe)
    assert reason in found.reason


def test_a_stop_string_of_the_model_that_the_target_does_not_know(tmp_path: Path) -> None:
    source = ToyEngine("ollama", ids=False, stops=["Customer:"])
    good = _behaviours(tmp_path / "a", source, ToyEngine(stops=["Customer:"]), stops=("Customer:",))
    assert good.status == "pass"
    assert _results(good)["stop strings of the model"] == "same"
    bad = _behaviours(tmp_path / "b", source, ToyEngine(), stops=("Customer:",))
    assert bad.differences[0].reason == "the source stops at 'Customer:', the target writes on"
    assert bad.differences[0].target == "'\"before Customer: after\"' (stop)"


def test_a_fault_of_the_source_is_told_and_no_failure(tmp_path: Path) -> None:
    layer = _behaviours(tmp_path, ToyEngine("ollama", ids=False, faults=["format", "seeds", "stop"]), ToyEngine())
    assert layer.status == "pass"
    assert "JSON schema: a JSON schema: only the target does" in layer.deviations


def test_what_cannot_be_asked_is_not_called_the_same(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    report = run(bundle, ToyEngine("llama.cpp"), ToyEngine(), battery=(), layers=[LayerName.BEHAVIOURS])
    assert report.verdict is Verdict.INCONCLUSIVE
    layer = _behaviours(tmp_path / "b", ToyEngine("llama.cpp"), ToyEngine())
    assert _results(layer)["tool calls"] == "unknown"
    assert "tool calls" in layer.notes[-1]
    assert layer.compared == len(PROBES) - list(_results(layer).values()).count("unknown")
