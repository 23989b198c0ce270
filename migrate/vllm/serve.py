"""serve.yaml: the arguments of `vllm serve --config`, each with a comment that names where it comes from.

Keys are vLLM's long option names; the command line wins over the file (vllm/utils/argparse_utils.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """One option. `value` is a str, int, float, bool, or list of str; `origin` becomes the comment."""

    name: str
    value: str | int | float | bool | list[str]
    origin: str


def to_yaml(arguments: Iterable[Argument], header: str) -> str:
    """YAML text, one argument a line. Lists are written in flow style."""
    rows = [(f"{a.name}: {_scalar(a.value)}", a.origin) for a in arguments]
    width = min(max((len(left) for left, _ in rows), default=0), 56)
    lines = [f"# {_comment(line)}".rstrip() for line in header.splitlines()]
    lines += [f"{left:<{width}}  # {_comment(origin)}" for left, origin in rows]
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    import yaml

    return str(yaml.safe_dump([value], default_flow_style=True, width=sys.maxsize, allow_unicode=True)).strip()[1:-1]


def _comment(text: str) -> str:
    """Text for a comment: one line, printable."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
