"""The state file: survives restarts and several writers, and never leaves a server without a state."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput, UsageError
from migrate.gateway import state as module
from migrate.gateway.state import LiveState, State, StateFile, canonical, described, locked

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "gateway-state.json")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_yet(file: StateFile) -> None:
    assert file.read().models == {}
    assert not file.path.exists()


def test_what_is_written_is_read_again(file: StateFile) -> None:
    written = file.update(lambda s: s.changed("Bot", "canary", weight=12.5, now=NOON))
    assert StateFile(file.path).read() == written
    found = written.models["bot:latest"]
    assert (found.phase, found.weight, found.since, found.by, found.history) == ("canary", 12.5, NOON, "operator", ())
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [p.name for p in file.path.parent.iterdir() if p.suffix != ".lock"] == [file.path.name]


def test_history_keeps_the_last_hundred_in_order() -> None:
    state = State.fresh()
    for number in range(130):
        state = state.changed("bot", "canary", weight=number % 100, now=NOON + timedelta(seconds=number))
    found = state.models["bot:latest"]
    assert len(found.history) == 100
    assert [change.weight for change in found.history] == [n % 100 for n in range(29, 129)]
    assert state.salt == state.changed("bot", "source").salt


def test_a_clock_that_was_put_back_hides_no_change() -> None:
    state = State.fresh().changed("bot", "canary", now=NOON)
    later = state.changed("bot", "source", now=NOON - timedelta(hours=1))
    assert later.models["bot:latest"].since > NOON


@given(st.lists(st.tuples(st.sampled_from(["source", "shadow", "canary", "target"]), st.floats(0, 100)), max_size=20))
def test_json_keeps_everything(steps: list[tuple[module.Phase, float]]) -> None:
    state = State.fresh()
    for phase, weight in steps:
        state = state.changed("bot", phase, weight=weight)
    assert State.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("bot", "bot:latest", True),
        ("Bot", "bot", True),
        ("registry.ollama.ai/library/bot:latest", "bot", True),
        ("bot:7b", "bot", False),
        ("me/bot", "bot", False),
        ("no name!", "NO NAME!", True),
    ],
)
def test_names(one: str, other: str, same: bool) -> None:
    assert (canonical(one) == canonical(other)) is same


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ('{"schema_version": 1, "salt": "', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "damaged"),
        ("{}", "salt"),
        (json.dumps({"schema_version": 2, "salt": "0" * 32}), "newer"),
        (json.dumps({"schema_version": 1, "salt": "xyz"}), "salt"),
        (json.dumps({"schema_version": 1, "salt": "0" * 32, "models": {"a": {"phase": "all"}}}), "models.a"),
        (json.dumps({"schema_version": 1, "salt": "0" * 32, "surprise": 1}), "surprise"),
    ],
)
def test_a_damaged_file_is_an_error_and_stays_as_it_is(file: StateFile, text: str, reason: str) -> None:
    file.path.write_text(text)
    with pytest.raises(BadInput, match=reason):
        file.read()
    with pytest.raises(BadInput, match=reason):
        file.update(lambda s: s.changed("bot", "source"))
    assert file.path.read_text() == text
    with pytest.raises(BadInput):
        LiveState(file)


def test_a_failed_write_leaves_the_old_file(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.update(lambda s: s.changed("bot", "target"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        file.update(lambda s: s.changed("bot", "source"))
    assert file.read() == before
    assert not list(file.path.parent.glob(".*"))


def test_threads_do_not_lose_each_others_changes(file: StateFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: file.update(lambda s: s.changed(f"bot-{n}", "shadow")), range(40)))
    assert len(file.read().models) == 40


def test_processes_do_not_lose_each_others_changes(file: StateFile) -> None:
    program = (
        "import sys; from pathlib import Path; from migrate.gateway.state import StateFile\n"
        "f = StateFile(Path(sys.argv[1]))\n"
        "for n in range(15): f.update(lambda s: s.changed('bot', 'canary', weight=n))"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(file.path)]) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert len(file.read().models["bot:latest"].history) == 44


@pytest.mark.parametrize("has_flock", [True, False])
def test_a_lock_that_is_held_is_waited_for(file: StateFile, has_flock: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_flock:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    with locked(file.path), pytest.raises(UsageError, match="held the lock"), locked(file.path, timeout_s=0.05):
        pass
    with locked(file.path, timeout_s=0.05):
        pass


def test_without_flock_the_lock_of_a_dead_process_does_not_last(
    file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    lock = file.path.with_name(file.path.name + ".lock")
    lock.touch()
    old = time.time() - 3600
    os.utime(lock, (old, old))
    with locked(file.path, timeout_s=0.5):
        assert lock.exists()
    assert not lock.exists()


# ---- a server that runs ----------------------------------------------------------------------------------------------


def test_a_server_sees_a_change_within_half_a_second(file: StateFile) -> None:
    live = LiveState(file)
    assert live.current().models == {}
    file.update(lambda s: s.changed("bot", "canary", weight=5))
    began = time.monotonic()
    while not live.current().models:
        assert time.monotonic() - began < 0.5
        time.sleep(0.01)
    assert live.current() == file.read()


def test_looking_is_rare(file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    clock = Clock()
    live = LiveState(file, clock=clock)
    monkeypatch.setattr(file, "signature", lambda: looked.append(1))
    for _ in range(1000):
        clock.now += 0.001
        live.current()
    assert len(looked) <= 5


def test_a_damaged_or_missing_file_changes_nothing_and_is_told_once(
    file: StateFile, caplog: pytest.LogCaptureFixture
) -> None:
    good = file.update(lambda s: s.changed("bot", "canary", weight=5))
    clock = Clock()
    live = LiveState(file, clock=clock)
    file.path.write_text('{"half')
    for _ in range(5):
        clock.now += 1
        assert live.current() == good
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "damaged" in caplog.text
    file.path.unlink()
    for _ in range(5):
        clock.now += 1
        assert live.current() == good
    assert len(caplog.records) == 2
    better = file.update(lambda s: s.changed("bot", "target"))
    clock.now += 1
    assert live.current() == better


def test_an_automatic_return_holds_at_once_and_is_written(file: StateFile) -> None:
    file.update(lambda s: s.changed("bot", "canary", weight=50))
    live = LiveState(file)
    assert live.return_to_source("bot", "12 of 20 answers were errors")
    found = live.current().models["bot:latest"]
    assert found.phase == "source"
    assert found.by == "automatic return: 12 of 20 answers were errors"
    assert found.automatic
    assert not live.return_to_source("bot", "once more")
    live.flush()
    written = StateFile(file.path).read().models["bot:latest"]
    assert (written.phase, written.by) == (found.phase, found.by)
    assert [change.phase for change in written.history] == ["canary"]


def test_only_canary_and_target_return(file: StateFile) -> None:
    file.update(lambda s: s.changed("a", "shadow").changed("b", "source"))
    live = LiveState(file)
    assert not any(live.return_to_source(name, "x") for name in ("a", "b", "c"))


def test_two_workers_return_once(file: StateFile) -> None:
    file.update(lambda s: s.changed("bot", "target"))
    workers = [LiveState(file), LiveState(file)]
    barrier = threading.Barrier(2)

    def trip(live: LiveState) -> None:
        barrier.wait()
        live.return_to_source("bot", "errors")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trip, workers))
    for live in workers:
        live.flush()
    assert len(file.read().models["bot:latest"].history) == 1


def test_a_return_does_not_undo_what_an_operator_decided_meanwhile(file: StateFile) -> None:
    file.update(lambda s: s.changed("bot", "canary", weight=50))
    live = LiveState(file, clock=lambda: 0.0)  # never looks
    file.update(lambda s: s.changed("bot", "target"))
    assert live.return_to_source("bot", "errors of the canary")
    live.flush()
    assert file.read().models["bot:latest"].phase == "target"


def test_a_return_that_cannot_be_written_holds_here_until_an_operator_acts(
    file: StateFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    file.update(lambda s: s.changed("bot", "target").changed("other", "shadow"))
    clock = Clock()
    live = LiveState(file, clock=clock)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert live.return_to_source("bot", "errors")
    live.flush()
    assert "could not be written" in caplog.text
    monkeypatch.setattr(os, "fsync", fsync)
    file.update(lambda s: s.changed("other", "source"))  # the file changes, but not for this model
    clock.now += 1
    assert live.current().models["bot:latest"].phase == "source"
    assert live.current().models["other:latest"].phase == "source"
    file.update(lambda s: s.changed("bot", "canary", weight=1))
    clock.now += 1
    assert live.current().models["bot:latest"].phase == "canary"


def test_words() -> None:
    state = (
        State.fresh().changed("a", "canary", weight=12.5).changed("b", "shadow", fraction=0.25).changed("c", "target")
    )
    assert [described(state.models[f"{n}:latest"]) for n in "abc"] == ["canary 12.5 %", "shadow 25 %", "target"]
