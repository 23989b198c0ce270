"""`migrate parity` without servers: what it refuses before anything is asked, and reports that are shown again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.parity.report import ParityReport
from migrate.parity.run import run as compare
from tests.cli.conftest import Run
from tests.parity.toy import ToyEngine, conversations, write_bundle

SIDES = ("--source", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def report(bundle: Path) -> ParityReport:
    return compare(bundle, ToyEngine("llama.cpp"), ToyEngine(), battery=conversations(5, least=4))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--layers", "prompt,vibes"), "no layer is called 'vibes'"),
        (("--layers", ","), "no layer is called ','"),
        (("--sample", "3"), "--sample and --redact are about --requests"),
        (("--redact",), "--sample and --redact are about --requests"),
        (("--rate", "5/min"), "--rate and --slo are about --throughput"),
        (("--throughput", "--rate", "fast"), "fast"),
        (("--throughput", "--slo", "ttft"), "ttft"),
        (("--tasks", "no.jsonl"), "no.jsonl: no such file"),
        (("--requests", "no.jsonl"), "no.jsonl"),
    ],
)
def test_usage(options: tuple[str, ...], reason: str, run: Run, bundle: Path) -> None:
    result = run("parity", bundle, *SIDES, *options)
    assert result.code == 2, result
    assert reason in result.err


def test_no_bundle_and_one_of_another_version(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert run("parity", tmp_path / "no", *SIDES).code == 2
    path = bundle / "migration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    result = run("parity", bundle, *SIDES)
    assert result.code == 3
    assert "schema_version" in result.err


def test_no_servers(run: Run, bundle: Path) -> None:
    result = run("parity", bundle, *SIDES, "--json")
    assert result.code == 4
    assert json.loads(result.out)["error"]["type"] == "ServerUnreachable"
    assert list((bundle / "proof").iterdir()) == [], "nothing was compared, so there is no report"


def test_reports_are_not_overwritten(run: Run, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("{}")
    result = run("parity", bundle, *SIDES, "-o", out)
    assert (result.code, "holds a report" in result.err) == (2, True)
    (tmp_path / "x.html").write_text("")
    assert run("parity", bundle, *SIDES, "-o", tmp_path / "x.html").code == 2
    (tmp_path / "file").write_text("")
    assert "is a file" in run("parity", bundle, *SIDES, "-o", tmp_path / "file").err


def test_a_report_is_shown_again(run: Run, report: ParityReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    shown = run("parity", "show", tmp_path)
    assert shown.code == 0
    assert "PASS" in shown.out
    written = run("parity", "show", path, "-o", tmp_path / "r.html")
    assert (written.code, (tmp_path / "r.html").read_text()[:15].lower()) == (0, "<!doctype html>")
    assert run("parity", "show", path, "-o", tmp_path / "r.html").code == 2
    assert run("parity", "show", path, "-o", tmp_path / "r.pdf").code == 2


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 1}', "\x00", "[" * 100_000])
def test_what_is_no_report(content: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    result = run("parity", "show", tmp_path)
    assert result.code == 3, result
    assert "report.json" in result.err


def test_a_report_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert run("parity", "show", tmp_path).code == 2


def test_the_verbs_are_told(run: Run) -> None:
    text = " ".join(run("parity", "--help").out.split())
    assert text.startswith("Usage: migrate parity [OPTIONS] {BUNDLE}")
    assert all(f"migrate parity {verb}" in text for verb in ("record", "throughput", "show"))
    assert run("parity", "record", "--help").out.startswith("Usage: migrate parity record")
