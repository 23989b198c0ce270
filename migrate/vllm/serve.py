"""serve.yaml: the arguments of `vllm serve --config`, each with a comment that names where it comes from.

Keys are vLLM's long option names; the command line wins over the file (vllm/utils/argparse_utils.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Argument:
    """One option. `value` is a str, int, float, bool, or list of str; `origin` becomes the comment."""

    name: str
    value: str | int | float | bool | list[str]
    origin: str


def to_yaml(arguments: Iterable[Argument], header: str) -> str:
    """YAML text, one argument a line. Scalars and lists are written as JSON, which YAML contains."""
    rows = [(f"{a.name}: {_scalar(a.value)}", a.origin) for a in arguments]
    width = min(max((len(left) for left, _ in rows), default=0), 56)
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    lines += [f"{left:<{width}}  # {' '.join(origin.split())}" for left, origin in rows]
    return "\n".join(lines) + "\n"


def _scalar(value: object) -> str:
    if isinstance(value, str) and value.replace("-", "").replace("_", "").isalpha() and value not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)


_YAML_WORDS = frozenset("true false yes no on off null True False Yes No On Off Null y n Y N TRUE FALSE NULL".split())
