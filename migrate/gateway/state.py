"""Who answers for each model, kept in one JSON file that the command line and several servers read and write.

A writer takes the lock beside the file, reads, changes, and puts a whole new file in its place, so that a reader sees
the old state or the new one. A server looks at the file's identity a few times a second and reads it again when that
has changed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from migrate.errors import BadInput, UsageError
from migrate.ollama.names import ModelName

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
MAX_BYTES = 8 << 20
MAX_HISTORY = 100
LOOK_EVERY_S = 0.2
MAX_NAME = 1024
LOCK_TIMEOUT_S = 10.0
STALE_LOCK_S = 60.0
"""Age from which a lock *file* is taken for one of a process that died; only where there is no flock."""

Phase = Literal["source", "shadow", "canary", "target"]
"""source: Ollama answers. shadow: Ollama answers, vLLM gets copies. canary: a share goes to vLLM. target: vLLM."""

OPERATOR = "operator"
AUTOMATIC = "automatic return"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(_Model):
    """One phase and how it came about. `weight`: percent of conversations that vLLM answers, in a canary. `fraction`:
    share of requests (0..1) that are also sent to the other side, where the operator asked for another than the
    configuration's. `by`: "operator", or "automatic return: REASON"."""

    phase: Phase
    since: AwareDatetime
    by: Annotated[str, StringConstraints(min_length=1, max_length=500)] = OPERATOR
    weight: float = Field(default=0.0, ge=0, le=100)
    fraction: float | None = Field(default=None, ge=0, le=1)

    @property
    def automatic(self) -> bool:
        return self.by.startswith(AUTOMATIC)


class ModelState(Change):
    """`history` has the phases before this one, the oldest first."""

    history: tuple[Change, ...] = ()


class State(_Model):
    """The whole file. `salt` (hexadecimal) is what conversations are spread by: it stays, so that they stay."""

    schema_version: Literal[1] = 1
    salt: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,128}$")]
    models: dict[str, ModelState] = {}

    @classmethod
    def fresh(cls) -> State:
        return cls(salt=secrets.token_hex(16))

    def of(self, name: str) -> ModelState | None:
        """What was decided about a model, None when nothing was."""
        return self.models.get(canonical(name))

    def changed(
        self,
        name: str,
        phase: Phase,
        *,
        by: str = OPERATOR,
        weight: float = 0.0,
        fraction: float | None = None,
        now: datetime | None = None,
    ) -> State:
        """The state after a decision; what was before goes to the history."""
        key = canonical(name)
        before = self.models.get(key)
        history = (*before.history, Change(**_without_history(before))) if before is not None else ()
        at = now or datetime.now(UTC)
        if before is not None and at <= before.since:  # a clock that was put back must not hide a change
            at = before.since + timedelta(milliseconds=1)
        after = ModelState(
            phase=phase, since=at, by=by[:500], weight=weight, fraction=fraction, history=history[-MAX_HISTORY:]
        )
        return self.model_copy(update={"models": {**self.models, key: after}})


def _without_history(state: ModelState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in Change.model_fields}


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """One spelling for all names that Ollama takes for the same model: `support-bot:latest`."""
    text = name.strip()[:MAX_NAME]
    return (ModelName.parse(text).short if ModelName.valid(text) else text).lower()


