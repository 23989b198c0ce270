"""The load generator's environment, and that nothing it starts outlives its time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from migrate.engines import loadgen, provision
from migrate.errors import EngineError, NotFound


def run(tmp_path: Path, code: str, timeout: float = 30.0) -> str:
    return loadgen.run_bounded(
        [sys.executable, "-c", code], name="load", log=tmp_path / "log", env={"X": "y"}, cwd=tmp_path, timeout=timeout
    )


def test_a_run_that_goes_well(tmp_path: Path) -> None:
    code = "import os; open('out', 'w').write(os.environ['X'])"
    assert run(tmp_path, code) == ""
    assert (tmp_path / "out").read_text() == "y"


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    assert run(tmp_path, "raise ValueError('no such thing')") == (
        "load exited with status 1: ValueError: no such thing"
    )


def test_a_run_without_end_is_ended(tmp_path: Path) -> None:
    assert run(tmp_path, "import time; time.sleep(600)", timeout=0.1) == "load was ended after 0 s"


def test_an_interrupt_ends_it_and_its_children(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('part', 'w').write(str(child.pid)); os.rename('part', 'pid'); time.sleep(600)"
    )

    def interrupt() -> None:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loadgen.run_bounded(
            [sys.executable, "-c", code],
            name="load", log=tmp_path / "log", env={}, cwd=tmp_path, timeout=60, watch=interrupt,
        )  # fmt: skip
    child, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while is_running(child):
        assert time.monotonic() < deadline, "the child of the load generator still runs"


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot start load"):
        loadgen.run_bounded(["/no/such"], name="load", log=tmp_path / "l", env={}, cwd=tmp_path, timeout=1)


def test_the_override_must_be_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(loadgen.ENV_OVERRIDE, str(tmp_path))
    with pytest.raises(NotFound, match="is no environment with aiperf"):
        loadgen.ensure()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "aiperf").touch()
    assert loadgen.ensure() == tmp_path / "bin" / "aiperf"


def test_a_ready_environment_is_found_again(tmp_path: Path) -> None:
    root = tmp_path / "env"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "aiperf").touch()
    assert not loadgen._is_ready(root)
    (root / loadgen.STAMP).write_text(loadgen._key() + "\n")
    assert loadgen.ensure(root) == root / "bin" / "aiperf"


def test_its_place_differs_from_the_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert loadgen.default_path().parent == provision.default_path().parent
    assert loadgen.default_path() != provision.default_path()


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(EngineError, match=r"not enough room .* the load generator aiperf"):
        loadgen.ensure(tmp_path / "env")


def test_its_version(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "aiperf"
    with pytest.raises(EngineError, match="no installed aiperf"):
        loadgen.version_of(program)
    (tmp_path / "lib" / "python3.11" / "site-packages" / "aiperf-0.13.0.dist-info").mkdir(parents=True)
    assert loadgen.version_of(program) == "0.13.0"
