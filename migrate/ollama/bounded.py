"""Reading small files and JSON that somebody else wrote: never more than a stated size, never without end."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn

from migrate.errors import StoreError


def read_bytes(path: Path, limit: int, what: str) -> bytes:
    """The whole of a regular file of at most `limit` bytes. Raises StoreError, also for pipes and devices."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{what}: {path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise StoreError(f"{what}: {path} cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise StoreError(f"{what}: {path} has more than {limit:,} bytes; nothing that Ollama writes there is so large")
    return data


def loads(data: bytes | str, what: str) -> Any:
    """JSON to objects. Raises StoreError for text that is not JSON, and for JSON too deep or with numbers too long."""
    try:
        return json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise StoreError(f"{what}: JSON nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, integers of thousands of digits
        raise StoreError(f"{what}: not valid JSON: {str(error)[:200]}") from None


def loads_object(data: bytes | str, what: str) -> dict[str, Any]:
    """Like `loads`, for what must be a JSON object."""
    value = loads(data, what)
    if not isinstance(value, dict):
        raise StoreError(f"{what}: a JSON object was expected, not {type(value).__name__}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
