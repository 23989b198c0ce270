"""A verb as a person runs it, inside this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    from migrate.cli.app import main

    def call(*arguments: object) -> Result:
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call
