"""Where the shared data lies, and a loud word when it is missing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine is no defect
settings.load_profile("no deadline")

REPO = Path(__file__).parent.parent
SHARED = Path(os.environ.get("MIGRATE_SHARED", REPO.parent / "shared")).resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Root of the shared data (real store, recordings, models, corpus)."""
    if not (SHARED / "ollama" / "store").is_dir():
        pytest.skip(f"SHARED DATA MISSING: {SHARED} (set MIGRATE_SHARED); the checks against a real Ollama did not run")
    return SHARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not SHARED.is_dir():
        terminalreporter.write_line(f"WARNING: {SHARED} is missing, everything that needs it was skipped", red=True)
