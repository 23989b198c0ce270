"""The load generator, aiperf (NVIDIA, Apache-2.0), in a virtual environment of its own; and running it with a bound.

It needs no torch and no GPU. Ten processes of it and 60 libraries are nothing one wants next to other things, so it is
made once (about 1.2 GB on disk, one minute) and found again by the version in its name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from migrate.engines import provision
from migrate.engines.provision import Echo
from migrate.engines.supervisor import Process, likely_reason
from migrate.errors import EngineError, NotFound

AIPERF = "0.13.0"
"""The version whose files `parity.throughput.aiperf` reads; its settings and exports change between releases."""
NEEDED_BYTES = 2 << 30
STAMP = "migrate-loadgen.stamp"
ENV_OVERRIDE = "MIGRATE_LOADGEN"
OWN_LOADGEN = f"set {ENV_OVERRIDE} to an environment with aiperf=={AIPERF}"

POLL_S = 0.2
STOP_GRACE_S = 5.0


def ensure(path: Path | None = None, *, echo: Echo = print) -> Path:
    """The `aiperf` program, in an environment that is made at `path` if it is not there yet.

    Default place: $MIGRATE_LOADGEN, which must exist already, else the user's cache directory. `echo` gets lines of
    progress for people. Raises NotFound for a bad $MIGRATE_LOADGEN, EngineError when it cannot be made.
    """
    override = os.environ.get(ENV_OVERRIDE)
    if path is None and override:
        program = _program(Path(override).expanduser())
        if not program.exists():
            raise NotFound(
                f"{ENV_OVERRIDE}={override} is no environment with aiperf: {program} is missing",
                hint=f"unset {ENV_OVERRIDE} to have one made",
            )
        return program
    root = path or default_path()
    provision.make_once(root, _is_ready, _build, echo)
    return _program(root)


def default_path() -> Path:
    """Where the environment for this version lies in the user's cache directory (XDG_CACHE_HOME)."""
    return provision.cache_directory() / f"loadgen-{_key()}"


def _key() -> str:
    return provision.key_of(AIPERF)


def _program(root: Path) -> Path:
    return root / "bin" / "aiperf"


def _is_ready(root: Path) -> bool:
    return provision.is_stamped(root, STAMP, _key()) and _program(root).exists()


def _build(root: Path, echo: Echo) -> None:
    provision.check_room(root, "the load generator aiperf and its libraries need", NEEDED_BYTES)
    echo(f"making an environment with the load generator aiperf {AIPERF} in {root}")
    echo("this takes 1.2 GB on disk and about a minute; it happens once")
    pip = provision.new_venv(root, echo)
    install = [*pip, "install", "--progress-bar", "off", f"aiperf=={AIPERF}"]
    provision.run_step(install, "install aiperf", echo, instead=OWN_LOADGEN)
    (root / STAMP).write_text(_key() + "\n")


def run_bounded(
    command: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    timeout: float,
    watch: Callable[[], None] = lambda: None,
) -> str:
    """Runs a load generator to its end, or ends it and all its children after `timeout` seconds.

    "" when it went well, else why not, in words; what it wrote until then can be read either way. `watch` is called
    every so often. Raises NotFound when there is no such program; interrupting it ends the children as well.
    """
    deadline = time.monotonic() + timeout
    with Process(command, name=name, log=log, env=env, cwd=cwd) as process:
        try:
            while process.returncode is None:
                if time.monotonic() > deadline:
                    process.stop(grace=STOP_GRACE_S)
                    return f"{name} was ended after {timeout:.0f} s"
                watch()
                time.sleep(POLL_S)
        finally:
            process.stop(grace=STOP_GRACE_S)
        if process.returncode == 0:
            return ""
        return f"{name} exited with status {process.returncode}: {likely_reason(process.tail()) or 'it said nothing'}"


def version_of(program: Path) -> str:
    """The version of an `aiperf` program, from the metadata beside it. Raises EngineError when there is none."""
    found = sorted(program.parent.parent.glob("lib/python3*/site-packages/aiperf-*.dist-info"))
    if not found:
        raise EngineError(f"{program} has no installed aiperf beside it", hint=OWN_LOADGEN)
    return found[-1].name.removeprefix("aiperf-").removesuffix(".dist-info")
