"""The programs that read what `migrate deploy` writes. scripts/test-tools.sh installs them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def program(name: str) -> str:
    """Its path; without it the test is skipped, loudly."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"NOT CHECKED: {name} is not installed and could not be (scripts/test-tools.sh)")
    return found


def ask(name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """Runs a reader on its file; its output (both streams). Fails the test when it finds fault."""
    done = run([program(name), *map(str, arguments)], cwd=cwd)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run(command: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
