"""How many of the corpus's prompts a translation gets right: `python -m tests.chat_template.scoreboard [-v]`.

exact: the text Ollama renders. refused: the template is refused, or the Jinja raises, with a reason. wrong: another
text, or a text where Ollama fails.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

from migrate.chat_template import render, renderer, translate
from migrate.chat_template.conversation import arguments
from migrate.errors import MigrateError
from tests.conftest import SHARED

TODAY = date(2026, 11, 23)


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt. `expected` is None where Ollama fails."""

    template: str
    conversation: str
    expected: str | None
    got: str | None
    reason: str = ""

    @property
    def verdict(self) -> str:
        if self.got is None:
            return "error" if self.expected is None else "refused"
        return "exact" if self.got == self.expected else "wrong"

    def difference(self) -> str:
        """Both texts around the first character that differs."""
        got, expected = self.got or "", self.expected or ""
        at = next(
            (i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), min(len(got), len(expected))
        )
        start = max(0, at - 30)
        return f"at {at}: expected {expected[start : at + 40]!r}, got {got[start : at + 40]!r}"


@dataclass(slots=True)
class Score:
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    """Time spent translating."""

    def counts(self) -> Counter[str]:
        return Counter(row.verdict for row in self.rows)

    def of(self, verdict: str) -> list[Row]:
        return [row for row in self.rows if row.verdict == verdict]


def read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def score(corpus: Path) -> Score:
    """Translates every template for every Modelfile of the corpus and renders every conversation."""
    templates = {row["id"]: row["template"] for row in read(corpus / "templates.jsonl")}
    conversations = {row["id"]: row for row in read(corpus / "conversations.jsonl")}
    result = Score()
    translated: dict[tuple[str, str], str | MigrateError] = {}
    for row in read(corpus / "prompts.jsonl"):
        conversation = conversations[row["conversation"]]
        model = {"system": conversation.get("system"), "messages": conversation.get("model_messages", [])}
        key = (row["template"], json.dumps(model))
        if key not in translated:
            start = time.perf_counter()
            try:
                translated[key] = translate(templates[row["template"]], **model).jinja
            except MigrateError as error:
                translated[key] = error
            result.seconds += time.perf_counter() - start
        expected = None if "error" in row else row.get("rendered_json_tools", row.get("rendered"))
        got, reason = attempt(translated[key], conversation)
        result.rows.append(Row(row["template"], row["conversation"], expected, got, reason))
    return result


def score_renderers(corpus: Path) -> Score:
    """Renders every conversation with the chat template of every built-in renderer."""
    conversations = {row["id"]: row for row in read(corpus / "conversations.jsonl")}
    result = Score()
    written: dict[tuple[str, str], str | MigrateError] = {}
    for row in read(corpus / "renderers.jsonl"):
        conversation = conversations[row["conversation"]]
        model = {"system": conversation.get("system"), "messages": conversation.get("model_messages", [])}
        key = (row["renderer"], json.dumps(model))
        if key not in written:
            start = time.perf_counter()
            try:
                written[key] = renderer(row["renderer"], **model).jinja
            except MigrateError as error:
                written[key] = error
            result.seconds += time.perf_counter() - start
        got, reason = attempt(written[key], conversation)
        result.rows.append(Row(row["renderer"], row["conversation"], row.get("rendered"), got, reason))
    return result


def attempt(jinja: str | MigrateError, conversation: dict[str, Any]) -> tuple[str | None, str]:
    if isinstance(jinja, MigrateError):
        return None, str(jinja)
    try:
        return render(jinja, **arguments(conversation), today=TODAY), ""
    except jinja2.TemplateError as error:
        return None, str(error)
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show every wrong prompt")
    options = parser.parse_args()
    for title, result in (
        ("Go templates", score(SHARED / "corpus")),
        ("built-in renderers", score_renderers(SHARED / "corpus")),
    ):
        print_score(title, result, verbose=options.verbose)


def print_score(title: str, result: Score, *, verbose: bool) -> None:
    counts = result.counts()
    renderable = len(result.rows) - sum(row.expected is None for row in result.rows)
    print(f"{title}:")
    for verdict in ("exact", "refused", "wrong", "error"):
        print(f"{verdict:8} {counts[verdict]:6,}   {counts[verdict] / renderable:7.2%}")
    print(f"of {renderable:,} renderable prompts; translated in {result.seconds:.1f} s")
    for reason, count in Counter(row.reason for row in result.of("refused")).most_common():
        example = next(row for row in result.rows if row.reason == reason)
        print(f"  refused {count:5}  {example.template}: {reason[:150]}")
    for row in result.of("wrong")[: None if verbose else 20]:
        print(f"  wrong  {row.template} x {row.conversation}: {row.difference()}")


if __name__ == "__main__":
    main()
