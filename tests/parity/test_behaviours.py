"""Each probe tells a server that behaves from one that does not. The servers are the toy model with a fault."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from migrate.engines.base import Ask, Conversation, Generation, Prompt
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


def test_a_stop_string_that_neither_side_knows_is_not_called_working(tmp_path: Path) -> None:
    layer = _behaviours(tmp_path, ToyEngine("ollama", ids=False), ToyEngine(), stops=("Customer:",))
    assert _results(layer)["stop strings of the model"] == "told"


def test_answers_that_change_when_others_are_asked_too(tmp_path: Path) -> None:
    class Crowded(ToyEngine):
        def chat(self, prompt: Prompt, ask: Ask) -> Generation:
            said = super().chat(prompt, ask)
            alone = threading.current_thread() is threading.main_thread()
            return said if alone else replace(said, text=said.text[:4])

    layer = _behaviours(tmp_path, ToyEngine("ollama", ids=False), Crowded())
    assert layer.status == "pass"
    assert "6 at once are all answered, 0 word for word as alone: run parity with --concurrency 8" in str(layer.checks)


TOOLS = tuple(Conversation(c.name, c.messages, ({"type": "function", "function": {"name": "f"}},)) for c in BATTERY)


@pytest.mark.parametrize(
    ("faults", "served", "result"),
    [(["tools"], "enable-auto-tool-choice: true", "different"), (["tools"], "", "told"), ([], "", "unknown")],
)
def test_a_target_that_refuses_tools(faults: list[str], served: str, result: str, tmp_path: Path) -> None:
    """Whatever the source can tell of calls: clients get a 400. Where the bundle has no parser, it says so itself."""
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "serve.yaml").write_text(served)
    target = ToyEngine(faults=faults)
    report = run(bundle, ToyEngine("llama.cpp"), target, battery=TOOLS, layers=[LayerName.BEHAVIOURS])
    assert _results(report.layer(LayerName.BEHAVIOURS))["tool calls"] == result


@pytest.mark.parametrize(("limit", "result"), [(20, "same"), (None, "different"), (30, "different"), (8, "unknown")])
def test_a_limit_of_the_model_that_the_server_does_not_read(limit: int | None, result: str, tmp_path: Path) -> None:
    parameters = [{"name": "num_predict", "value": 20, "origin": "Modelfile"}]
    bundle = write_bundle(tmp_path / "bundle", parameters=parameters)
    target = ToyEngine(limit=limit)
    report = run(bundle, ToyEngine("llama.cpp"), target, battery=BATTERY, layers=[LayerName.BEHAVIOURS])
    assert _results(report.layer(LayerName.BEHAVIOURS))["max tokens of the model"] == result
    assert (report.verdict is Verdict.FAIL) == (result == "different")
