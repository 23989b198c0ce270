"""A recording proxy in a thread of the test, in front of any server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.parity.traffic.record import Recording, record


@dataclass
class Proxied:
    """`stop()` ends the recording and gives its result."""

    path: Path
    url: str = ""
    result: Recording | None = None
    error: BaseException | None = None
    _started: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def run(self, source: str, **options: Any) -> None:
        try:
            self.result = record(source, self.path, on_start=self._is_up, stop=self._stop, **options)
        except BaseException as error:
            self.error = error
            self._started.set()

    def start(self, source: str, **options: Any) -> None:
        self._thread = threading.Thread(target=self.run, args=(source,), kwargs=options)
        self._thread.start()
        assert self._started.wait(20)

    def _is_up(self, address: str) -> None:
        self.url = address
        self._started.set()

    def join(self) -> Recording:
        """Waits for the end without asking for it."""
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    def stop(self) -> Recording:
        self._stop.set()
        return self.join()

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def proxied(source: str, path: Path, **options: Any) -> Iterator[Proxied]:
    running = Proxied(path)
    running.start(source, listen=options.pop("listen", "127.0.0.1:0"), **options)
    try:
        yield running
    finally:
        running.stop()
