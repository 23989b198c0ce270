"""What every client script shares: what it is given, and how it tells what it saw.

The scripts run in an environment of their own that has the clients and nothing of this project. They hold no
judgement: one JSON object of observations goes to standard output, and the tests decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import BaseModel

Given = dict[str, Any]
Seen = dict[str, Any]


class Place(BaseModel):
    city: str


class Call(BaseModel):
    """What structured output is asked for as a class: the small model writes something that fits."""

    name: str
    arguments: Place


def run(packages: list[str], *parts: Callable[[Given], Seen] | Callable[[Given], Awaitable[Seen]]) -> None:
    """Calls those parts that `parts` of the first argument (JSON, which every part gets) names.

    Prints what they saw, and the versions of the packages.
    """
    given: Given = json.loads(sys.argv[1])
    seen: Seen = {"versions": {name: importlib.metadata.version(name) for name in packages}}
    for part in parts:
        if part.__name__ in given["parts"]:
            found = part(given)
            seen |= found if isinstance(found, dict) else asyncio.run(_awaited(found))
    json.dump(seen, sys.stdout)


async def _awaited(found: Awaitable[Seen]) -> Seen:
    return await found


@contextlib.contextmanager
def raising(seen: Seen, name: str) -> Iterator[None]:
    """Writes down under `name` which error came: its class, status and text; None when there was none."""
    seen[name] = None
    try:
        yield
    except Exception as error:
        kind = type(error)
        status = getattr(error, "status_code", None)
        seen[name] = {"class": f"{kind.__module__}.{kind.__qualname__}", "status": status, "text": str(error)}
