"""Writes the `--help` texts of all verbs into docs/cli.md; with --check, fails when the file is out of date."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VERBS = ("", "inspect", "convert", "template", "parity", "demo")
TARGET = Path(__file__).parent / "cli.md"
HEADER = "# Command line\n\nWritten by `make docs` from `--help`; `make lint` fails when it is out of date.\n"


def generate() -> str:
    """The whole file. Help is asked of the real command, 100 columns wide and without colour."""
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    text = HEADER
    for verb in VERBS:
        command = [sys.executable, "-m", "migrate", *([verb] if verb else []), "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        body = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        text += f"\n## migrate {verb}".rstrip() + f"\n\n```text\n{body}\n```\n"
    return text


def main() -> None:
    text = generate()
    if "--check" not in sys.argv:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET} is out of date: run `make docs` and commit it")


if __name__ == "__main__":
    main()
