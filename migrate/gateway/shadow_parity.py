"""`migrate gateway report --parity`: parity's layers over the requests that the journal kept."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import UsageError
from migrate.gateway.shadow_journal import Row
from migrate.parity.report import ParityReport

REQUESTS = "requests.jsonl"


@dataclass(frozen=True, slots=True)
class Sides:
    """Addresses of the two servers; `served` is the model's name in vLLM, None for the bundle's first."""

    bundle: Path
    source: str
    target: str
    served: str | None = None
    target_key: str | None = None


def prove(
    rows: Iterable[Row],
    sides: Sides,
    directory: Path,
    *,
    budget: int,
    timeout: float = 120.0,
    seed: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[ParityReport, list[Path]]:
    """Compares the two servers on at most `budget` of the kept requests; the report, and where it lies in `directory`.

    Raises UsageError when no request was kept, and what `parity.run` raises.
    """
    from migrate.engines import connect
    from migrate.engines.vllm import VllmEngine
    from migrate.parity.clients import ClientRequest
    from migrate.parity.facts import read_bundle
    from migrate.parity.render import write_all
    from migrate.parity.run import Asked, Watch, run
    from migrate.parity.traffic.read import read_requests

    bundle = read_bundle(sides.bundle, sides.served)
    name = bundle.facts.source.name
    path = _requests(rows, name, directory)
    batch = read_requests(path, facts=bundle.facts, embedding=bundle.is_embedding, sample_size=budget, seed=seed)
    say(f"{batch.traffic.used} of {batch.traffic.read} kept requests are compared")
    seen = tuple(ClientRequest(r.endpoint, dict(r.body)) for r in batch.seen for _ in range(r.count))
    asked = Asked(batch.conversations, (), batch.texts, seen, batch.traffic)
    served = sides.served or next(iter(bundle.facts.target.served_model_name), None)
    watch = Watch(end=lambda layer: say(f"{layer.name.value}: {layer.status} ({layer.seconds:.1f} s)"))
    with ExitStack() as stack:
        source = stack.enter_context(closing(connect.any_server(sides.source, model=name, timeout=timeout)))
        target = stack.enter_context(
            closing(VllmEngine(sides.target, model=served, timeout=timeout, api_key=sides.target_key))
        )
        report = run(sides.bundle, source, target, asked=asked, watch=watch, variant=sides.served)
    return report, write_all(report, directory)


def _requests(rows: Iterable[Row], name: str, directory: Path) -> Path:
    """The kept requests under the bundle's name of the model: clients may have called it by another."""
    lines = [
        json.dumps(
            {
                "time": row.time.isoformat(),
                "path": row.path,
                "status": row.pair.source.status,
                "body": {**row.body, "model": name},
            },
            ensure_ascii=False,
        )
        for row in rows
        if row.body is not None
    ]
    if not lines:
        raise UsageError(
            "the journal holds no request in full",
            hint="set `shadow: {keep_text: true}` in the configuration and shadow for a while",
        )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / REQUESTS
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def new_directory(bundle: Path) -> Path:
    """Where a report of now goes, as `migrate parity` has it: BUNDLE/proof/TIME."""
    return bundle / "proof" / datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H-%M-%SZ-shadow")
