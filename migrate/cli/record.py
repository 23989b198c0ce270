"""`migrate parity record --source URL -o FILE`: keep what clients ask, to compare with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from migrate.cli import options
from migrate.cli.output import check_file, hint, print_json, say
from migrate.errors import UsageError

_TOLD_EVERY = 100
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the requests go, one JSON object a line.")
    ],
    source: Annotated[
        str, typer.Option("--source", metavar="URL", help="The Ollama that answers.")
    ] = "http://127.0.0.1:11434",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients ask instead.")
    ] = "127.0.0.1:11435",
    redact: Annotated[
        bool, typer.Option("--redact", help="Replace personal data and secrets before anything is written.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="End after N requests.")] = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End after that time: 90s, 15m, 2h, 1d.")
    ] = None,
    with_answers: Annotated[bool, typer.Option("--with-answers", help="Keep Ollama's answers, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: options.Json = False,
) -> None:
    """Stand between clients and Ollama for a while and keep their requests, for `migrate parity --requests`.

    Clients use the address of --listen instead of Ollama's; everything is passed on unchanged. Headers are not kept.
    Ends at --limit, after --for, or with Ctrl-C.
    """
    from migrate.parity.traffic.record import record

    seconds = parse_duration(duration) if duration is not None else None
    check_file(output, force=force)

    def started(address: str) -> None:
        say(f"recording: clients that ask {address} are answered by {source}; end with Ctrl-C")
        host = address.removeprefix("http://").rpartition(":")[0].strip("[]")
        if host != "::1" and not host.startswith("127."):
            say("warning: whoever reaches this address can use the Ollama behind it, and is recorded")

    def line(count: int) -> None:
        if count == 1 or count % _TOLD_EVERY == 0:
            say(f"{count} request{'s' if count > 1 else ''} recorded")

    done = record(
        source,
        output,
        listen=listen,
        redact=redact,
        limit=limit,
        seconds=seconds,
        with_answers=with_answers,
        force=force,
        on_start=started,
        on_line=line,
    )
    if as_json:
        print_json(
            {
                "schema_version": 1,
                "path": str(done.path) if done.recorded else None,
                "recorded": done.recorded,
                "forwarded": done.forwarded,
                "seconds": done.seconds,
                "left_out": done.left_out,
                "redacted": done.redacted if redact else None,
            }
        )
    for reason, count in done.left_out.items():
        say(f"{count} not recorded: {reason}")
    if redact:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(done.redacted.items())) or "nothing"
        say(f"replaced: {told}; names and addresses are not found, look at the file before you pass it on")
    if not done.recorded:
        say(f"nothing was recorded: of {done.forwarded} requests none ran a model, so there is no file")
        return
    say(f"{output}: {done.recorded} requests in {done.seconds:.0f} s; only you may read the file")
    hint(f"migrate parity BUNDLE --source {source} --target URL --requests {output}")


def parse_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `15m`, `1h30m` or `1d`. Raises UsageError."""
    parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd]?)", text.strip().lower())
    if "".join(number + unit for number, unit in parts) != text.strip().lower() or not parts:
        raise UsageError(f"{text!r} is no time", hint="write it as 90s, 15m, 2h, 1h30m or 1d")
    if len(parts) > 1 and any(not unit for _, unit in parts):
        raise UsageError(f"{text!r} is no time", hint="write it as 90s, 15m, 2h, 1h30m or 1d")
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not seconds:
        raise UsageError(f"{text!r} is no time to record in", hint="leave --for away to record until Ctrl-C")
    return seconds
