"""Starting the gateway as a user does, in front of servers that run."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

START_S = 60.0


@dataclass(frozen=True)
class Running:
    """`url` of the gateway, the file it was started with, its log, and its process."""

    url: str
    config: Path
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def memory(self) -> int:
        """Resident bytes of the process."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the process is gone")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def gateway(
    directory: Path, upstreams: Mapping[str, Any], models: list[Mapping[str, Any]], *, workers: int = 1, **more: Any
) -> Iterator[Running]:
    """`migrate gateway serve` with a configuration in `directory`; it has answered once, and is stopped on leaving.

    `upstreams`: name -> URL, or what the file takes. `more` are further keys of the file.
    """
    port = free_port()
    named = {name: {"url": value} if isinstance(value, str) else dict(value) for name, value in upstreams.items()}
    more = {key.replace("returning", "return"): value for key, value in more.items()}
    content = {"listen": f"127.0.0.1:{port}", "upstreams": named, "models": [_plain(m) for m in models], **more}
    config, log = directory / "gateway.yaml", directory / "gateway.log"
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [sys.executable, "-m", "migrate", "gateway", "serve", str(config), "--workers", str(workers)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(process, f"http://127.0.0.1:{port}", log)
        yield Running(f"http://127.0.0.1:{port}", config, log, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _plain(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in model.items()}


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the gateway ended with {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, timeout=2).text == "Ollama is running":
                return
        time.sleep(0.1)
    raise AssertionError(f"the gateway did not answer in {START_S:.0f} s: {log.read_text()[-2000:]}")
