"""Servers that come and go: what the log says of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from migrate.gateway.upstreams import UpstreamError, Upstreams
from tests.gateway import bench


def test_a_server_that_is_away_is_told_once_and_so_is_its_return(alone: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="migrate.gateway")

    async def run(up: str) -> None:
        upstreams = Upstreams(bench.config(alone, bench.NOWHERE))
        (server,) = upstreams.pools["vllm"].servers
        try:
            for _ in range(2):
                for _ in range(3):
                    with pytest.raises(UpstreamError):
                        await upstreams.get("vllm", "/health")
                server.url, down = up, server.url
                for _ in range(2):
                    await upstreams.get("vllm", "/health")
                server.url = down
        finally:
            await upstreams.close()

    with bench.vllm() as vllm:
        bench.run(run(vllm.url))
    said = [
        (r.levelname, "can be reached again" in r.getMessage()) for r in caplog.records if "upstream" in r.getMessage()
    ]
    assert said == [("WARNING", False), ("INFO", True)] * 2
