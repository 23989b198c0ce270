"""Files that hold requests: JSON lines, and the request logs that Ollama writes.

With OLLAMA_DEBUG_LOG_REQUESTS=1 a server makes a directory `ollama-request-logs-*` under its temporary directory, and
in it two files for each request to /api/generate, /api/chat, /v1/chat/completions, /v1/completions, /v1/responses and
/v1/messages (not for embeddings), mode 0600:

    20260823T101502.123456789Z-000017_api_chat_body.json      the body as it came, byte for byte
    20260823T101502.123456789Z-000017_api_chat_request.sh     a curl command that sends it again

The time is UTC with nanoseconds, the number counts the requests of one start of the server, and of the route every
character but ASCII letters and digits has become `_`. Neither file holds headers (source: Ollama 0.33,
server/inference_request_log.go). Only the bodies are read here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import BadInput, NotFound
from migrate.parity.traffic.requests import WORLDS


@dataclass(frozen=True, slots=True)
class Limits:
    """What is read at most. What lies behind is not read, and the report says so; a longer line counts as broken."""

    bytes: int = 256 << 20
    line_bytes: int = 32 << 20
    lines: int = 100_000


@dataclass(frozen=True, slots=True)
class Line:
    """`data` None: the line is longer than allowed. `endpoint`: told by the name of a log file."""

    number: int
    data: bytes | None
    endpoint: str | None = None


class Source:
    """The lines of a file, or the bodies of a directory of logs. `cut` says after reading what a limit left out."""

    def __init__(self, path: Path, limits: Limits) -> None:
        """Raises NotFound, and BadInput for a directory without logs."""
        self.path = path
        self.limits = limits
        self.cut = ""
        self._logs: list[Path] | None = None
        if path.is_dir():
            self._logs = _logs_in(path, limits.lines + 1)
            if not self._logs:
                raise BadInput(
                    f"{path}: no request logs of Ollama (*_body.json)",
                    hint="start Ollama with OLLAMA_DEBUG_LOG_REQUESTS=1, or record with `migrate parity record`",
                )
        elif not path.exists():
            raise NotFound(f"{path}: no such file", hint="record requests with `migrate parity record`")
        elif _LOG_NAME.fullmatch(path.name):
            self._logs = [path]

    @property
    def place(self) -> str:
        """What one entry is called in reports."""
        return "line" if self._logs is None else "log"

    def __iter__(self) -> Iterator[Line]:
        try:
            yield from self._lines() if self._logs is None else self._bodies(self._logs)
        except OSError as error:
            raise BadInput(f"{error.filename or self.path}: cannot be read: {error.strerror}") from None

    def _bodies(self, logs: list[Path]) -> Iterator[Line]:
        total = 0
        for number, path in enumerate(logs, 1):
            if number > self.limits.lines or total > self.limits.bytes:
                self._cut(number - 1)
                return
            with path.open("rb") as file:
                data = file.read(self.limits.line_bytes + 1)
            total += len(data)
            yield Line(number, data if len(data) <= self.limits.line_bytes else None, _endpoint(path))

    def _lines(self) -> Iterator[Line]:
        total = 0
        with self.path.open("rb") as file:
            number = 0
            while data := file.readline(self.limits.line_bytes + 1):
                number += 1
                if number > self.limits.lines or total > self.limits.bytes:
                    self._cut(number - 1)
                    return
                total += len(data)
                whole: bytes | None = data
                if len(data) > self.limits.line_bytes and not data.endswith(b"\n"):
                    whole = None
                    while (rest := file.readline(1 << 20)) and total <= self.limits.bytes:
                        total += len(rest)
                        if rest.endswith(b"\n"):
                            break
                if number == 1 and whole is not None:
                    whole = whole.removeprefix(b"\xef\xbb\xbf")
                if whole is None or whole.strip():
                    yield Line(number, whole)

    def _cut(self, number: int) -> None:
        self.cut = f"only the first {number} {self.place}s were read: the limit is {self.limits.lines} or " + (
            f"{self.limits.bytes >> 20} MiB"
        )


_LOG_NAME = re.compile(r"\d{8}T\d{6}\.\d{9}Z-\d{6,20}_([A-Za-z0-9_]{1,100})_body\.json")
_ROUTES = {re.sub(r"[^A-Za-z0-9]", "_", endpoint.lstrip("/")): endpoint for endpoint in WORLDS}


def _endpoint(path: Path) -> str | None:
    match = _LOG_NAME.fullmatch(path.name)
    return _ROUTES.get(match[1]) if match else None


def _logs_in(path: Path, most: int) -> list[Path]:
    """Logs of one or of several starts of the server, in the order in which they were made."""
    found = _bodies_in(path, most)
    if not found:
        for folder in sorted(path.glob("ollama-request-logs-*")):
            if folder.is_dir() and len(found) < most:
                found += _bodies_in(folder, most - len(found))
    return sorted(found, key=lambda log: log.name)


def _bodies_in(path: Path, most: int) -> list[Path]:
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if _LOG_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append(Path(entry.path))
                    if len(found) >= most:
                        break
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    return found
