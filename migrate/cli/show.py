"""`migrate parity show report.json`: a report again, on the terminal or in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from migrate.cli.output import check_file, console, say
from migrate.errors import BadInput, NotFound, UsageError

if TYPE_CHECKING:
    from migrate.parity.report import ParityReport

MAX_BYTES = 256 << 20


def command(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="A report.json, or the directory it is in.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it there: *.html, *.md, *.xml (JUnit) or *.json."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Show a report of `migrate parity` again, or write it in another format. Ends with the verdict's exit code."""
    from migrate.parity.render import ENDINGS, write_one
    from migrate.parity.render.terminal import render_terminal

    found = read(report / "report.json" if report.is_dir() else report)
    if output is None:
        console().print(render_terminal(found))
        raise typer.Exit(found.exit_code)
    if output.suffix not in ENDINGS:
        raise UsageError(f"{output}: no format has this ending", hint="*.html, *.md, *.xml or *.json")
    check_file(output, force=force)
    write_one(found, output)
    say(f"report: {output}")
    raise typer.Exit(found.exit_code)


def read(path: Path) -> ParityReport:
    """Raises NotFound and BadInput."""
    from pydantic import ValidationError

    from migrate.parity.report import ParityReport

    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="migrate parity writes report.json into BUNDLE/proof/...")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    try:
        return ParityReport.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(
            f"{path}: not a report of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            hint="run migrate parity again",
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None
