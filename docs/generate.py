"""Writes docs/cli.md (the `--help` of all verbs), architectures.md and clients.md; with --check, fails when one is
stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from migrate import architectures
from migrate.parity import clients

VERBS = (
    "",
    "inspect",
    "convert",
    "resolve",
    "template",
    "parity",
    "parity record",
    "parity throughput",
    "parity show",
    "plan",
    "deploy",
    "gateway",
    "gateway serve",
    "gateway status",
    "gateway shadow",
    "gateway report",
    "gateway canary",
    "gateway promote",
    "gateway rollback",
    "demo",
)
HERE = Path(__file__).parent
CLI = "# Command line\n\nWritten by `make docs` from `--help`; `make lint` fails when it is out of date.\n"
ARCHITECTURES = """\
# Architectures

Written by `make docs` from `migrate/architectures`; `make lint` fails when it is out of date. Each is one file there,
with the whole story of its tensors and its configuration; [adding-an-architecture.md](adding-an-architecture.md) shows
how to add one, and every one of them is held to a tiny model that llama.cpp's own converter made
(`fixtures/architectures`).

| `model_type` | `general.architecture` | class | float16 | fused in vLLM (one quantization scheme) | LoRA |
|---|---|---|---|---|---|
"""


def command_line() -> str:
    """The help of every verb, asked of the real command, 100 columns wide and without colour."""
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    text = CLI
    for verb in VERBS:
        command = [sys.executable, "-m", "migrate", *verb.split(), "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        body = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())
        text += f"\n## migrate {verb}".rstrip() + f"\n\n```text\n{body}\n```\n"
    return text


def table_of_architectures() -> str:
    text = ARCHITECTURES
    for name in architectures.model_types():
        found = architectures.for_model_type(name)
        fused = "; ".join(f"{whole}: {', '.join(parts)}" for whole, parts in found.fused.items()) or "-"
        kind = f"{found.class_name} (embeddings)" if found.pooling else found.class_name
        cells = (
            f"`{found.model_type}`",
            ", ".join(f"`{gguf}`" for gguf in found.gguf_names),
            kind,
            "yes" if found.float16 else "refused",
            fused,
            ", ".join(found.lora_targets) or "-",
        )
        text += f"| {' | '.join(cells)} |\n"
    return text


PAGES = {"cli.md": command_line, "architectures.md": table_of_architectures, "clients.md": clients.page}


def main() -> None:
    stale = []
    for name, write in PAGES.items():
        text = write()
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
    if stale:
        sys.exit(f"{', '.join(stale)}: out of date; run `make docs` and commit")


if __name__ == "__main__":
    main()
