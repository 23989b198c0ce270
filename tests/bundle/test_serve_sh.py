"""serve.sh as far as it goes without a vLLM; the rest is in tests/live."""

from __future__ import annotations

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from migrate.bundle import write
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.bundle.test_write import STORE


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "out"
    write.write(plan(Store(STORE).load("support-bot")), out)
    return out


def serve(bundle: Path, state: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(bundle / "serve.sh"), *arguments],
        env={**os.environ, "SERVE_STATE": str(state), "VLLM_COMMAND": "no-such-vllm", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port"], "--port needs a value"),
        (["--port", "abc"], "--port abc is no port"),
        (["--port=99999999"], "is no port"),
        (["start", "--instances", "0"], "--instances 0 is no number"),
        (["--instances", "2; touch pwned"], "is no number"),
        (["--instances", "3", "--port", "65534"], "only 65535 ports"),
        (["restart"], "restart is no command"),
        (["stpo", "--port", "8001"], "stpo is no command"),
    ],
)
def test_what_cannot_be_meant(bundle: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = serve(bundle, tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (bundle / "pwned").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["start", "-h"], ["--port", "1", "--help"]])
def test_help(bundle: Path, tmp_path: Path, arguments: list[str]) -> None:
    done = serve(bundle, tmp_path, *arguments)
    assert done.returncode == 0
    assert "./serve.sh status | stop | logs [-f]" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("Written by")


def test_nothing_runs(bundle: Path, tmp_path: Path) -> None:
    status = serve(bundle, tmp_path, "status")
    assert (status.returncode, status.stdout) == (3, "")
    assert "nothing runs on port 8000" in status.stderr
    stop = serve(bundle, tmp_path, "stop")
    assert stop.returncode == 0
    assert "nothing was started on port 8000" in stop.stderr
    assert serve(bundle, tmp_path, "logs", "-f").returncode == 1
    assert list(tmp_path.iterdir()) == [], "asking leaves nothing behind"


@pytest.mark.parametrize("verb", [[], ["start"]])
def test_without_vllm(bundle: Path, tmp_path: Path, verb: list[str]) -> None:
    done = serve(bundle, tmp_path, *verb)
    assert done.returncode == 1
    assert "no-such-vllm is not installed: pip install vllm==" in done.stderr


def test_a_pid_that_went_to_somebody_else_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    """What a machine that was switched off leaves behind: files that name this very process, born another time."""
    told = serve(bundle, tmp_path, "start", VLLM_COMMAND="false")  # makes the directory, and ends at once
    assert told.returncode == 1
    (state,) = tmp_path.iterdir()
    for name in ("serve.pid", "8000.pid"):
        (state / name).write_text(f"{os.getpid()} 1\n")
    assert serve(bundle, tmp_path, "status").returncode == 3
    assert serve(bundle, tmp_path, "stop").returncode == 0, "and this process is still alive"
    assert not state.exists()


def test_a_vllm_that_ends_at_once(bundle: Path, tmp_path: Path) -> None:
    done = serve(bundle, tmp_path, "--instances", "2", VLLM_COMMAND="false")
    assert done.returncode == 1
    assert "--gpu-memory-utilization 0.46 each" in done.stderr
    assert "vLLM did not come up" in done.stderr
    assert done.stderr.count("starting vLLM") == 1, "the second is not tried"