class StateFile:
    """The file of a configuration. Nothing is kept in memory: for the command line, and for whoever writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> State:
        """A fresh state where there is no file yet. Raises BadInput when it is damaged or cannot be read."""
        found = self._read()
        return found if found is not None else State.fresh()

    def _read(self) -> State | None:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadInput(f"{self.path}: cannot be read: {error.strerror}") from None
        hint = "restore it, or remove it: without it every model is in its first phase"
        if len(data) > MAX_BYTES:
            raise BadInput(f"{self.path}: larger than {MAX_BYTES >> 20} MiB: not a state of ours", hint=hint)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{self.path}: damaged, not JSON: {error}", hint=hint) from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise BadInput(f"{self.path}: schema_version {version} is newer than this program knows", hint="update it")
        try:
            return State.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise BadInput(f"{self.path}: damaged: {where}: {first['msg']}", hint=hint) from None

    def update(self, change: Callable[[State], State]) -> State:
        """Reads, applies `change` and writes, with every other writer kept out; the state afterwards.

        Raises BadInput when the file is damaged, UsageError when it cannot be written or is locked for too long.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                before = self._read()
                after = change(before if before is not None else State.fresh())
                if after != before:
                    _replace(self.path, after.model_dump_json(indent=2).encode() + b"\n")
                return after
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written: {error.strerror or error}") from None

    def set_aside(self) -> Path:
        """Moves a damaged file out of the way, beside itself; where it is now. Raises UsageError."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S}")
        try:
            self.path.rename(aside)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be moved away: {error.strerror or error}") from None
        return aside

    def signature(self) -> tuple[int, int, int] | None:
        """(mtime_ns, size, inode); None when there is no file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _replace(path: Path, data: bytes) -> None:
    """The whole file or the old one, whatever happens in between; on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # not every system opens directories
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """One process (and thread) at a time, by `path`.lock. The kernel drops a dead holder's lock; where there is no
    flock, the file itself is the lock. Raises UsageError when it stays locked."""
    lock = path.with_name(path.name + ".lock")
    deadline = time.monotonic() + timeout_s
    try:
        import fcntl
    except ImportError:
        with _lock_file(lock, deadline):
            yield
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _wait(lock, deadline)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock_file(lock: Path, deadline: float) -> Iterator[None]:
    """For systems without flock: whoever creates the file has the lock."""
    while True:
        try:
            os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError:
            with contextlib.suppress(OSError):
                if time.time() - lock.stat().st_mtime > STALE_LOCK_S:
                    lock.unlink()
                    continue
            _wait(lock, deadline)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _wait(lock: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise UsageError(f"{lock}: another process has held the lock for too long", hint="is one stopped in it?")
    time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class _Return:
    """A return that this process decided. It holds until the file shows another phase than the one it ended."""

    ended: datetime
    state: ModelState


class LiveState:
    """The state as a running server sees it. `current()` costs a comparison, and now and then a stat.

    A file that is damaged or gone while the server runs is logged once and changes nothing. `return_to_source` takes
    effect here at once and is written by a thread, so that no request waits for a disk; if it cannot be written it
    still holds in this process.
    """

    def __init__(self, file: StateFile, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises BadInput when the file is damaged: there is no last good state yet."""
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._returns: dict[str, _Return] = {}
        self._writers: list[threading.Thread] = []
        self._seen = file.signature()
        self._file_state = self._state = file.read()
        self._looked = clock()

    def current(self) -> State:
        now = self._clock()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._look()
        return self._state

    def _look(self) -> None:
        signature = self._file.signature()
        if signature == self._seen:
            return
        self._seen = signature
        if signature is None:
            logger.warning("%s is gone: the last state stays in force", self._file.path)
            return
        try:
            found = self._file.read()
        except BadInput as error:
            logger.warning("%s; the last good state stays in force", error)
            return
        with self._lock:
            self._file_state = found
            self._overlay()

    def _overlay(self) -> None:
        """The file's state with the returns it does not know of yet."""
        models = dict(self._file_state.models)
        for name, made in list(self._returns.items()):
            found = models.get(name)
            if found is not None and found.since == made.ended:
                models[name] = made.state
            else:  # written, or an operator has decided since
                del self._returns[name]
        self._state = self._file_state.model_copy(update={"models": models})

    def return_to_source(self, name: str, reason: str) -> bool:
        """Ends a canary or target phase. False when there is none: another worker or the operator was first."""
        key, by = canonical(name), f"{AUTOMATIC}: {reason}"
        with self._lock:
            before = self._state.models.get(key)
            if before is None or before.phase not in ("canary", "target"):
                return False
            after = self._state.changed(key, "source", by=by).models[key]
            self._returns[key] = _Return(before.since, after)
            self._overlay()
        writer = threading.Thread(target=self._write, args=(key, before.since, by), name="state", daemon=True)
        self._writers = [w for w in self._writers if w.is_alive()]
        self._writers.append(writer)
        writer.start()
        return True

    def _write(self, key: str, ended: datetime, by: str) -> None:
        def change(state: State) -> State:
            found = state.models.get(key)
            return state.changed(key, "source", by=by) if found is not None and found.since == ended else state

        for pause in (0.2, 1.0, 5.0, None):
            try:
                self._file.update(change)
                return
            except (BadInput, UsageError) as error:
                logger.error("%s returned to Ollama, but that could not be written: %s", key, error)
            if pause is not None:
                time.sleep(pause)

    def flush(self, timeout_s: float = 5.0) -> None:
        """Waits until returns are written."""
        deadline = time.monotonic() + timeout_s
        for writer in self._writers:
            writer.join(max(0.0, deadline - time.monotonic()))


def described(state: Mapping[str, Any] | Change) -> str:
    """A phase in words: `canary 10 %`."""
    change = state if isinstance(state, Change) else Change.model_validate(dict(state))
    if change.phase == "canary":
        return f"canary {change.weight:g} %"
    if change.phase == "shadow" and change.fraction is not None:
        return f"shadow {100 * change.fraction:g} %"
    return change.phase
