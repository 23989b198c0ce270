"""What can be seen of a running Ollama: its API, and on the same machine its process, its service and the GPUs.

Nothing is changed and nothing is asked of the model. Of an environment only the variables in `WANTED` are kept: the
rest may hold secrets.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from migrate.errors import MigrateError
from migrate.ollama.api import OllamaAPI, base_url
from migrate.ollama.diagnosis import Facts, Gpu, Loaded, Runner, Setting

PROC = Path("/proc")
UNITS = tuple(
    Path(root) / "systemd/system/ollama.service" for root in ("/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib")
)
"""Where a unit may lie, the one that wins first (systemd.unit(5))."""

WANTED = re.compile(
    r"OLLAMA_(NUM_PARALLEL|MAX_LOADED_MODELS|MAX_QUEUE|KEEP_ALIVE|CONTEXT_LENGTH|KV_CACHE_TYPE|FLASH_ATTENTION"
    r"|GPU_OVERHEAD|SCHED_SPREAD|GO_TEMPLATE|LLM_LIBRARY)|CUDA_VISIBLE_DEVICES|LLAMA_ARG_(?!\w*(KEY|TOKEN))\w+"
)
MAX_FILE = 256 << 10
MAX_PROCESSES = 20_000
MAX_DROP_INS = 100
MAX_VALUE = 200
FOREVER_YEAR = 2200
"""keep_alive -1 is an end in some 290 years."""


def observe(
    api: OllamaAPI,
    *,
    proc: Path = PROC,
    units: Sequence[Path] = UNITS,
    environment: Mapping[str, str] | None = None,
) -> Facts:
    """Looks at the server `api` talks to. A thing that cannot be read is a note, not an error.

    The environment is that of the server's process where it may be read, else of its systemd unit. Variables of our
    own environment (`environment`, os.environ unless given) fill in what neither tells.
    """
    notes: list[str] = []
    version, loaded = _api(api, notes)
    own = _pick(os.environ if environment is None else environment, "this shell")
    if not is_local(api.base_url):
        notes.append(f"the server is on another machine: its environment, processes and GPUs were not read ({_SAY})")
        return Facts(api.base_url, version, loaded, own, notes=tuple(notes))
    found = _server(api.base_url, proc, units, notes)
    if not found.known:
        notes.append(f"OLLAMA_* variables of the server were not read ({_SAY})")
    settings = found.environment if found.known else {**own, **found.environment}
    return Facts(
        server=api.base_url,
        version=version,
        loaded=loaded,
        environment=dict(sorted(settings.items())),
        environment_known=found.known,
        runners=_runners(proc, found.pid) if found.pid else (),
        gpus=gpus(),
        notes=tuple(notes),
    )


_SAY = "set them for this command as the server has them, to have them judged"


def is_local(url: str) -> bool:
    """Whether the address is a loopback address or this machine's own name. No name server is asked."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.lower() == socket.gethostname().lower()


def _api(api: OllamaAPI, notes: list[str]) -> tuple[str | None, tuple[Loaded, ...] | None]:
    try:
        return api.version(), tuple(map(_loaded, api.ps()))
    except MigrateError as error:
        notes.append(f"the server did not tell what is loaded: {error}")
        return None, None


def _loaded(row: Mapping[str, object]) -> Loaded:
    details = row.get("details")
    family = details.get("family") if isinstance(details, Mapping) else None
    context = row.get("context_length")
    try:
        forever = datetime.fromisoformat(str(row.get("expires_at"))).year >= FOREVER_YEAR
    except ValueError:
        forever = False
    return Loaded(
        name=str(row.get("name") or row.get("model") or "?"),
        family=str(family or ""),
        size=_int(row.get("size")),
        size_vram=_int(row.get("size_vram")),
        context_length=context if isinstance(context, int) and context > 0 else None,
        forever=forever,
    )


def _int(value: object) -> int:
    return max(0, int(value)) if isinstance(value, int | float) else 0


# ---- the process and its service ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Server:
    pid: int | None
    environment: Mapping[str, Setting]
    known: bool


def _server(url: str, proc: Path, units: Sequence[Path], notes: list[str]) -> _Server:
    """The process that serves `url` on this machine, with its variables. One whose address is another is not ours."""
    candidates = [number for number, command in _commands(proc) if _is_server(command)]
    unreadable = []
    for number in candidates:
        try:
            variables = _environ(proc / str(number) / "environ")
        except OSError:
            unreadable.append(number)
            continue
        if _same_port(url, variables.get("OLLAMA_HOST")):
            return _Server(number, _pick(variables, f"environment of process {number}"), True)
    if len(unreadable) > 1 or (candidates and not unreadable):
        notes.append(f"none of the {len(candidates)} Ollama processes on this machine could be told to be this server")
        return _Server(None, {}, False)
    pid = unreadable[0] if unreadable else None
    if pid is None or _in_service(proc, pid):
        for unit in units:
            if (read := read_unit(unit, units)) is not None:
                variables, complete = read
                if _same_port(url, variables.get("OLLAMA_HOST", "")):
                    return _Server(pid, _pick(variables, unit.name), complete)
                break
    if pid is not None:
        notes.append(f"the environment of process {pid} belongs to another user; root (sudo) may read it")
    return _Server(pid, {}, False)


