"""The journal of shadowed requests: JSON lines beside the state, 0600, of bounded size, without prompts by default.

A line has `time`, `path`, `status`, `model` and `pair`; with `keep_text` also `body`, and is then a line that `migrate
parity --requests` reads.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from migrate.errors import BadInput
from migrate.gateway.shadow_compare import Pair
from migrate.gateway.state import locked
from migrate.parity.traffic.redact import Redactor
from migrate.parity.traffic.requests import UnknownRequest, clean

MAX_LINE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `body` None: its text was not kept."""

    time: datetime
    model: str
    path: str
    pair: Pair
    body: Mapping[str, Any] | None = None


def journal_path(state: Path) -> Path:
    """Beside the state: gateway-state.json -> gateway-state.shadow.jsonl."""
    return state.with_name(f"{state.stem}.shadow.jsonl")


class Journal:
    """Appends; several processes may. At `max_bytes` / `files` a new file is begun, and the oldest is removed."""

    def __init__(self, path: Path, *, max_bytes: int, files: int = 4, redactor: Redactor | None = None) -> None:
        self.path = path
        self.redactor = redactor
        self._limit = max(1, max_bytes // files)
        self._files = files

    def append(
        self, model: str, path: str, pair: Pair, *, body: Mapping[str, Any] | None = None, started: float
    ) -> None:
        """`started`: seconds since 1970. `body`: only where its text may be kept. Raises OSError."""
        at = datetime.fromtimestamp(started, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        row: dict[str, Any] = {"time": at, "model": model, "path": path, "status": pair.source.status}
        if body is not None:
            with contextlib.suppress(UnknownRequest):  # nested too deep to be compared later
                kept = clean(dict(body))
                row["body"] = self.redactor.body(kept) if self.redactor is not None else kept
        row["pair"] = pair.model_dump(mode="json", exclude_none=True)
        text = json.dumps({k: v for k, v in row.items() if v is not None}, ensure_ascii=False, separators=(",", ":"))
        self._write(text.encode("utf-8", "replace") + b"\n")

    def _write(self, line: bytes) -> None:
        with locked(self.path):
            descriptor = os.open(self.path, _APPEND, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                if size and size + len(line) > self._limit:
                    os.close(descriptor)
                    self._rotate()
                    descriptor, size = os.open(self.path, _APPEND, 0o600), 0
                view = memoryview(line)
                try:
                    while view:
                        view = view[os.write(descriptor, view) :]
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)

    def _rotate(self) -> None:
        numbered = _numbered(self.path)
        for number in range(self._files - 1, 0, -1):
            older = numbered(number - 1) if number > 1 else self.path
            if older.exists():
                older.replace(numbered(number))
        if self._files == 1:
            self.path.unlink(missing_ok=True)
        for number in range(self._files, self._files + 16):  # `files` was larger once
            numbered(number).unlink(missing_ok=True)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)


def _numbered(path: Path) -> Any:
    return lambda number: path.with_name(f"{path.stem}.{number}{path.suffix}")


def journal_files(path: Path) -> list[Path]:
    """The files of a journal, the oldest first."""
    numbered = _numbered(path)
    older = [numbered(n) for n in range(63, 0, -1)]
    return [file for file in (*older, path) if file.is_file()]


def read_journal(path: Path, model: str | None = None) -> Iterator[Row]:
    """Every pair, the oldest first; lines that are none (a disk that filled up) are skipped.

    Raises BadInput when a file cannot be read.
    """
    for file in journal_files(path):
        try:
            with file.open("rb") as lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    row = _row(line)
                    if row is not None and (model is None or row.model == model):
                        yield row
        except OSError as error:
            raise BadInput(f"{file}: cannot be read: {error.strerror}") from None


def _row(line: bytes) -> Row | None:
    try:
        value = json.loads(line)
        body = value.get("body")
        return Row(
            datetime.fromisoformat(value["time"]),
            str(value["model"]),
            str(value["path"]),
            Pair.model_validate(value["pair"]),
            body if isinstance(body, dict) else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        return None
