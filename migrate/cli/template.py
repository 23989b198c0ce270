"""`migrate template REF|FILE`: the Jinja chat template that renders what Ollama renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from migrate.cli import options
from migrate.cli.inspect import _load
from migrate.cli.output import print_json, say

if TYPE_CHECKING:
    from migrate.chat_template import Proof


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF|FILE", help="A model, a Modelfile, a GGUF, or a file with a Go template.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Render a battery of conversations both ways; exit 1 at a difference.")
    ] = False,
    models_dir: options.ModelsDir = None,
    as_json: options.Json = False,
) -> None:
    """Print the chat template as Jinja for transformers and vLLM."""
    from migrate.cli.output import check_file

    check_file(output, force=force)
    source = _translate(ref, models_dir)
    jinja, findings = source.jinja, source.findings
    proof = source.prove() if prove else None
    if as_json:
        checks = (
            [{"name": c.name, "verdict": c.verdict, "detail": c.describe()} for c in proof.checks] if proof else None
        )
        print_json({"schema_version": 1, "jinja": jinja, "findings": findings, "proof": checks})
    for f in findings:
        say(f"{f['status']}: {f['item']}: {f['reason']}")
    if output is not None:
        temporary = output.with_name(f".{output.name}.partial")
        temporary.write_text(jinja, encoding="utf-8", newline="\n")
        temporary.replace(output)
    elif not as_json:
        print(jinja, end="" if jinja.endswith("\n") else "\n")
    if proof is not None:
        for check in (*proof.of("wrong"), *proof.of("refused")):
            say(check.describe())
        same, total = len(proof.of("exact")), len(proof.checks)
        say(f"proof: {same} of {total} conversations are the same as Ollama's, byte for byte")
        raise typer.Exit(0 if proof.holds else 1)


@dataclass(frozen=True, slots=True)
class _Source:
    """A translated template and what it was made of; `go` is None when the Jinja is the GGUF's own."""

    jinja: str
    findings: list[dict[str, Any]]
    go: str | None
    system: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()

    def prove(self) -> Proof:
        from migrate.chat_template import prove
        from migrate.errors import UsageError

        if self.go is None:
            raise UsageError("nothing to prove: the GGUF's own Jinja is used as it is, there is no Go template")
        return prove(self.go, self.jinja, system=self.system, messages=self.messages)


def _translate(ref: str, models_dir: Path | None) -> _Source:
    from migrate import chat_template
    from migrate.errors import Refused
    from migrate.mapping.migration import plan

    path = Path(ref)
    if path.is_file() and _is_go_template(path):
        go = path.read_bytes().decode("utf-8", errors="replace")
        translation = chat_template.translate(go)
        return _Source(translation.jinja, [f.to_dict() for f in translation.findings], go)
    model = _load(ref, models_dir, None)
    migration = plan(model)
    if migration.chat_template is None:
        reasons = [f for f in migration.refused if f.item in ("TEMPLATE", "RENDERER")] or migration.refused
        if not reasons:
            raise Refused(f"{ref} has no chat template")
        raise Refused(reasons[0].reason, hint=reasons[0].action or None)
    findings = [f.to_dict() for f in migration.ledger if f.item == "TEMPLATE"]
    go_template = None if migration.prompt.path == "gguf_jinja" else model.template
    return _Source(migration.chat_template, findings, go_template, model.system, model.messages)


def _is_go_template(path: Path) -> bool:
    """A text file with an action in it and no FROM line, so neither a GGUF nor a Modelfile."""
    import re

    if path.stat().st_size > 4 << 20:
        return False
    data = path.read_bytes()
    return b"\0" not in data[:4096] and b"{{" in data and not re.search(rb"(?im)^\s*from[ \t]", data)
