"""`migrate parity record` as a person runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from migrate.cli.record import parse_duration
from migrate.errors import OutputExists, UsageError
from tests.ollama.replay import recordings, replay

PROGRAM = "import typer; from migrate.cli.record import command; typer.run(command)"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2H", 7200),
        ("1d", 86400),
        (" 5m ", 300),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "5m3", "0", "0s", "1e9", "five", "5 m", "9" * 400, "٣m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


class Running:
    """The verb in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "error", "-c", PROGRAM, "--listen", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found, first + self.process.stderr.read()
        self.url = found[0]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


def ask(shared: Path, url: str, count: int) -> None:
    rows = [r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"].startswith("chat/support-bot")]
    with httpx.Client(base_url=url) as client:
        for i in range(count):
            body = rows[i % len(rows)]["request"]["body"]
            assert client.post("/api/chat", json=body).status_code == 200


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_a_count(shared: Path, tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "requests.jsonl"
    with replay(recordings(shared / "ollama" / "recordings.jsonl")) as source:
        running = Running("--source", source, "-o", str(path), "--redact", "--json")
        ask(shared, running.url, 3)
        deadline = time.monotonic() + 20
        while path.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline
        running.process.send_signal(how)
        code, out, err = running.end()
    assert code == 0, err
    told = json.loads(out)
    assert (told["recorded"], told["forwarded"], told["redacted"]) == (3, 3, {})
    assert "3 requests in" in err
    assert f"next: migrate parity BUNDLE --source {source} --target URL --requests {path}" in err
    assert "Traceback" not in err
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["/api/chat"] * 3


def test_limit(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    with replay(recordings(shared / "ollama" / "recordings.jsonl")) as source:
        running = Running("--source", source, "-o", str(path), "--limit", "2", "--with-answers")
        ask(shared, running.url, 2)
        code, out, err = running.end()
    assert (code, out) == (0, ""), err
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["answer"]["text"] for row in rows)
    assert "1 request recorded" in err


def test_nothing_recorded(tmp_path: Path) -> None:
    running = Running("-o", str(tmp_path / "r.jsonl"), "--for", "0.1s")
    code, out, err = running.end()
    assert (code, out) == (0, "")
    assert "nothing was recorded" in err
    assert not (tmp_path / "r.jsonl").exists()


def test_usage(tmp_path: Path) -> None:
    import typer

    from migrate.cli.record import command

    app = typer.Typer()
    app.command()(command)
    runner = CliRunner()
    (tmp_path / "there").write_text("kept")
    result = runner.invoke(app, ["-o", str(tmp_path / "there")])
    assert isinstance(result.exception, OutputExists)
    result = runner.invoke(app, ["-o", str(tmp_path / "new"), "--for", "soon"])
    assert isinstance(result.exception, UsageError)
    assert runner.invoke(app, []).exit_code == 2
    assert runner.invoke(app, ["-o", "x", "--limit", "0"]).exit_code == 2
    assert (tmp_path / "there").read_text() == "kept"
