"""Recordings of a real Ollama, asked by `OllamaEngine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migrate.engines.base import Conversation
from migrate.engines.ollama import NEUTRAL_OPTIONS
from tests.ollama.replay import recordings, replay


@contextmanager
def recorded_ollama(shared: Path) -> Iterator[str]:
    """Address of the replayed server. The recorded greedy questions did not name the penalties that no Modelfile of
    the store sets; the engine names them all."""
    rows = recordings(shared / "ollama" / "recordings.jsonl")
    for row in rows:
        options = (row["request"]["body"] or {}).get("options") if isinstance(row["request"]["body"], dict) else None
        if options and options.keys() == {"temperature", "seed", "num_predict", "repeat_penalty"}:
            options |= {key: value for key, value in NEUTRAL_OPTIONS.items() if key not in options}
    with replay(rows) as url:
        yield url


def recorded_conversations(shared: Path, prefix: str) -> tuple[Conversation, ...]:
    """What was asked under names that begin with `prefix`, without the questions about thinking."""
    return tuple(
        Conversation(row["name"].removeprefix(prefix), tuple(body["messages"]), tuple(body.get("tools") or ()))
        for row in recordings(shared / "ollama" / "recordings.jsonl")
        if row["name"].startswith(prefix) and "think" not in (body := row["request"]["body"])
    )


def recorded_answers(shared: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """name -> body of the answer."""
    import json

    return {
        row["name"].removeprefix(prefix): json.loads(row["response"]["body"])
        for row in recordings(shared / "ollama" / "recordings.jsonl")
        if row["name"].startswith(prefix)
    }
