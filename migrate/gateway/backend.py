"""What every route can reach: the models, their servers, and how they are asked."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field

from migrate.gateway.catalog import Catalog
from migrate.gateway.config import Config
from migrate.gateway.serving import Serving
from migrate.gateway.types import ApiError
from migrate.gateway.upstreams import Upstreams


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


ALIVE_S = 2.0
"""How long an answer to "are you there" is believed."""


@dataclass(slots=True)
class Backend:
    """`wrong`: models whose server serves something else, by key of their name, and why (`verify`)."""

    config: Config
    catalog: Catalog
    upstreams: Upstreams
    serving: Serving
    wrong: dict[str, str] = field(default_factory=dict)
    _alive: frozenset[str] = frozenset()
    _asked: float = field(default=-1e9)

    @property
    def version(self) -> str:
        """Of the Ollama whose behaviour the bundles were written for."""
        if self.config.ollama_version:
            return self.config.ollama_version
        found = max((model.source.ollama_version for model in self.catalog.models), key=_numbers, default="0.33")
        return found if found.count(".") >= 2 else f"{found}.0"

    async def alive(self) -> frozenset[str]:
        """vLLM upstreams that answer /health with 200."""
        if time.monotonic() - self._asked > ALIVE_S:
            names = [name for name, pool in self.upstreams.pools.items() if pool.kind == "vllm"]
            healthy = await asyncio.gather(*(self._healthy(name) for name in names))
            self._alive = frozenset(name for name, good in zip(names, healthy, strict=True) if good)
            self._asked = time.monotonic()
        return self._alive

    async def _healthy(self, pool: str) -> bool:
        try:
            status, _ = await self.upstreams.get(pool, "/health", timeout=2.0)
        except ApiError:
            return False
        return status == 200
