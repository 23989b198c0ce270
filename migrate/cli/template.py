"""`migrate template REF|FILE`: the Jinja chat template that renders what Ollama renders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrate.cli import options
from migrate.cli.inspect import _load
from migrate.cli.output import print_json, say


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF|FILE", help="A model, a Modelfile, a GGUF, or a file with a Go template.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    models_dir: options.ModelsDir = None,
    as_json: options.Json = False,
) -> None:
    """Print the chat template as Jinja for transformers and vLLM."""
    from migrate.errors import OutputExists

    if output is not None and output.exists() and not force:
        raise OutputExists(f"{output} exists", hint="pass --force to replace it")
    jinja, findings = _translate(ref, models_dir)
    if as_json:
        print_json({"schema_version": 1, "jinja": jinja, "findings": findings})
    for f in findings:
        say(f"{f['status']}: {f['item']}: {f['reason']}")
    if output is not None:
        temporary = output.with_name(f".{output.name}.partial")
        temporary.write_text(jinja, encoding="utf-8", newline="\n")
        temporary.replace(output)
    elif not as_json:
        print(jinja, end="" if jinja.endswith("\n") else "\n")


def _translate(ref: str, models_dir: Path | None) -> tuple[str, list[dict[str, str]]]:
    from migrate import chat_template
    from migrate.errors import Refused
    from migrate.mapping.migration import plan

    path = Path(ref)
    if path.is_file() and _is_go_template(path):
        translation = chat_template.translate(path.read_text(encoding="utf-8"))
        return translation.jinja, [f.to_dict() for f in translation.findings]
    migration = plan(_load(ref, models_dir, None))
    if migration.chat_template is None:
        reasons = [f for f in migration.refused if f.item in ("TEMPLATE", "RENDERER")] or migration.refused
        raise Refused(reasons[0].reason if reasons else f"{ref} has no chat template",
                      hint=(reasons[0].action if reasons else None) or None)  # fmt: skip
    return migration.chat_template, [f.to_dict() for f in migration.ledger if f.item == "TEMPLATE"]


def _is_go_template(path: Path) -> bool:
    """A text file with an action in it and no FROM line, so neither a GGUF nor a Modelfile."""
    import re

    if path.stat().st_size > 4 << 20:
        return False
    data = path.read_bytes()
    return b"\0" not in data[:4096] and b"{{" in data and not re.search(rb"(?im)^\s*from[ \t]", data)