SEEN_ABOVE = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
ENDED = {
    "weights": (
        "(Worker pid=26560) ERROR 11-25 23:58:04 [multiproc_executor.py:953] "
        "safetensors._safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata",
        "(EngineCore pid=26212) ERROR 11-25 23:58:09 [core.py:1510] Exception: WorkerProc initialization failed due "
        "to an exception in a background process. See stack trace for root cause.",
        SEEN_ABOVE,
    ),
    "engine": (
        "(APIServer pid=11477) WARNING 11-25 23:47:31 [system_utils.py:255] Found ulimit of 20000. This can cause "
        "fd limit errors like `OSError: [Errno 24] Too many open files`",
        "(APIServer pid=11477) ERROR 11-25 23:53:11 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: "
        "EngineCore encountered an issue. See stack trace (above) for the root cause.",
    ),
    "worker": (
        "(EngineCore pid=8278) ERROR 11-26 00:07:08 [multiproc_executor.py:315] Worker proc VllmWorker-0 died "
        "unexpectedly (exit code: -9), shutting down executor.",
        "(EngineCore pid=8278) ERROR 11-26 00:07:08 [core.py:1512] RuntimeError: Executor failed.",
        "RuntimeError: Executor failed.",
    ),
    "nothing": ("Killed",),
}


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("weights", "safetensors._safetensors_rust.SafetensorError: Error while deserializing header"),
        ("engine", "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue"),
        ("worker", "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)"),
        ("nothing", "no error in its log"),
    ],
)
def test_the_reason_is_the_root_cause(bundle: Path, tmp_path: Path, log: str, reason: str) -> None:
    """Lines that vLLM 0.32 wrote when it ended: with a weight file cut short, with its engine killed, ..."""
    (tmp_path / "lines").write_text("\n".join(ENDED[log]) + "\n")
    program = tmp_path / "ends"
    program.write_text(f'#!/bin/sh\ncat "{tmp_path}/lines"\nexit 1\n')
    program.chmod(0o755)
    done = serve(bundle, tmp_path / "state", "start", "--port", "18123", VLLM_COMMAND=str(program))
    assert done.returncode == 1
    assert f"vLLM did not come up: {reason}" in done.stderr


def test_a_port_that_something_else_has(bundle: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = serve(bundle, tmp_path, "--port", str(server.server_port), VLLM_COMMAND="false")
        server.shutdown()
    assert done.returncode == 1
    assert f"port {server.server_port} is taken: what listens there answers with status 501" in done.stderr
    assert "starting vLLM" not in done.stderr


def test_state_of_somebody_else_is_not_used(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    done = serve(bundle, tmp_path / "link", "start", VLLM_COMMAND="false")
    assert done.returncode == 1
    assert "belongs to somebody else" in done.stderr


def test_what_vllm_is_given(bundle: Path, tmp_path: Path) -> None:
    """A program that only says how it was called."""
    program = tmp_path / "says"
    program.write_text('#!/bin/sh\necho "GPU=$CUDA_VISIBLE_DEVICES OFFLINE=$HF_HUB_OFFLINE $*"\nexit 1\n')
    program.chmod(0o755)
    arguments = ["--instances=2", "--gpus", "3,1", "--port=8123", "--host=0.0.0.0", "--dtype", "float32", "--seed=1"]
    done = serve(bundle, tmp_path, *arguments, VLLM_COMMAND=str(program), SERVE_LOG=str(tmp_path / "log"))
    assert done.returncode == 1
    assert (tmp_path / "log.8123").read_text() == (
        "GPU=3 OFFLINE=1 serve --config serve.yaml --dtype float32 --seed=1 --host 0.0.0.0 --port 8123\n"
    )
    assert "gpu-memory-utilization" not in done.stderr, "each has a GPU for itself"


@pytest.mark.parametrize(
    ("arguments", "share"),
    [
        ([], "--gpu-memory-utilization 0.46"),
        (["--gpus", "0"], "--gpu-memory-utilization 0.46"),
        (["--gpu-memory-utilization", "0.3"], "--gpu-memory-utilization 0.3"),
        (["--kv-cache-memory-bytes=1073741824"], "--kv-cache-memory-bytes=1073741824"),
    ],
)
def test_instances_share_a_gpu(bundle: Path, tmp_path: Path, arguments: list[str], share: str) -> None:
    log = str(tmp_path / "log")
    serve(bundle, tmp_path, "--instances", "2", *arguments, VLLM_COMMAND="echo", SERVE_LOG=log)
    told = (tmp_path / "log.8000").read_text()
    assert told == f"serve --config serve.yaml {share} --host 127.0.0.1 --port 8000\n"
