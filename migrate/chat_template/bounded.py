"""Renders a template of somebody else's in a process of its own: one that never ends costs seconds, not the program."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from migrate.errors import Refused

_CHILD = "from migrate.chat_template.bounded import main; main()"
_MEMORY = 2 << 30


def render_all(
    jinja: str,
    requests: Sequence[Mapping[str, Any]],
    *,
    tokens: Mapping[str, str] | None = None,
    today: date | None = None,
    timeout: float = 20.0,
) -> list[str | None]:
    """The prompts for requests to /api/chat; None where the template raises.

    `tokens`: bos_token and eos_token. Raises Refused when the template takes longer than `timeout` seconds or more
    memory than it may.
    """
    task = {"jinja": jinja, "requests": list(requests), "tokens": dict(tokens or {}), "today": str(today or "")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD], input=json.dumps(task), capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"the template did not end within {timeout:.0f} seconds") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise Refused(f"the template cannot be rendered: {last[0][:200]}")
    prompts: list[str | None] = json.loads(done.stdout)
    return prompts


def main() -> None:
    """The child: a task on stdin, the prompts on stdout."""
    from migrate.chat_template import conversation
    from migrate.chat_template.environment import render

    _limit_memory()
    task = json.load(sys.stdin)
    today = date.fromisoformat(task["today"]) if task["today"] else None
    prompts: list[str | None] = []
    for request in task["requests"]:
        try:
            arguments = conversation.arguments(request) | task["tokens"]
            prompts.append(render(task["jinja"], **arguments, today=today))
        except Exception:  # whatever a foreign template does
            prompts.append(None)
    json.dump(prompts, sys.stdout)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
