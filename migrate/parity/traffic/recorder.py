"""The file of a recording: a line for each request, written by a thread of its own so that no client waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from migrate.errors import OutputExists, UsageError
from migrate.parity.traffic.answers import answer
from migrate.parity.traffic.redact import Redactor
from migrate.parity.traffic.requests import UnknownRequest, clean

MAX_BODY_BYTES = 32 << 20
"""Of a request or an answer that is recorded. Larger ones are passed on all the same."""
MAX_WAITING_BYTES = 256 << 20
"""Of requests that the thread has not got to. When a disk is that far behind, requests are left out and counted."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and what came of it. `started` is seconds since 1970. `status` None: the client went away before there
    was an answer. `answer` None: not asked for, cut off, or too large. `body` None: too large."""

    endpoint: str
    body: bytes | None
    started: float
    status: int | None = None
    answer: bytes | None = None

    @property
    def size(self) -> int:
        return len(self.body or b"") + len(self.answer or b"") + 200


class Recorder:
    """Appends to a new file of mode 0600. `left_out` counts requests that were not recorded, by reason."""

    def __init__(
        self,
        path: Path,
        *,
        redactor: Redactor | None = None,
        limit: int | None = None,
        force: bool = False,
        on_line: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`on_line` is called with the number of lines after each, in the thread. Raises OutputExists, UsageError."""
        self.path = path
        self.count = 0
        self.left_out: Counter[str] = Counter()
        self.error: OSError | None = None
        self._redactor = redactor
        self._limit = limit
        self._on_line = on_line
        self._queue: queue.SimpleQueue[Exchange | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._file = _create(path, force=force)
        self._size = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Nothing more is written: the limit is reached, or the file cannot be written."""
        return self.error is not None or (self._limit is not None and self.count >= self._limit)

    def put(self, exchange: Exchange) -> None:
        """Never waits."""
        with self._lock:
            if self._waiting + exchange.size > MAX_WAITING_BYTES:
                self.left_out["the disk did not keep up"] += 1
                return
            self._waiting += exchange.size
        self._queue.put(exchange)

    def close(self) -> None:
        """Writes what is waiting; an empty file is removed."""
        self._queue.put(None)
        self._thread.join()
        os.close(self._file)
        if not self.count:
            self.path.unlink(missing_ok=True)

    def _run(self) -> None:
        while (exchange := self._queue.get()) is not None:
            with self._lock:
                self._waiting -= exchange.size
            if self.full:
                continue
            line = self._line(exchange)
            if line is None:
                continue
            try:
                self._append(line)
            except OSError as error:
                self.error = error
            else:
                self.count += 1
            self._on_line(self.count)

    def _line(self, exchange: Exchange) -> bytes | None:
        if exchange.body is None:
            self.left_out[f"larger than {MAX_BODY_BYTES >> 20} MiB"] += 1
            return None
        try:
            body = clean(json.loads(exchange.body))
        except (ValueError, RecursionError, UnknownRequest):
            body = None
        if not isinstance(body, dict):
            self.left_out["its body is no JSON object"] += 1
            return None
        made = answer(exchange.endpoint, exchange.answer) if exchange.answer is not None else None
        if self._redactor is not None:
            body = self._redactor.body(body)
            made = self._redactor.value(made)
        at = datetime.fromtimestamp(exchange.started, UTC)
        row: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "path": exchange.endpoint,
            "status": exchange.status,
            "body": body,
            "answer": made,
        }
        row = {key: value for key, value in row.items() if value is not None}
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace") + b"\n"

    def _append(self, line: bytes) -> None:
        """The whole line, or the file as it was."""
        view = memoryview(line)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)


def _create(path: Path, *, force: bool) -> int:
    """A new file that only its owner may read. With `force` an existing one is replaced, not opened: others may hold
    it open, or it may be a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    try:
        if force and not path.is_dir():
            path.unlink(missing_ok=True)
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise OutputExists(f"{path} exists", hint="pass --force to replace a file") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None