def _same_port(url: str, host: str | None) -> bool:
    """Whether a server with this OLLAMA_HOST listens at the port of `url`; docker's port mappings are not known."""
    try:
        return urlsplit(base_url(host or "127.0.0.1")).port == urlsplit(url).port
    except MigrateError:
        return False


def _commands(proc: Path) -> Iterator[tuple[int, list[str]]]:
    """(pid, command line) of every process, as far as they may be read; nothing where there is no /proc."""
    try:
        names = [entry.name for entry in os.scandir(proc) if entry.name.isdigit()]
    except OSError:
        return
    for name in sorted(names, key=int)[:MAX_PROCESSES]:
        try:
            yield int(name), _split(_read(proc / name / "cmdline"))
        except OSError:
            continue  # gone, or hidden


def _is_server(command: Sequence[str]) -> bool:
    return bool(command) and Path(command[0]).name in ("ollama", "ollama.exe") and "serve" in command[1:3]


def _environ(path: Path) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in _split(_read(path)))
    return {name: value for name, _, value in pairs}


def _in_service(proc: Path, pid: int) -> bool:
    """Whether systemd started it: its control group is that of the service."""
    try:
        return b"ollama.service" in _read(proc / str(pid) / "cgroup")
    except OSError:
        return False


def _split(content: bytes) -> list[str]:
    return [part.decode("utf-8", "replace") for part in content.split(b"\0") if part]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)


def _pick(variables: Mapping[str, str], origin: str) -> dict[str, Setting]:
    return {
        name: Setting(value[:MAX_VALUE], origin) for name, value in sorted(variables.items()) if WANTED.fullmatch(name)
    }


def read_unit(unit: Path, units: Sequence[Path] = UNITS) -> tuple[dict[str, str], bool] | None:
    """(variables that a systemd unit gives its service, whether all of its files could be read); None without a unit.

    Drop-ins count from all places, in the order of their names; of equal names the first place wins (systemd.unit(5)).
    """
    try:
        texts = [_read(unit).decode("utf-8", "replace")]
    except OSError:
        return None
    drop_ins: dict[str, Path] = {}
    for place in units:
        try:
            found = sorted((place.parent / f"{place.name}.d").glob("*.conf"))
        except OSError:
            continue
        for path in found[:MAX_DROP_INS]:
            drop_ins.setdefault(path.name, path)
    complete = True
    for _, path in sorted(drop_ins.items()):
        try:
            texts.append(_read(path).decode("utf-8", "replace"))
        except OSError:
            complete = False
    variables: dict[str, str] = {}
    files: list[str] = []
    for text in texts:
        _apply(text, variables, files)
    for name in files:
        try:
            content = _read(Path(name.removeprefix("-"))).decode("utf-8", "replace")
        except OSError:
            complete = complete and name.startswith("-")
            continue
        variables |= _assignments(_words(line) for line in content.splitlines() if not line.startswith(("#", ";")))
    return variables, complete


def _apply(text: str, variables: dict[str, str], files: list[str]) -> None:
    """Environment= and EnvironmentFile= of [Service]; an empty value takes back what was there."""
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        key, _, value = line.partition("=")
        if section != "[Service]" or key.strip() not in ("Environment", "EnvironmentFile"):
            continue
        if not value.strip():
            (variables if key.strip() == "Environment" else files).clear()
        elif key.strip() == "Environment":
            variables |= _assignments([_words(value)])
        else:
            files.append(value.strip())


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=False)
    except ValueError:  # an open quote
        return []


def _assignments(lines: Iterable[Sequence[str]]) -> dict[str, str]:
    pairs = (word.partition("=") for words in lines for word in words)
    return {name: value for name, mark, value in pairs if mark}


# ---- runners and GPUs -----------------------------------------------------------------------------------------------


def _runners(proc: Path, server: int) -> tuple[Runner, ...]:
    """Children of the server that compute: llama-server since 0.30, `ollama runner` before."""
    found = []
    for pid, command in _commands(proc):
        name = Path(command[0]).name if command else ""
        if name.startswith("llama-server") or (name == "ollama" and "runner" in command[1:2]):
            try:
                parent = _read(proc / str(pid) / "stat").rpartition(b")")[2].split()[1]
            except (OSError, IndexError):
                continue
            if parent == str(server).encode():
                found.append(_runner(pid, command))
    return tuple(found)


def _runner(pid: int, command: Sequence[str]) -> Runner:
    options = dict(pairwise(command))

    def number(*names: str) -> int | None:
        value = next((options[name] for name in names if name in options), "")
        return int(value) if value.isascii() and value.isdigit() and len(value) < 12 else None

    return Runner(
        pid=pid,
        parallel=number("-np", "--parallel"),
        context=number("-c", "--ctx-size"),
        cache_type=options.get("--cache-type-k") or options.get("--kv-cache-type"),
        flash_attention=options.get("--flash-attn"),
    )


def gpus() -> tuple[Gpu, ...] | None:
    """The GPUs of this machine; None where the package nvidia-ml-py or the driver is missing."""
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            memory, name = nvml.nvmlDeviceGetMemoryInfo(device), nvml.nvmlDeviceGetName(device)
            busy = int(nvml.nvmlDeviceGetUtilizationRates(device).gpu)
            shown = name.decode() if isinstance(name, bytes) else str(name)
            found.append(Gpu(shown, busy, int(memory.used), int(memory.total)))
        return tuple(found)
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()
