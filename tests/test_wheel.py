"""The package as users get it: a wheel in an empty environment, away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `migrate` command of a fresh environment that has the wheel and its core dependencies only."""
    root = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(root), str(REPO)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    subprocess.run([sys.executable, "-m", "venv", str(root / "env")], check=True, timeout=120)
    pip = [str(root / "env/bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(next(root.glob("*.whl")))], check=True, timeout=600)
    return root / "env/bin/migrate"


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(command), *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_offline_demo_works_anywhere(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "demo", "--offline", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["proofs"]) == 3
    assert (tmp_path / "migrate-demo/bundle/serve.sh").is_file()
    assert (tmp_path / "migrate-demo/bundle/model/model.safetensors").is_file()


def test_core_dependencies_hold_neither_torch_nor_transformers(installed: Path) -> None:
    code = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'vllm') if u.find_spec(n)])"
    done = subprocess.run([str(installed.parent / "python"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_second_demo_does_not_overwrite_the_first(installed: Path, tmp_path: Path) -> None:
    assert run(installed, "demo", "--offline", cwd=tmp_path).returncode == 0
    again = run(installed, "demo", "--offline", cwd=tmp_path)
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert run(installed, "demo", "--offline", "--force", cwd=tmp_path).returncode == 0
