"""The real-world corpus as a scoreboard: `python -m tests.corpus`.

Every row of prompts.jsonl is a template, a conversation and what a real Ollama made of them. A scorer renders a row or
raises; `score` compares. One scorer is the Go interpreter; a translator adds another one to SCORERS.
"""

from __future__ import annotations

import datetime
import functools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrate.errors import MigrateError
from migrate.ollama.template import render_chat

CLOCK = datetime.date(2026, 11, 23)
"""The day on which the corpus was rendered."""


@dataclass(frozen=True, slots=True)
class Row:
    """One template on one conversation.

    `expected` is the prompt, None where Ollama answers with an error. `form` is "go", or "json_tools" where `.Function`
    prints as JSON.
    """

    template_id: str
    conversation_id: str
    template: str
    conversation: dict[str, Any]
    expected: str | None
    form: str = "go"


@dataclass(slots=True)
class Score:
    exact: int = 0
    wrong: int = 0
    error: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.exact + self.wrong + self.error


Scorer = Callable[[Row], str]
"""Renders a row; raises MigrateError when it cannot."""


def shared_root() -> Path:
    return Path(os.environ.get("MIGRATE_SHARED", Path(__file__).parent.parent.parent / "shared")).resolve()


def read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def rows(shared: Path) -> Iterator[Row]:
    """All rows, and each one that has a second form twice."""
    corpus = shared / "corpus"
    templates = {row["id"]: row["template"] for row in read_jsonl(corpus / "templates.jsonl")}
    conversations = {row["id"]: row for row in read_jsonl(corpus / "conversations.jsonl")}
    for row in read_jsonl(corpus / "prompts.jsonl"):
        template, conversation = row["template"], row["conversation"]
        make = functools.partial(Row, template, conversation, templates[template], conversations[conversation])
        yield make(row.get("rendered"))
        if "rendered_json_tools" in row:
            yield make(row["rendered_json_tools"], "json_tools")


def interpret(row: Row) -> str:
    """The prompt our Go interpreter makes."""
    conversation = row.conversation
    return render_chat(
        row.template,
        conversation["messages"],
        system=conversation.get("system"),
        model_messages=conversation.get("model_messages", ()),
        tools=conversation.get("tools", ()),
        think=conversation.get("think"),
        json_tools=row.form == "json_tools",
        today=CLOCK,
    )


def score(rows: Iterable[Row], scorer: Scorer) -> Score:
    """Counts exact texts (an error where Ollama has one counts too), wrong ones, and errors with their reasons."""
    result = Score()
    for row in rows:
        try:
            text: str | None = scorer(row)
        except MigrateError as error:
            text, reason = None, str(error)
        else:
            reason = "a text where Ollama fails" if row.expected is None else "another text"
        if text == row.expected:
            result.exact += 1
            continue
        if text is None:
            result.error += 1
        else:
            result.wrong += 1
        result.reasons[f"{row.template_id} {row.form}: {reason}"] += 1
    return result


SCORERS: dict[str, Scorer] = {"interpreter": interpret}


def main(names: list[str]) -> None:
    shared = shared_root()
    for name in names or SCORERS:
        result = score(rows(shared), SCORERS[name])
        print(f"{name}: {result.total} rows, exact {result.exact}, wrong {result.wrong}, error {result.error}")
        for reason, count in result.reasons.most_common(40):
            print(f"  {count:5}  {reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
