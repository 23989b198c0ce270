from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from migrate.engines.supervisor import Process, free_port, likely_reason
from migrate.errors import EngineDied, NotFound, ServerError, ServerUnreachable

VLLM_LOG = """\
(EngineCore pid=4711) INFO 11-23 21:47:28 [core.py:99] Initializing a V1 LLM engine
(EngineCore pid=4711) ERROR 11-23 21:47:29 [core.py:1180] Traceback (most recent call last):
(EngineCore pid=4711) ERROR 11-23 21:47:29 [core.py:1180]   File "model_loader.py", line 2, in load
(EngineCore pid=4711) ERROR 11-23 21:47:29 [core.py:1180] ValueError: There is no module or parameter named 'x'
(APIServer pid=4700) Traceback (most recent call last):
(APIServer pid=4700) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", ""),
        ("loading\nlistening\n", "listening"),
        (VLLM_LOG, "ValueError: There is no module or parameter named 'x'"),
        ("RuntimeError: Engine core initialization failed. See root cause above.\n",
         "RuntimeError: Engine core initialization failed. See root cause above."),
        ("llama_model_load: error loading model: tensor 'x' not found\nbye\n",
         "llama_model_load: error loading model: tensor 'x' not found"),
        ("Traceback (most recent call last):\npydantic_core._pydantic_core.ValidationError: 1 validation error\n",
         "pydantic_core._pydantic_core.ValidationError: 1 validation error"),
        ("(APIServer pid=1) ValidationError: 1 validation error for ModelConfig\n"
         "(APIServer pid=1)   Value error, model type `x` is not known [type=value_error]\n"
         "(APIServer pid=1)     For further information visit https://errors.pydantic.dev\n",
         "ValidationError: 1 validation error for ModelConfig; Value error, model type `x` is not known "
         "[type=value_error]"),
        ("OSError: [Errno 98] Address already in use\nshutting down\n", "OSError: [Errno 98] Address already in use"),
    ],
)  # fmt: skip
def test_the_reason_is_the_last_line_that_names_a_cause(log: str, reason: str) -> None:
    assert likely_reason(log) == reason


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))


def _python(code: str, tmp_path: Path) -> Process:
    return Process([sys.executable, "-u", "-c", code], name="toy", log=tmp_path / "toy.log")


def _exists(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until(condition: object, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if callable(condition) and condition():
            return True
        time.sleep(0.02)
    return False


def test_ready_when_the_probe_succeeds_and_gone_after_leaving(tmp_path: Path) -> None:
    answers = iter([ServerUnreachable("not yet"), ServerError("loading", status=503), None])

    def probe() -> None:
        if (error := next(answers)) is not None:
            raise error

    with _python("import time; time.sleep(60)", tmp_path) as process:
        assert process.wait_ready(probe, timeout=10) < 10
        assert process.returncode is None
        pid = process.pid
    assert not _exists(pid)
    assert process.returncode == -signal.SIGTERM


def test_a_server_that_dies_while_starting_tells_why(tmp_path: Path) -> None:
    def unreachable() -> None:
        raise ServerUnreachable("nobody")

    with (
        _python("print('hello'); raise ValueError('no such tensor')", tmp_path) as process,
        pytest.raises(EngineDied, match=r"toy exited with status 1: ValueError: no such tensor") as caught,
    ):
        process.wait_ready(unreachable, timeout=20)
    assert caught.value.hint == f"log: {tmp_path / 'toy.log'}"


def test_a_server_that_is_killed_is_said_to_be(tmp_path: Path) -> None:
    with _python("import time; time.sleep(60)", tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match="was killed by SIGKILL: it said nothing"):
            process.raise_if_dead(grace=5)


def test_waiting_is_bounded(tmp_path: Path) -> None:
    def unreachable() -> None:
        raise ServerUnreachable("nobody listens")

    with (
        _python("import time; time.sleep(60)", tmp_path) as process,
        pytest.raises(EngineDied, match=r"not ready within 0.6 s: nobody listens"),
    ):
        process.wait_ready(unreachable, timeout=0.6)


def test_an_error_that_waiting_does_not_cure_is_final(tmp_path: Path) -> None:
    def refused() -> None:
        raise ServerError("bad key", status=401)

    with _python("import time; time.sleep(60)", tmp_path) as process, pytest.raises(ServerError, match="bad key"):
        process.wait_ready(refused, timeout=30)


STUBBORN = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("child", child.pid, flush=True)
time.sleep(60)
"""


def test_children_that_ignore_sigterm_do_not_survive(tmp_path: Path) -> None:
    with _python(STUBBORN, tmp_path) as process:
        assert _wait_until(lambda: "up" in process.tail() and "child" in process.tail())
        grandchild = int(process.tail().split("child ")[1].split()[0])
        assert _exists(grandchild)
        process.stop(grace=0.3)
        assert not _exists(process.pid)
        assert _wait_until(lambda: not _exists(grandchild))
        process.stop()


OWNER = """
import sys, time
from pathlib import Path
from migrate.engines.supervisor import Process
process = Process([sys.executable, "-c", "import time; time.sleep(60)"], name="toy", log=Path(sys.argv[1]))
print(process.pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "kill"),
    [
        ("raise SystemExit", False),
        pytest.param("time.sleep(60)", True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux only")),
    ],
)
def test_servers_do_not_outlive_their_owner(then: str, kill: bool, tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(then=then), str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    if kill:
        owner.kill()
    owner.communicate(timeout=20)
    assert _wait_until(lambda: not _exists(pid))


def test_the_tail_is_bounded(tmp_path: Path) -> None:
    with _python("print('x' * 5_000_000); print('end')", tmp_path) as process:
        assert _wait_until(lambda: process.returncode is not None)
        assert len(process.tail(1000)) == 1000
        assert process.tail(1000).endswith("end\n")


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="cannot start toy: /no/such/program"):
        Process(["/no/such/program"], name="toy", log=tmp_path / "log")
