"""The verbs of a cut-over as a person runs them: no server has to run, and the state file says what was decided."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from migrate import resources
from migrate.bundle import write
from migrate.cli import gateway
from migrate.errors import MigrateError
from migrate.gateway.routing import Route, Router
from migrate.gateway.shadow_answer import AnswerSummary
from migrate.gateway.shadow_compare import compare
from migrate.gateway.shadow_journal import Journal, journal_path
from migrate.gateway.state import LiveState, StateFile
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.cli.conftest import Result

CONFIG = """
upstreams:
  vllm: {url: http://127.0.0.1:8000}
  ollama: {kind: ollama, url: http://127.0.0.1:11435}
models:
  - {bundle: support, upstream: vllm, source: ollama}
  - {bundle: native, upstream: vllm, source: ollama}
"""
SUPPORT, NATIVE = "support-bot:latest", "native-bot:latest"

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    store = Store(resources.directory("demo-store"))
    write.write(plan(store.load("support-bot")), root / "support")
    return root


@pytest.fixture
def config(bundles: Path, tmp_path: Path) -> Path:
    """Two models: one bundle, and its twin under another name."""
    (tmp_path / "support").symlink_to(bundles / "support")
    (tmp_path / "native").mkdir()
    for file in (bundles / "support").iterdir():
        if file.name != "migration.json":
            (tmp_path / "native" / file.name).symlink_to(file)
    manifest = (bundles / "support" / "migration.json").read_text()
    (tmp_path / "native" / "migration.json").write_text(manifest.replace("support-bot", "native-bot"))
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Errors end it as `migrate` ends: with their code, and their words on stderr."""
    from migrate.cli.output import report_error

    def call(*arguments: object) -> Result:
        code = 0
        try:
            typer.main.get_command(gateway.app).main([str(a) for a in arguments], prog_name="migrate gateway")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except MigrateError as error:
            code = report_error(error, as_json="--json" in arguments)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def phases(config: Path) -> dict[str, str]:
    return {name: found.phase for name, found in state(config).read().models.items()}


def state(config: Path) -> StateFile:
    return StateFile(config.parent / "gateway-state.json")


def test_the_whole_way_and_back(run: Run, config: Path) -> None:
    first = run("status", config)
    assert first.code == 0, first
    assert first.out.count("source") == 2
    assert "default" in first.out
    for arguments, told, following in (
        (("shadow", config, "support-bot"), f"{SUPPORT}: shadow\n", "migrate gateway report"),
        (("shadow", config, "support-bot", "--fraction", "0.2"), f"{SUPPORT}: shadow 20 %\n", "report"),
        (("canary", config, "support-bot", "--weight", "5"), f"{SUPPORT}: canary 5 %\n", "migrate gateway promote"),
        (("canary", config, "SUPPORT-BOT:latest", "--weight", "50"), f"{SUPPORT}: canary 50 %\n", "promote"),
        (("promote", config), f"{SUPPORT}: target\n{NATIVE}: target\n", "migrate gateway rollback"),
        (("rollback", config, "native-bot"), f"{NATIVE}: source\n", "migrate gateway status"),
        (("rollback", config), f"{SUPPORT}: source\n{NATIVE}: source\n", "status"),
    ):
        result = run(*arguments)
        assert (result.code, result.out) == (0, told), result
        assert "within half a second" in result.err
        assert following in result.err
    found = state(config).read().models[SUPPORT]
    assert [change.phase for change in found.history] == ["shadow", "shadow", "canary", "canary", "target"]
    told = json.loads(run("status", config, "--json").out)
    (row, _) = told["models"]
    assert (row["model"], row["phase"], row["by"], row["source"]) == (SUPPORT, "source", "operator", "ollama")
    assert len(row["history"]) == 5


def test_json(run: Run, config: Path) -> None:
    told = json.loads(run("canary", config, "support-bot", "--weight", "12.5", "--json").out)
    assert told["models"][0] | {"since": ""} == {
        "model": SUPPORT, "phase": "canary", "weight": 12.5, "fraction": None, "by": "operator", "since": "",
    }  # fmt: skip


def test_a_running_server_follows(run: Run, config: Path) -> None:
    live = LiveState(state(config))
    router = Router([Route(("support-bot",), "vllm", "ollama")], live.current)
    body = {"messages": [{"role": "user", "content": "x"}]}
    for verb, upstream in (("promote", "target"), ("rollback", "source")):
        assert run(verb, config).code == 0
        began = time.monotonic()
        while router.decide("support-bot", {}, body).upstream != upstream:
            assert time.monotonic() - began < 0.5
            time.sleep(0.01)


def test_an_automatic_return_is_told(run: Run, config: Path) -> None:
    run("promote", config)
    live = LiveState(state(config))
    live.return_to_source("support-bot", "12 of 20 answers were errors")
    live.flush()
    result = run("status", config)
    assert "automatic return: 12 of 20" in " ".join(result.out.split())
    assert f"returned by itself: {SUPPORT}" in result.err


def test_rollback_needs_no_bundle(run: Run, config: Path) -> None:
    run("promote", config)
    (config.parent / "support").unlink()
    (config.parent / "native" / "migration.json").write_text("{")
    assert run("promote", config).code in (2, 3)
    result = run("rollback", config)
    assert result.code == 0, result
    assert phases(config) == {SUPPORT: "source", NATIVE: "source"}
    assert "note: " in result.err
    assert run("rollback", config, "support-bot").code == 0


def test_models_without_an_ollama_cannot_be_cut_over(run: Run, config: Path) -> None:
    config.write_text(CONFIG.replace(", source: ollama}", "}"))
    for arguments in (("promote", config), ("rollback", config), ("shadow", config, "support-bot")):
        result = run(*arguments)
        assert result.code == 3, result
        assert "Ollama" in result.err
    assert "target" in run("status", config).out
    config.write_text(CONFIG.replace(", source: ollama}", "}", 1))
    assert run("promote", config).out == f"{NATIVE}: target\n"
    assert run("rollback", config).out == f"{NATIVE}: source\n"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("canary", "support-bot"), 2, "--weight"),
        (("canary", "support-bot", "--weight", "101"), 2, "'--weight'"),
        (("canary", "support-bot", "--weight", "nan"), 2, "'--weight'"),
        (("canary", "stranger", "--weight", "1"), 2, "stranger: no such model"),
        (("shadow", "support-bot", "--fraction", "2"), 2, "'--fraction'"),
        (("rollback", "stranger"), 2, "stranger: no such model"),
        (("report", "--since", "soon"), 2, "soon"),
        (("report", "-o", "x"), 2, "--parity"),
        (("report", "--parity"), 2, "one model"),
        (("report", "support-bot", "--parity"), 2, "no request in full"),
    ],
)
def test_usage(run: Run, config: Path, arguments: tuple[str, ...], code: int, reason: str) -> None:
    verb, *rest = arguments
    result = run(verb, config, *rest)
    assert result.code == code, result
    assert reason in result.err
    assert not state(config).path.exists()


