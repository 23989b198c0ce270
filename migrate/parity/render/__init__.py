"""The report for people and for CI: report.html, report.md and junit.xml beside report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from migrate.errors import UsageError
from migrate.parity.render.html import render_html
from migrate.parity.render.junit import render_junit
from migrate.parity.render.markdown import render_markdown
from migrate.parity.report import ParityReport

__all__ = ["ENDINGS", "FILES", "render_html", "render_junit", "render_markdown", "write_all", "write_one"]

FILES = {"json": "report.json", "html": "report.html", "md": "report.md", "junit": "junit.xml"}
"""Name of the file of each format."""

ENDINGS = {Path(name).suffix: format_ for format_, name in FILES.items()}
"""Format of a file, by the end of its name: .json, .html, .md, .xml."""


def render_json(report: ParityReport) -> str:
    """report.json. Half a surrogate pair (an answer cut in the middle of a character) cannot be written in UTF-8 and
    becomes U+FFFD."""
    from pydantic_core import PydanticSerializationError

    try:
        return report.model_dump_json(indent=2) + "\n"
    except PydanticSerializationError:
        whole = ParityReport.model_validate(_whole(report.model_dump()))
        return whole.model_dump_json(indent=2) + "\n"


RENDERERS: dict[str, Callable[[ParityReport], str]] = {
    "json": render_json,
    "html": render_html,
    "md": render_markdown,
    "junit": render_junit,
}


def write_all(
    report: ParityReport, directory: Path, *, formats: Sequence[str] = ("json", "html", "md", "junit")
) -> list[Path]:
    """Writes the files of `formats` into `directory`, which is made when it is missing; returns their paths.

    The data comes first, and no file is ever there by half. Raises UsageError for a format that there is not.
    """
    unknown = [name for name in formats if name not in FILES]
    if unknown:
        raise UsageError(f"there is no report format {unknown[0]!r}", hint=f"formats: {', '.join(FILES)}")
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in FILES if name in formats]
    return [_write(directory / FILES[name], RENDERERS[name](report)) for name in wanted]


def write_one(report: ParityReport, path: Path) -> Path:
    """Writes the format that `path` ends with; its directory is made when it is missing. Raises UsageError."""
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: no report format has this ending", hint=f"*{', *'.join(ENDINGS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, RENDERERS[ENDINGS[path.suffix]](report))


def _write(path: Path, text: str) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _whole(value: Any) -> Any:
    """The same value with whole characters in all of its texts."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_whole(item) for item in value)
    return value
