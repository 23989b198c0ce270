"""Which models can share one vLLM, and what tells those from each other that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrate.findings import Ledger
from migrate.mapping.migration import PROCESSORS, Migration
from migrate.vllm import tool_parsers

BY_NAME = (
    "model",
    "served-model-name",
    "enable-lora",
    "lora-modules",
    "max-lora-rank",
    "host",
    "port",
    "max-model-len",
    "middleware",
    PROCESSORS,
    "enable-auto-tool-choice",
    "tool-call-parser",
    "tool-parser-plugin",
)
"""Arguments that are made anew for a set, or compared on their own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Models that one vLLM serves. `apart`: why they are not in an earlier group on the same weights, "" if they are
    on others."""

    migrations: tuple[Migration, ...]
    apart: str = ""

    @property
    def name(self) -> str:
        return self.migrations[0].served_names[0] if self.migrations[0].served_names else self.migrations[0].model.name


def group(migrations: Sequence[Migration], weights: Sequence[str]) -> list[Group]:
    """Models by the vLLM that can serve them; `weights` has the identity of each one's weights.

    The order stays: of the groups by their first model, of the models within; those without an adapter go first, since
    they are what a request without a name gets.
    """
    found: list[tuple[str, list[Migration], str]] = []
    for migration, identity in zip(migrations, weights, strict=True):
        reason = ""
        for known, members, _ in found:
            if known != identity:
                continue
            why = next((text for member in members if (text := apart(member, migration))), "")
            if not why:
                members.append(migration)
                break
            reason = reason or f"cannot share a server with {members[0].model.name}: {why}"
        else:
            found.append((identity, [migration], reason))
    return [Group(tuple(sorted(members, key=has_adapter)), reason) for _, members, reason in found]


def has_adapter(migration: Migration) -> bool:
    """It is served as a LoRA on the weights."""
    return migration.adapter is not None and not migration.adapter.merged


def apart(first: Migration, second: Migration) -> str:
    """Why two models on the same weights need servers of their own; "" if they do not."""
    if first.refused or second.refused:
        return f"{(first if first.refused else second).model.name} is refused"
    ours, theirs = _per_server(first), _per_server(second)
    for name in dict.fromkeys((*ours, *theirs)):
        if ours.get(name) != theirs.get(name):
            return f"a server has one {name}: {_word(ours.get(name))} there, {_word(theirs.get(name))} here"
    parsers = {parser for migration in (first, second) if (parser := tool_parser(migration))}
    if len(parsers) > 1:
        hint = "" if tool_parsers.PLUGIN not in parsers else "; --tool-call-parser ollama suits both"
        return f"a server has one tool-call-parser: {tool_parser(first)} there, {tool_parser(second)} here{hint}"
    return ""


def _per_server(migration: Migration) -> dict[str, Any]:
    choices = migration.choices
    merged = migration.adapter is not None and migration.adapter.merged
    adapter = ", ".join(str(path) for path in migration.adapter.files) if migration.adapter and merged else None
    return {
        **{a.name: a.value for a in migration.arguments if a.name not in BY_NAME},
        "merged adapter": adapter,
        "tokenizer": choices.tokenizer,
        "BOS": migration.bos_in_template,
    }


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def tool_parser(migration: Migration) -> str | None:
    return next((str(a.value) for a in migration.arguments if a.name == "tool-call-parser"), None)


def at_port(migration: Migration, port: int) -> Migration:
    """The same migration with a server that listens on another port."""
    choices = migration.choices
    here, there = (f"{choices.host}:{number}" for number in (choices.port, port))
    return replace(
        migration,
        choices=replace(choices, port=port),
        arguments=[replace(a, value=port) if a.name == "port" else a for a in migration.arguments],
        ledger=Ledger([replace(f, target=there) if f.target == here else f for f in migration.ledger]),
    )


def differences(migrations: Sequence[Migration]) -> list[str]:
    """In what the models differ, in a Modelfile's words."""
    found: dict[str, list[Any]] = {
        "TEMPLATE": [m.model.template for m in migrations],
        "SYSTEM": [m.model.system for m in migrations],
        "MESSAGE": [list(m.model.messages) for m in migrations],
        "ADAPTER": [[layer.digest or str(layer.path) for layer in m.model.adapters] for m in migrations],
        "RENDERER": [m.model.renderer for m in migrations],
        "PARSER": [m.model.parser for m in migrations],
    }
    values = [{p.name: p.value for p in m.parameters} for m in migrations]
    for name in dict.fromkeys(name for row in values for name in row):
        found[f"PARAMETER {name}"] = [row.get(name) for row in values]
    return [name for name, each in found.items() if any(value != each[0] for value in each)]
