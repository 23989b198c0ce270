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
    from migrate.engines.ollama import OllamaEngine


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF|FILE", help="A model, a Modelfile, a GGUF, or a file with a Go template.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Render a battery of conversations both ways; exit 1 at a difference.")
    ] = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="URL", help="Prove it with the prompts of a live Ollama that has REF."),
    ] = None,
    chat_template: Annotated[
        str, typer.Option("--chat-template", metavar="ollama|own", help="What Ollama renders, or the GGUF's own Jinja.")
    ] = "ollama",
    models_dir: options.ModelsDir = None,
    as_json: options.Json = False,
) -> None:
    """Print the chat template as Jinja for transformers and vLLM."""
    from migrate.cli.output import check_file
    from migrate.errors import UsageError

    check_file(output, force=force)
    if chat_template not in ("ollama", "own"):
        raise UsageError(f"--chat-template {chat_template}: must be ollama or own")
    source = _translate(ref, models_dir, host=against, own=chat_template == "own")
    jinja, findings = source.jinja, source.findings
    proof = _against(ref, against, jinja) if against else source.prove() if prove else None
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
        if not proof.checks:
            raise typer.Exit(4)
        raise typer.Exit(0 if proof.holds else 1)


@dataclass(frozen=True, slots=True)
class _Source:
    """A translated template and what it was made of; `go` is None when the Jinja is the GGUF's own."""

    jinja: str
    findings: list[dict[str, Any]]
    go: str | None
    system: str | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    think: bool | None = None
    filter_think_tags: bool = False

    def prove(self) -> Proof:
        from migrate.chat_template import prove
        from migrate.errors import UsageError

        if self.go is None:
            raise UsageError(
                "nothing to prove here: there is no Go template",
                hint="--against URL compares with the prompts of a live Ollama",
            )
        return prove(
            self.go,
            self.jinja,
            system=self.system,
            messages=self.messages,
            think=self.think,
            filter_think_tags=self.filter_think_tags,
        )


def compare_live(
    engine: OllamaEngine, jinja: str, conversations: Mapping[str, Mapping[str, Any]]
) -> tuple[Proof, list[str]]:
    """Every conversation as a live Ollama renders it, and the names of those that it refuses (tools, thinking)."""
    from migrate.chat_template import Check, Proof
    from migrate.chat_template.prove import render_or_reason
    from migrate.engines.base import Conversation
    from migrate.errors import ServerError

    checks, left_out = [], []
    for name, request in conversations.items():
        tools = tuple(request.get("tools") or ())
        conversation = Conversation(name, tuple(request["messages"]), tools, think=request.get("think"))
        try:
            expected = engine.render(conversation)
        except ServerError as error:
            if error.status != 400:
                raise
            left_out.append(name)
            continue
        got, reason = render_or_reason(jinja, request)
        checks.append(Check(name, expected, got, reason))
    return Proof(tuple(checks)), left_out


def _against(ref: str, url: str, jinja: str) -> Proof:
    from migrate.chat_template import BATTERY
    from migrate.cli.output import spinner
    from migrate.engines.ollama import OllamaEngine

    with spinner(f"{len(BATTERY)} conversations in Ollama"):
        proof, left_out = compare_live(OllamaEngine(url, model=ref), jinja, BATTERY)
    if left_out:
        say(f"not compared, because Ollama refuses them for this model: {', '.join(left_out)}")
    return proof


def _translate(ref: str, models_dir: Path | None, *, host: str | None = None, own: bool = False) -> _Source:
    from migrate import chat_template
    from migrate.errors import Refused
    from migrate.mapping.migration import Choices, plan
    from migrate.mapping.prompt import template_settings
    from migrate.ollama.capabilities import DEFAULT_TEMPLATE

    path = Path(ref)
    if host is None and path.is_file() and _is_go_template(path):
        go = path.read_bytes().decode("utf-8", errors="replace")
        translation = chat_template.translate(go)
        return _Source(translation.jinja, [f.to_dict() for f in translation.findings], go)
    model = _load(ref, models_dir, host)
    migration = plan(model, Choices(own_chat_template=own))
    if migration.chat_template is None:
        reasons = [f for f in migration.refused if f.item in ("TEMPLATE", "RENDERER")] or migration.refused
        if not reasons:
            raise Refused(f"{ref} has no chat template")
        raise Refused(reasons[0].reason, hint=reasons[0].action or None)
    findings = [f.to_dict() for f in migration.ledger if f.item in ("TEMPLATE", "RENDERER")]
    rendered = migration.prompt.path in ("go_template", "parser") and not own
    go_template = (model.template or DEFAULT_TEMPLATE) if rendered else None
    settings = template_settings(model, migration.prompt)
    return _Source(migration.chat_template, findings, go_template, model.system, model.messages, **settings)


def _is_go_template(path: Path) -> bool:
    """A text file with an action in it and no FROM line, so neither a GGUF nor a Modelfile."""
    import re

    if path.stat().st_size > 4 << 20:
        return False
    data = path.read_bytes()
    return b"\0" not in data[:4096] and b"{{" in data and not re.search(rb"(?im)^\s*from[ \t]", data)
