"""Where the client scripts run: an environment with the Python clients, and a directory with the npm package.

Both are made once and found again by the versions in their names, beside the engines. The clients pull in some 80
packages that nobody wants next to a test run with `filterwarnings = error`; without byte code this takes 25 s and
280 MB. The npm package needs `node` and `npm` on the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from migrate.engines import provision
from migrate.engines.provision import Echo
from migrate.errors import EngineError

PACKAGES = (
    "anthropic==2.14.0",
    "langchain-core==1.8.3",
    "langchain-ollama==1.1.0",
    "llama-index-core==0.14.25",
    "llama-index-embeddings-ollama==0.10.0",
    "llama-index-llms-ollama==0.11.0",
    "ollama==0.6.3",
    "openai==3.57.0",
)
"""All under MIT or Apache-2.0; none is shipped."""

NPM_OLLAMA = "0.6.4"
NEEDED_BYTES = 1 << 30
STAMP = "migrate-clients.stamp"
REPO = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parent
SCRIPT_S = 240.0
HERE_ALONE = {"LANGSMITH_TRACING": "false", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def python(*, echo: Echo = print) -> Path:
    """The interpreter with the clients, installed if it is not there yet. Raises EngineError when it cannot be had."""
    root = provision.cache_directory() / f"clients-{_key()}"
    provision.make_once(root, _is_ready, _build, echo)
    return root / "bin" / "python"


def _key() -> str:
    return provision.key_of(*PACKAGES)


def _is_ready(root: Path) -> bool:
    return provision.is_stamped(root, STAMP, _key())


def _build(root: Path, echo: Echo) -> None:
    provision.check_room(root, "the clients need", NEEDED_BYTES)
    pip = provision.new_venv(root, echo)
    install = [*pip, "install", "--progress-bar", "off", "--no-compile", *PACKAGES]
    provision.run_step(install, "install the clients", echo)
    (root / STAMP).write_text(_key() + "\n")


def node_modules(*, echo: Echo = print) -> Path:
    """A directory with `ollama` in node_modules. Raises EngineError without node or npm, or when npm gets nothing."""
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        raise EngineError(f"not installed: {', '.join(missing)}", hint="scripts/test-tools.sh installs them")
    root = provision.cache_directory() / f"npm-ollama-{NPM_OLLAMA}"
    provision.make_once(root, lambda place: _installed(place) == NPM_OLLAMA, _install_npm, echo)
    return root


def _installed(root: Path) -> str:
    try:
        package: dict[str, Any] = json.loads((root / "node_modules" / "ollama" / "package.json").read_bytes())
    except (OSError, ValueError):
        return ""
    return str(package.get("version"))


def _install_npm(root: Path, echo: Echo) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "package.json").write_text('{"private": true}\n')
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(root)]
    provision.run_step(["npm", "install", *options, f"ollama@{NPM_OLLAMA}"], "install ollama from npm", echo)


def run_python(name: str, given: dict[str, Any], interpreter: Path) -> dict[str, Any]:
    """What the script `name` saw."""
    command = [str(interpreter), "-m", f"tests.live.clients.{name}", json.dumps(given)]
    return _run(command, REPO)


def run_node(name: str, given: dict[str, Any], modules: Path) -> dict[str, Any]:
    """What the script `name`.mjs saw. It lies beside node_modules while it runs: node looks for packages there."""
    script = modules / f"{name}-{os.getpid()}.mjs"
    shutil.copyfile(SCRIPTS / f"{name}.mjs", script)
    try:
        return _run(["node", str(script), json.dumps(given)], modules)
    finally:
        script.unlink()


def _run(command: list[str], directory: Path) -> dict[str, Any]:
    environment = os.environ | HERE_ALONE
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=SCRIPT_S, check=False
    )
    assert done.returncode == 0, f"{command[:3]} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen
