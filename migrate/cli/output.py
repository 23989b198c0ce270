"""Data on stdout, words on stderr. Colours and progress bars only where a person looks on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.errors import MigrateError, OutputExists, UsageError

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """A rich console. Piped output is 120 columns wide and has no colour."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 120, soft_wrap=False)


def say(text: str) -> None:
    """Words for a person, on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """The next command."""
    say(f"\nnext: {text}")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def report_error(error: MigrateError, *, as_json: bool) -> int:
    """Prints an error for people on stderr, and with --json for programs on stdout; returns the exit code."""
    say(f"error: {error}")
    if error.hint:
        say(f"  -> {error.hint}")
    if as_json:
        kind = type(error).__name__
        print_json({"error": {"type": kind, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}})
    return error.exit_code


def check_file(path: Path | None, *, force: bool) -> None:
    """Before any work: may this file be written? Raises OutputExists and UsageError."""
    if path is None:
        return
    if path.exists() and (not force or path.is_dir()):
        raise OutputExists(f"{path} exists", hint="pass --force to replace a file")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"{path}: its directory does not exist or cannot be written")


def printable(text: str) -> str:
    """Text of a model for a terminal: control characters are shown, not obeyed."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def size(count: float | None) -> str:
    """Bytes for people: 4.1 GB (powers of ten, as disks and GPUs are sold)."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with rate and time left on stderr; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(label), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def spinner(label: str) -> Iterator[None]:
    """A sign of life with the time so far on stderr; silent when stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn(label, markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        progress.add_task(label, total=None)
        yield


STATUS_STYLE = {
    "exact": "green",
    "equivalent": "green",
    "approximate": "yellow",
    "dropped": "dim",
    "refused": "bold red",
}


def ledger_table(findings: list[dict[str, Any]]) -> Any:
    """The findings as a rich table, the ones to read first; what moves as it is takes one line."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(max_width=28, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    order = ("refused", "approximate", "dropped", "equivalent", "exact")
    for f in sorted(findings, key=lambda f: order.index(f["status"])):
        sides = [printable(_clip(" ".join(side.split()))) for side in (f["source"], f["target"]) if side]
        text = Text(" -> ".join(sides))
        if f["reason"] and f["status"] != "exact":
            text.append(f"{chr(10) if sides else ''}{printable(f['reason'])}", style="dim" if sides else "")
        if f["action"]:
            text.append(f"\nto do: {printable(f['action'])}", style="bold")
        table.add_row(Text(f["status"], style=STATUS_STYLE[f["status"]]), Text(printable(f["item"])), text)
    return table


def _clip(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