def test_no_configuration_and_a_damaged_state(run: Run, config: Path) -> None:
    assert run("status", config.with_name("no.yaml")).code == 2
    state(config).path.write_text("{")
    for arguments in (("status", config), ("promote", config)):
        result = run(*arguments)
        assert result.code == 3, result
        assert "damaged" in result.err
    assert state(config).path.read_text() == "{"


def test_the_way_back_needs_no_state(run: Run, config: Path) -> None:
    """A damaged one is moved aside, not lost."""
    state(config).path.write_text("{")
    result = run("rollback", config)
    assert result.code == 0
    assert "damaged" in result.err
    assert result.out == "support-bot:latest: source\nnative-bot:latest: source\n"
    assert state(config).read().models["support-bot:latest"].phase == "source"
    [aside] = config.parent.glob("*.damaged-*")
    assert aside.read_text() == "{"


def test_a_state_that_cannot_be_written(run: Run, config: Path) -> None:
    if os.geteuid() == 0:
        blocked = "state: /proc/no/such/place.json\n"
    else:
        config.parent.chmod(0o500)
        blocked = ""
    config.write_text(CONFIG + blocked)
    try:
        result = run("promote", config)
    finally:
        config.parent.chmod(0o700)
    assert result.code == 2, result
    assert "cannot be written" in result.err


def test_a_state_of_other_models_is_told(run: Run, config: Path) -> None:
    state(config).update(lambda s: s.changed("forgotten", "target"))
    assert "forgotten:latest" in run("status", config).err


# ---- report ----------------------------------------------------------------------------------------------------------

SAME = AnswerSummary(200, 10, 5, "stop", "The capital of France is Paris.", total_s=1.0)


def journal(config: Path, count: int, target: AnswerSummary = SAME, *, age_s: float = 0.0) -> None:
    written = Journal(journal_path(config.parent / "gateway-state.json"), max_bytes=1 << 24)
    pair = compare({"temperature": 0}, SAME, target, answered_by="source")
    for _ in range(count):
        written.append(SUPPORT, "/api/chat", pair, started=time.time() - age_s)


@pytest.mark.parametrize(
    ("target", "count", "code", "verdict"),
    [
        (SAME, 320, 0, "PASS"),
        (SAME, 20, 4, "INCONCLUSIVE"),
        (AnswerSummary(503), 60, 1, "FAIL"),
    ],
)
def test_report(run: Run, config: Path, target: AnswerSummary, count: int, code: int, verdict: str) -> None:
    journal(config, count, target)
    result = run("report", config, "support-bot")
    assert result.code == code, result
    assert result.out.startswith(f"# Shadowed requests of {SUPPORT}\n\n**{verdict}**")
    assert ("canary" in result.err) is (code == 0)
    told = json.loads(run("report", config, "support-bot", "--json").out)
    assert [m["verdict"] for m in told["models"]] == [verdict.lower()]


def test_report_of_all_is_as_good_as_the_worst(run: Run, config: Path) -> None:
    journal(config, 320)
    result = run("report", config)
    assert result.code == 4
    assert result.out.count("# Shadowed requests") == 2
    journal(config, 100, AnswerSummary(503))
    assert run("report", config).code == 1


def test_report_since(run: Run, config: Path) -> None:
    journal(config, 100, AnswerSummary(503), age_s=7200)
    journal(config, 320)
    assert run("report", config, "support-bot").code == 1
    assert run("report", config, "support-bot", "--since", "1h").code == 0


def test_help_names_the_verbs() -> None:
    result = CliRunner().invoke(gateway.app, ["--help"], color=False)
    assert result.exit_code == 0
    for verb in ("status", "shadow", "canary", "promote", "rollback", "report"):
        assert verb in result.output


@pytest.fixture(autouse=True)
def _quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
