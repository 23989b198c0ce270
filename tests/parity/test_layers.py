"""The pure parts of the layers, the facts and the report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from migrate.engines.base import Candidate, TokenLogprob
from migrate.errors import BadInput
from migrate.parity import tokens
from migrate.parity.battery import PLAIN, WITH_TOOLS, battery, digest
from migrate.parity.facts import BundleFacts, SourceFacts, read_bundle
from migrate.parity.outputs import near_tie_gap
from migrate.parity.prompts import first_difference, same_prompt
from migrate.parity.render import write_all
from migrate.parity.render.terminal import render_terminal
from migrate.parity.report import Difference, LayerName, LayerReport, ParityReport, Verdict
from migrate.parity.run import run
from migrate.parity.vocabulary import Vocabulary
from tests.parity.toy import ToyEngine, conversations, write_bundle

VOCABULARY = Vocabulary({i: f"t{i}".encode() for i in range(9)}, frozenset({9}), {9: "<s>"}, {})


@pytest.mark.parametrize(
    ("source", "target", "bos", "same"),
    [
        ("a", "a", "<s>", True),
        ("a", "<s>a", "<s>", True),
        ("a", "<s>a", None, False),
        ("a", "<s><s>a", "<s>", False),
        ("<s>a", "<s><s>a", "<s>", True),
        ("<s>a", "a", "<s>", False),
        ("a", "a ", "<s>", False),
    ],
)
def test_exactly_one_bos_may_be_written_out(source: str, target: str, bos: str | None, same: bool) -> None:
    assert same_prompt(source, target, bos) is same


@pytest.mark.parametrize(
    ("source", "target", "position", "reason"),
    [
        ("abc", "<s>abd", 2, "'c' became 'd'"),
        ("abc\n", "<s>abc", 3, "the target's prompt ends where the source has '\\n'"),
        ("abc", "abc\n", 3, "the target's prompt goes on with '\\n'"),
        ("x" * 100 + "a" + "y" * 100, "x" * 100 + "b" + "y" * 100, 100, "'ayyyyyyyyyyy' became 'byyyyyyyyyyy'"),
    ],
)
def test_where_prompts_part(source: str, target: str, position: int, reason: str) -> None:
    found = first_difference("x", source, target, "<s>")
    assert (found.position, found.reason) == (position, reason)
    assert len(found.source) < 80


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ([9, 1], [9, 1], None),
        ([9, 1], [1], "the target's prompt lacks the first token <s> (BOS)"),
        ([1], [9, 1], "the target's prompt begins with <s>, the source's does not"),
        ([9, 1, 2], [9, 1, 3], "token 2 is 't2' and became 't3'"),
        ([9, 1, 2], [9, 1], "3 tokens became 2"),
        ([], [], None),
    ],
)
def test_where_ids_part(source: list[int], target: list[int], reason: str | None) -> None:
    found = tokens.first_difference("x", source, target, VOCABULARY)
    assert (found and found.reason) == reason


def _token(own: int | None, *top: tuple[int | None, float]) -> TokenLogprob:
    candidates = tuple(Candidate(i, f"t{i}".encode(), lp) for i, lp in top)
    return TokenLogprob(own, f"t{own}".encode(), candidates[0].logprob, candidates)


@pytest.mark.parametrize(
    ("source", "target", "ends", "gap"),
    [
        (_token(1, (1, -0.7), (2, -0.8)), _token(2, (2, -0.6), (1, -0.9)), (), 0.3),
        (_token(1, (1, -0.1), (2, -2.1)), _token(2, (2, -0.6), (1, -0.7)), (), 2.0),
        (_token(1, (1, -0.7), (3, -0.8)), _token(2, (2, -0.6), (1, -0.9)), (), None),
        (_token(1, (1, -0.7), (2, -0.8)), _token(2, (2, -0.6), (3, -0.9)), (), None),
        (None, _token(2, (2, -0.6), (9, -0.9)), (9,), 0.3),
        (None, _token(2, (2, -0.6), (9, -0.9)), (), None),
        (_token(1, (1, -0.7)), None, (), None),
    ],
)
def test_how_near_a_tie_is(
    source: TokenLogprob | None, target: TokenLogprob | None, ends: tuple[int, ...], gap: float | None
) -> None:
    assert near_tie_gap(source, target, ends) == (None if gap is None else pytest.approx(gap))


@pytest.mark.parametrize(
    ("facts", "tools"),
    [
        ({"prompt_path": "go_template", "template": "{{ if .Tools }}{{ .Tools }}{{ end }}"}, True),
        ({"prompt_path": "go_template", "template": "{{ .Prompt }}", "chat_template": "{{ tools }}"}, False),
        ({"prompt_path": "gguf_jinja", "template": "{{ .Tools }}", "chat_template": "{{ messages }}"}, False),
        ({"prompt_path": "gguf_jinja", "chat_template": "{% if tools %}{% endif %}"}, True),
        ({"prompt_path": "renderer"}, True),
        ({"prompt_path": "go_template"}, False),
    ],
)
def test_tools_are_asked_about_where_the_live_template_prints_them(facts: dict[str, Any], tools: bool) -> None:
    source = SourceFacts(name="x", **facts)
    assert source.has_tools is tools
    assert battery(BundleFacts(source=source)) == (PLAIN + WITH_TOOLS if tools else PLAIN)


def test_the_battery_is_named_by_its_content() -> None:
    assert len({c.name for c in PLAIN + WITH_TOOLS}) == len(PLAIN + WITH_TOOLS) >= 12
    assert digest(PLAIN) == digest(list(PLAIN)) != digest(PLAIN[:-1])


def test_facts_of_a_bundle(tmp_path: Path) -> None:
    parameters = [{"name": "temperature", "value": 0}, {"name": "stop", "value": ["a", "b"], "origin": "Modelfile"}]
    bundle = read_bundle(write_bundle(tmp_path / "b", parameters=parameters))
    assert bundle.facts.source.stop == ("a", "b")
    assert bundle.bos_text == "<s>"
    assert bundle.eos_ids == (13,)
    assert bundle.model_json("nothing.json") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("[]", "model_type|valid dictionary|instance"),
        ("{}", "source: Field required"),
        ('{"source":{"name":"x","prompt_path":"magic"}}', "source.prompt_path"),
        ('{"source":{"name":"x","prompt_path":"parser"},"model_dir":"../../etc"}', "points outside the bundle"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_damaged_bundles(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "migration.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        read_bundle(tmp_path)


def _report() -> ParityReport:
    difference = Difference(
        conversation="[bold]x[/bold]", reason="'a' became '[/red]'", position=3, source="a", target="b"
    )
    return ParityReport(
        generator="g", created="2026-01-01T00:00:00+00:00", model="m", source="s", target="t", battery="sha256:0",
        conversations=9, verdict=Verdict.FAIL, reason="prompt: because", next_step="look [there]",
        layers=[
            LayerReport(name=LayerName.PROMPT, status="fail", summary="5 of 9 differ", compared=9, agreed=4,
                        differences=[difference] * 5, notes=["a note"]),
            LayerReport(name=LayerName.TOKENS, status="skipped", summary="not run"),
        ],
    )  # fmt: skip


def test_the_report_survives_json(tmp_path: Path) -> None:
    (path,) = write_all(_report(), tmp_path / "proof", formats=["json"])
    assert ParityReport.model_validate_json(path.read_text()) == _report()
    assert json.loads(path.read_text())["verdict"] == "fail"
    assert list(path.parent.iterdir()) == [path]


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    """A model that gives NaN is a finding; the report of it has to be readable."""
    report = _report()
    report.layers[0].metrics = {"mean_kl": float("nan"), "max_kl": float("inf")}
    (path,) = write_all(report, tmp_path, formats=["json"])
    read = ParityReport.model_validate_json(path.read_text()).layers[0].metrics
    assert read["mean_kl"] != read["mean_kl"]
    assert read["max_kl"] == float("inf")


@pytest.mark.parametrize("width", [40, 100])
def test_the_terminal_summary_says_what_matters(width: int) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(render_terminal(_report()))
    text = " ".join(out.getvalue().split())
    for expected in ("fail", "4/9", "[bold]x[/bold]", "'[/red]'", "2 more", "a note", "FAIL", "look [there]"):
        assert expected in text


@pytest.mark.parametrize("ids", [True, False])
def test_a_near_tie_is_one_whether_the_source_tells_ids_or_not(ids: bool, tmp_path: Path) -> None:
    """Ollama tells bytes only: they name the tokens."""
    bundle = write_bundle(tmp_path / "bundle")
    source, target = ToyEngine("ollama", ids=ids), ToyEngine(noise=0.02)
    report = run(bundle, source, target, battery=conversations(12, least=6), layers=[LayerName.TEXT])
    layer = report.layer(LayerName.TEXT)
    assert (layer.status, layer.metrics["near_ties"]) == ("pass", 1.0), layer.summary
    assert "source 'hello.twotwo" in layer.notes[0]
    assert "['hello' -0.920, 'user:' -0.933" in layer.notes[0], "candidates are shown as text"


def test_a_near_tie_between_going_on_and_ending_on_a_source_without_ids() -> None:
    end = Candidate(None, b"", -0.8)
    source = TokenLogprob(3, b"x", -0.7, (Candidate(3, b"x", -0.7), end))
    target = TokenLogprob(9, b"</s>", -0.7, (Candidate(9, b"</s>", -0.7), Candidate(3, b"x", -0.9)))
    assert near_tie_gap(source, target, (), frozenset({9})) == pytest.approx(0.2)
    assert near_tie_gap(source, target) is None
