"""Starting a server as a child process, waiting until it really works, and stopping it for sure."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from migrate.errors import EngineDied, NotFound, ServerError, ServerUnreachable

LOG_TAIL_BYTES = 64 << 10
POLL_S = 0.25
PR_SET_PDEATHSIG = 1

_running: weakref.WeakSet[Process] = weakref.WeakSet()

_LOG_PREFIX = re.compile(
    r"^(?:\x1b\[[0-9;]*m)*(?:\([^)]*\) ?)?(?:\x1b\[[0-9;]*m)*(?:[A-Z]+ [\d-]+ [\d:.]+ \[[^\]]*\]\s*)?"
)
_EXCEPTION = re.compile(r"^(?:[a-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)\b:?\s*\S")
_UNINFORMATIVE = re.compile(r"root cause above|Engine core initialization failed|EngineDeadError|Failed core proc")


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def likely_reason(log: str) -> str:
    """The line of a log that says why a server died.

    The last exception that names a cause (vLLM ends with one that only points at "the root cause above"), else the
    last line that speaks of an error, else the last line; "" for an empty log.
    """
    lines = _joined(clean for line in log.splitlines() if (clean := _LOG_PREFIX.sub("", line).rstrip()))
    exceptions = [line for line in lines if _EXCEPTION.match(line)]
    telling = [line for line in exceptions if not _UNINFORMATIVE.search(line)]
    errors = [line for line in lines if re.search(r"\berror\b|\bfailed\b", line, re.IGNORECASE)]
    for candidates in (telling, exceptions, errors, lines):
        if candidates:
            return candidates[-1][:500]
    return ""


def _joined(lines: Iterable[str]) -> list[str]:
    """Lines without their indentation; what an exception says in an indented line below it (pydantic) is put behind."""
    joined: list[str] = []
    for line in lines:
        if line.startswith("  ") and joined and _EXCEPTION.match(joined[-1]) and "; " not in joined[-1]:
            joined[-1] += "; " + line.strip()
        else:
            joined.append(line.strip())
    return joined


class Process:
    """A server in its own session, with its output in a file.

    Use as a context manager; it is stopped on leaving, at interpreter exit, and (on Linux) when this process is killed.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Starts `command` with `env` on top of our environment. Raises NotFound when there is no such program."""
        self.name = name
        self.log = log
        self.command = [os.fspath(part) for part in command]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("wb") as output:
                self._child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
        except (FileNotFoundError, PermissionError) as error:
            raise NotFound(f"cannot start {name}: {self.command[0]}: {error.strerror}") from None
        _running.add(self)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    def tail(self, size: int = LOG_TAIL_BYTES) -> str:
        """The end of the log, at most `size` bytes."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read(size).decode("utf-8", "replace")
        except OSError:
            return ""

    def raise_if_dead(self, *, grace: float = 0.0) -> None:
        """Raises EngineDied, with the reason from the log, if the server has exited (or does within `grace` s)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(grace)
        if (code := self._child.poll()) is None:
            return
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        raise EngineDied(
            f"{self.name} {how}: {likely_reason(self.tail()) or 'it said nothing'}", hint=f"log: {self.log}"
        )

    def wait_ready(self, probe: Callable[[], object], *, timeout: float) -> float:
        """Waits until `probe` returns, and says how many seconds that took.

        `probe` must make the server do real work (generate a token): /health says 200 on servers that cannot. It
        raises ServerUnreachable, or ServerError with 404 or 503, while the server is still starting; any other error
        is final. Raises EngineDied when the server exits or is not ready in time.
        """
        started = time.monotonic()
        last = "it never answered"
        while time.monotonic() - started < timeout:
            self.raise_if_dead()
            try:
                probe()
            except ServerUnreachable as error:
                last = str(error)
            except ServerError as error:
                if error.status not in (404, 503):
                    raise
                last = str(error)
            else:
                return time.monotonic() - started
            time.sleep(POLL_S)
        self.raise_if_dead()
        raise EngineDied(f"{self.name} was not ready within {timeout:g} s: {last}", hint=f"log: {self.log}")

    def stop(self, *, grace: float = 10.0) -> None:
        """Ends the server and everything it started: SIGTERM, `grace` seconds, SIGKILL. May be called twice."""
        if self not in _running:
            return
        _running.discard(self)
        self._signal_group(signal.SIGTERM)
        try:
            self._child.wait(grace)
            self._wait_group_gone(2.0)
        except subprocess.TimeoutExpired:
            pass
        self._signal_group(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, number)

    def _wait_group_gone(self, timeout: float) -> None:
        """Gives the children of a server that has ended time to end as well."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                os.killpg(self._child.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.05)


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does before it becomes the server: ask Linux for SIGTERM when we die.

    Linux ties this to the starting thread, so only for the main one, which lives as long as we do.
    """
    if not sys.platform.startswith("linux") or threading.current_thread() is not threading.main_thread():
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@atexit.register
def _stop_all() -> None:
    for process in list(_running):
        process.stop(grace=3.0)
