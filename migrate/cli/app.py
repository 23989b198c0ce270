"""Wires the verbs together and turns errors into messages and exit codes. Nothing heavy is imported here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

from migrate import __version__
from migrate.cli import convert, demo, deploy, gateway, inspect, parity, plan, resolve, template
from migrate.cli.output import report_error
from migrate.errors import Interrupted, MigrateError, Unexpected

app = typer.Typer(
    name="migrate",
    help="Moves a custom Ollama model to vLLM: the same model, answering the same way, with proof and a way back.",
    epilog="Exit codes: 0 done, 1 parity failed, 2 usage, 3 refused, 4 inconclusive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"migrate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks (anywhere on the line; also MIGRATE_DEBUG=1).")
    ] = False,
) -> None:
    pass


app.command("inspect", short_help="What a model is, and what of it moves.")(inspect.command)
app.command("convert", short_help="Write a bundle that vLLM serves.")(convert.command)
app.command("resolve", short_help="Which checkpoint it was made from, proved by its weights.")(resolve.command)
app.command("template", short_help="The chat template as Jinja.")(template.command)
app.command("plan", short_help="Will it fit, how many, which GPU, what does it cost.")(plan.command)
app.command("deploy", short_help="Files that start a bundle: Compose, systemd, Kubernetes.")(deploy.command)
app.add_typer(parity.app, name="parity", short_help="Does it answer the same? Compares two servers.")
app.add_typer(gateway.app, name="gateway", short_help="Ollama's API in front of vLLM; cut over in steps.")
app.command("demo", short_help="All of it on a small real model.")(demo.command)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the `migrate` command; ends the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("MIGRATE_DEBUG", "") not in ("", "0")
    arguments = [a for a in arguments if a != "--debug"]
    with _interruptible():
        _main(arguments, debug)


def _main(arguments: list[str], debug: bool) -> None:
    try:
        _run(arguments)
    except MigrateError as error:
        if debug:
            raise
        sys.exit(report_error(error, as_json="--json" in arguments))
    except Exception as error:
        if debug:
            raise
        sys.exit(report_error(Unexpected.of(error), as_json="--json" in arguments))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and TERM end a verb like any other error: what it was writing is removed, and it says so."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted("interrupted; nothing half-written was left")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(arguments: list[str]) -> None:
    """The verb; a reader of our output that goes away (`| head`) is no error."""
    try:
        app(arguments, prog_name="migrate")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
