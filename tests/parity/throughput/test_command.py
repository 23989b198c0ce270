"""`migrate parity throughput`, as far as it goes without servers: options, what is shown, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from migrate.bundle import format as bundle_format
from migrate.cli import throughput as verb
from migrate.engines import connect
from migrate.parity import throughput
from migrate.parity.report import Goal, ThroughputReport
from migrate.parity.throughput import Plan, Slo
from migrate.parity.throughput.compare import load_of, ratios
from migrate.parity.throughput.measure import Progress
from migrate.parity.throughput.plan import Point, Slot
from migrate.parity.throughput.records import Measured
from migrate.parity.throughput.terminal import render_terminal
from tests.parity.throughput.replayed import requests

URLS = ["--source", "http://127.0.0.1:1", "--target", "http://127.0.0.1:2"]


def report(**fields: Any) -> ThroughputReport:
    plan = Plan(slo=Slo(e2e_ms=250), resamples=100)
    points = Point(1), Point(request_rate=500)
    source = [Measured(requests([400.0, 300.0, 200.0]), 3, gpu_utilization=12.0, gpu_memory_gb=5.5)] * 2
    target = [Measured(requests([200.0, 150.0, 100.0]), 3, gpu_utilization=80.0, gpu_memory_gb=40.0)] * 2
    given: dict[str, Any] = {
        "tool": "aiperf 0.13.0",
        "workload": "questions",
        "order": [],
        "seed": 1,
        "loads": [load_of(s, p, r, plan.slo) for p in points for s, r in (("source", source), ("target", target))],  # type: ignore[arg-type]
        "ratios": [ratio for point in points for ratio in ratios(point, source, target, plan)],
        "caveats": ["a machine of two cores"],
    }
    return ThroughputReport(**(given | fields))


def goal(reached: bool) -> Goal:
    return Goal(requests_per_min=500, slo="", reached=reached, measured_per_min=400, statement="500 a minute: so so")


def test_what_is_shown() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(render_terminal(report(errors=["it broke"], goal=goal(True))))
    text = out.getvalue()
    for part in ("x1 ", "500/min", "300/400/400", "80% 40GB", "2.00 ", "error: it broke",
                 "note: a machine of two cores", "500 a minute: so so", "above 1 the target is better"):  # fmt: skip
        assert part in text


def test_nothing_was_measured() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(render_terminal(report(loads=[], ratios=[], errors=["it broke"])))
    assert "error: it broke" in out.getvalue()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs the verb with what it measures replaced; `Plan` and engines are as the options made them."""
    app = typer.Typer()
    app.command()(verb.command)
    manifest = SimpleNamespace(
        source=SimpleNamespace(name="bot"), target=SimpleNamespace(served_model_name=["bot", "bot:latest"])
    )
    monkeypatch.setattr(bundle_format, "read", lambda path: manifest)
    monkeypatch.setattr(connect, "source", lambda url, **_: SimpleNamespace(close=lambda: None, url=url))

    def call(*options: str, gives: ThroughputReport | None = None) -> Any:
        asked: list[Plan] = []

        def measure(bundle: Path, source: Any, target: Any, *, plan: Plan, progress: Any) -> ThroughputReport:
            asked.append(plan)
            for number in (1, 1, 2):
                progress(Progress(number, 2, Slot(1, "target", Point(number)), 3, 9))
            return gives or report()

        monkeypatch.setattr(throughput, "measure", measure)
        result = CliRunner().invoke(app, [str(tmp_path), *URLS, *options])
        return result, asked[0] if asked else None

    return call


def test_options_make_the_plan(run: Callable[..., Any]) -> None:
    result, plan = run(
        *("--concurrency", "8,2", "--rate", "500/min", "--slo", "ttft=500ms,itl=50ms", "--requests", "10", "--repeats"),
        *("5", "--prompt-tokens", "256", "--output-tokens", "64", "--tool", "vllm", "--seed", "9", "--timeout", "30"),
    )
    assert result.exit_code == 0, result.output
    assert plan == Plan(
        concurrency=(1, 2, 8), request_rate=500, slo=Slo(ttft_ms=500, itl_ms=50), requests=10, repeats=5,
        prompt_tokens=256, output_tokens=64, tool="vllm", seed=9, request_timeout=30,
    )  # fmt: skip
    assert result.stderr.splitlines()[:2] == ["run 1 of 2: target, 1 at a time", "run 2 of 2: target, 2 at a time"]


def test_defaults_are_those_of_the_plan(run: Callable[..., Any]) -> None:
    _, plan = run()
    assert plan == Plan()


@pytest.mark.parametrize(
    ("given", "code"),
    [({}, 0), ({"goal": goal(True)}, 0), ({"goal": goal(False)}, 1), ({"goal": goal(True), "errors": ["x"]}, 4)],
)
def test_exit_codes(given: dict[str, Any], code: int, run: Callable[..., Any]) -> None:
    result, _ = run(gives=report(**given))
    assert result.exit_code == code


def test_json_and_file(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    result, _ = run("--json", "-o", str(path))
    assert ThroughputReport.model_validate(json.loads(result.stdout)) == report()
    assert ThroughputReport.model_validate_json(path.read_text()) == report()
    again, _ = run("-o", str(path))
    assert type(again.exception).__name__ == "OutputExists"


@pytest.mark.parametrize("options", [("--rate", "soon"), ("--slo", "fast"), ("--concurrency", "many")])
def test_options_that_say_nothing(options: tuple[str, str], run: Callable[..., Any]) -> None:
    result, plan = run(*options)
    assert (type(result.exception).__name__, plan) == ("UsageError", None)


@pytest.mark.parametrize("option", [("--seed", str(2**40)), ("--requests", "99999999"), ("--output-tokens", "9999999")])
def test_options_out_of_bounds(option: tuple[str, str], run: Callable[..., Any]) -> None:
    result, plan = run(*option)
    assert (type(result.exception).__name__, plan) == ("UsageError", None)
    assert str(result.exception).startswith(f"{option[0]}: Input should be less than")
