"""Two instances behind nginx, from the emitted files alone: real vLLM on CPU, real nginx, the bundle's own serve.sh."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from migrate.bundle import deploy, write
from migrate.bundle.deploy import Options
from migrate.engines import vllm
from migrate.engines.provision import EnginesEnv
from migrate.engines.supervisor import free_port
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.bundle.proxy import nginx

pytestmark = pytest.mark.live

CLIENTS = 4
READMISSION_S = 10.0


@dataclass
class Site:
    """What runs: `url` is the proxy's, `first` and `second` the instances' ports."""

    bundle: Path
    port: int
    environment: dict[str, str]
    start: str = ""
    access_log: Path = Path()
    notified: list[str] = field(default_factory=list)
    """What systemd would have been told."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ports(self) -> tuple[int, int]:
        return self.port + 1, self.port + 2

    def serve(self, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(self.bundle / "serve.sh"), verb, "--port", str(self.ports[0]), *more]
        return subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=800,
        )

    def pids(self) -> dict[int, int]:
        """port -> pid of the instances that are ready."""
        found = re.findall(r":(\d+)\tready\tpid (\d+)", self.serve("status").stdout)
        return {int(port): int(pid) for port, pid in found}

    def served(self) -> list[dict[str, Any]]:
        """nginx's log of requests."""
        return [json.loads(line) for line in self.access_log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def site(shared: Path, engines: EnginesEnv, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Started once: vLLM starts 1 and 2 of this file's budget (the restart of a killed instance is its subject)."""
    root = tmp_path_factory.mktemp("site")
    bundle = root / "bundle"
    write.write(plan(Store(shared / "ollama/store").load("support-bot")), bundle)
    port = three_free_ports()
    deploy.write(deploy.read(bundle, Options(instances=2, port=port)), bundle / "deploy", ["nginx"])
    own = {"VLLM_COMMAND": str(engines.vllm), "SERVE_STATE": str(root / "state"), "STARTUP_TIMEOUT": "400"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}  # or both sit on the same core
    here = Site(bundle, port, {**os.environ, **vllm.CPU_ENV, **own})
    with notifications(here) as address:
        here.environment["NOTIFY_SOCKET"] = address
        started = here.serve("start", "--instances", "2", *vllm.COMPARE_ARGS)
        del here.environment["NOTIFY_SOCKET"]
    try:
        assert started.returncode == 0, started.stdout
        here.start = started.stdout
        with nginx(bundle / "deploy/nginx.conf", port) as proxy:
            here.access_log = proxy.log.parent / "access.log"
            yield here
    finally:
        here.serve("stop")


@contextlib.contextmanager
def notifications(site: Site) -> Iterator[str]:
    """The socket to which a service says that it has started (sd_notify)."""
    directory = tempfile.mkdtemp(prefix="notify-")  # pytest's own paths are too long for a socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"{directory}/s")

        def receive() -> None:
            while message := receiver.recv(4096):
                site.notified.append(message.decode())

        thread = threading.Thread(target=receive)
        thread.start()
        try:
            yield f"{directory}/s"
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", f"{directory}/s")
            thread.join(10)
            shutil.rmtree(directory)


def three_free_ports() -> int:
    """The first of three neighbours that nobody listens on."""
    while True:
        port = min(free_port(), 65000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for n in range(3):
                stack.enter_context(contextlib.closing(socket.socket())).bind(("127.0.0.1", port + n))
            return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def completion(site: Site, **more: Any) -> dict[str, Any]:
    return {"model": "support-bot", "prompt": "Hello", "max_tokens": 8, "ignore_eos": True, **more}


def test_staged_start(site: Site) -> None:
    """The second is started when the first has generated a token, not before."""
    first, second = site.ports
    told = [
        f"{'start' if line.startswith('serve.sh: starting') else 'ready'} {found[1]}"
        for line in site.start.splitlines()
        if (found := re.match(r"serve\.sh: (?:starting vLLM on|READY:) http://127\.0\.0\.1:(\d+)", line))
    ]
    assert told == [f"start {first}", f"ready {first}", f"start {second}", f"ready {second}"], site.start
    assert site.pids().keys() == {first, second}
    if shutil.which("systemd-notify"):
        assert [m for m in site.notified if "READY=1" in m] == ["READY=1\nSTATUS=serves support-bot"], site.notified


def test_streaming_arrives_in_pieces(site: Site) -> None:
    times: list[float] = []
    body = {
        "model": "support-bot",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "max_tokens": 600,
        "ignore_eos": True,
        "stop": ["<never>"],
    }
    headers = {"X-Request-Id": "my-own.id-1"}
    began = time.monotonic()
    with httpx.stream("POST", f"{site.url}/v1/chat/completions", json=body, headers=headers, timeout=120) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == "my-own.id-1"
        text, first = "", 0
        for piece in answer.iter_raw():
            times.append(time.monotonic() - began)
            text += piece.decode()
            first = first or len(piece)
    assert text.rstrip().endswith("data: [DONE]")
    assert "my-own.id-1" in text, "vLLM's own id is the request's"
    assert first < 2000, "a buffering proxy hands over 4 kB and more"
    assert times[0] < times[-1] / 2, "the first words are there long before the last"
    assert len({round(t, 1) for t in times}) > 5, times


def test_what_is_open(site: Site) -> None:
    with httpx.Client(base_url=site.url, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "support-bot"
        assert client.get("/health").status_code == 200
        for path in ("/metrics", "/tokenize", "/invocations", "/docs", "/version", "/v1/load_lora_adapter"):
            assert client.get(path).status_code == 404, path
    assert httpx.get(f"http://127.0.0.1:{site.ports[0]}/metrics", timeout=60).status_code == 200


@dataclass
class Load:
    """Clients that ask one thing after another through the proxy until they are stopped."""

    site: Site
    stopped: threading.Event = field(default_factory=threading.Event)
    outcomes: list[tuple[float, float, str]] = field(default_factory=list)
    """(began, ended, "" or what went wrong)"""
    pause: float = 0.0
    """Seconds between a client's requests: the server that starts again needs some of the processor."""

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self) -> None:
        with httpx.Client(base_url=self.site.url, timeout=120) as client:
            while not self.stopped.is_set():
                began, wrong = time.monotonic(), ""
                try:
                    answer = client.post("/v1/completions", json=completion(self.site))
                    if answer.status_code != 200 or answer.json()["usage"]["completion_tokens"] != 8:
                        wrong = f"{answer.status_code}: {answer.text[:200]}"
                except httpx.HTTPError as error:
                    wrong = repr(error)
                self.outcomes.append((began, time.monotonic(), wrong))
                self.stopped.wait(self.pause)

    def wait_for(self, count: int, timeout: float = 120) -> None:
        deadline, goal = time.monotonic() + timeout, len(self.outcomes) + count
        while len(self.outcomes) < goal and time.monotonic() < deadline:
            self.stopped.wait(0.05)
        assert len(self.outcomes) >= goal, self.outcomes[-5:]


def test_one_is_killed_under_load(site: Site) -> None:
    """Nothing fails but what was in flight; serve.sh starts it again, and nginx takes it back within seconds."""
    victim, other = site.ports
    before = site.pids()
    with Load(site) as load:
        load.wait_for(20)
        os.kill(before[victim], signal.SIGKILL)
        while listens(victim):
            load.stopped.wait(0.01)
        gone = time.monotonic()
        load.wait_for(100)
        load.pause = 1.5
        deadline = time.monotonic() + 400
        while site.pids().keys() != {victim, other} and time.monotonic() < deadline:
            load.stopped.wait(1)
        ready, seen = time.monotonic(), len(site.served())
        while not any(line["server"] == f"127.0.0.1:{victim}" for line in site.served()[seen:]):
            assert time.monotonic() - ready < READMISSION_S, "the restarted instance gets no requests"
            load.stopped.wait(0.1)
        back = time.monotonic()
        load.wait_for(20)
    failed = [outcome for outcome in load.outcomes if outcome[2]]
    print(f"{len(failed)} of {len(load.outcomes)} requests failed; up again {ready - gone:.1f} s after the kill, "
          f"first request {back - ready:.2f} s later")  # fmt: skip
    assert len(failed) <= CLIENTS, failed
    assert all(began <= gone for began, _, _ in failed), (gone, failed)
    answered = {line["server"] for line in site.served() if line["status"] == 200}
    assert {f"127.0.0.1:{port}" for port in site.ports} <= answered
    after = site.pids()
    assert after[other] == before[other]
    assert after[victim] != before[victim]


def session_members(pids: set[int]) -> set[int]:
    """All processes whose session is one of these."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(") ")[2].split()
            if int(fields[3]) in pids and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


def test_clean_stop(site: Site) -> None:
    """Last in this file: nothing that was started is left, not even the engines behind the servers."""
    pids = set(site.pids().values())
    assert len(pids) == 2
    assert len(session_members(pids)) >= 4, "each server has an engine process"
    done = site.serve("stop")
    assert done.returncode == 0, done.stdout
    assert session_members(pids) == set()
    assert not any(map(listens, site.ports))
    assert site.serve("status").returncode == 3
    answer = httpx.post(f"{site.url}/v1/completions", json=completion(site), timeout=60)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "Unavailable"


# ---- flags ----------------------------------------------------------------------------------------------------------


def test_flags_exist_in_the_installed_vllm(site: Site, engines: EnginesEnv) -> None:
    """Every option in any emitted file is one of `vllm serve`."""
    done = subprocess.run(
        [str(engines.vllm), "serve", "--help=all"],
        env={**os.environ, **vllm.CPU_ENV},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    known = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", done.stdout))
    for memory in ({"kv_cache_memory_bytes": 1 << 30}, {"gpu_memory_utilization": 0.4}):
        deployment = deploy.read(site.bundle, Options(instances=2, **memory))
        used = flags(deploy.files(deployment, deploy.TARGETS)) | {f"--{a.name}" for a in deployment.arguments[1:]}
        assert {"--config", "--host", "--port", "--shutdown-timeout", "--chat-template"} <= used
        assert used <= known, used - known


def flags(files: dict[str, str]) -> set[str]:
    """The options of vLLM in command lines."""
    read = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith(".yaml")}
    words: list[str] = list(read["compose.yaml"]["services"]["support-bot-0"]["command"])
    words += read["kubernetes/deployment.yaml"]["spec"]["template"]["spec"]["containers"][0]["args"]
    words += read["kserve.yaml"]["spec"]["predictor"]["containers"][0]["args"]
    words += read["production-stack-values.yaml"]["servingEngineSpec"]["modelSpec"][0]["vllmConfig"]["extraArgs"]
    engine = read["ray-serve.yaml"]["applications"][0]["args"]["llm_configs"][0]["engine_kwargs"]
    words += [f"--{name.replace('_', '-')}" for name in engine]
    for name in ("quadlet/support-bot@.container", "systemd/support-bot@.service"):
        line = re.search(r"^Exec(?:Start)?=(.*)$", files[name], re.MULTILINE)
        assert line
        words += line[1].split()
    return {word for word in words if word.startswith("--")}
