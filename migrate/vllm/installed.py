"""What the vLLM installed beside us can do, read from its source: importing it takes seconds and torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Literal

Kind = Literal["tool", "reasoning"]

_REGISTRIES: dict[Kind, tuple[str, str]] = {
    "tool": ("tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER"),
    "reasoning": ("reasoning/__init__.py", "_REASONING_PARSERS_TO_REGISTER"),
}


def package() -> Path | None:
    """The directory of the installed vLLM; None where there is none."""
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


def parser_names(kind: Kind, root: Path | None = None) -> frozenset[str] | None:
    """The names that `--tool-call-parser` or `--reasoning-parser` takes; None where they cannot be told.

    `root` is vLLM's package directory, by default the installed one's.
    """
    root = root or package()
    file, variable = _REGISTRIES[kind]
    if root is None or not (root / file).is_file():
        return None
    for node in ast.parse((root / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if variable in names:
                keys = [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
                return frozenset(key for key in keys if isinstance(key, str))
    return None
