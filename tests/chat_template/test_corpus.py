"""The real templates and conversations of the shared corpus."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from migrate.chat_template import BATTERY, prove, translate
from migrate.errors import MigrateError
from tests.chat_template.scoreboard import Score, read, score

MAX_SECONDS = 10.0


@pytest.fixture(scope="module")
def scored(shared: Path) -> Score:
    return score(shared / "corpus")


def test_no_prompt_of_the_corpus_is_wrong(scored: Score) -> None:
    assert [f"{row.template} x {row.conversation}: {row.difference()}" for row in scored.of("wrong")] == []


def test_nearly_all_prompts_of_the_corpus_are_exact(scored: Score) -> None:
    renderable = sum(row.expected is not None for row in scored.rows)
    assert renderable == 7555
    assert scored.counts()["exact"] >= 0.99 * renderable


def test_the_corpus_is_translated_quickly(scored: Score) -> None:
    assert scored.seconds < MAX_SECONDS


def test_every_template_of_the_corpus_is_proved_by_the_battery(shared: Path) -> None:
    wrong, checked = [], 0
    for row in read(shared / "corpus" / "templates.jsonl"):
        try:
            jinja = translate(row["template"], system="Be 'brief'.").jinja
        except MigrateError:
            continue
        proof = prove(row["template"], jinja, system="Be 'brief'.", today=date(2024, 3, 1))
        wrong += [f"{row['id']}: {check.describe()}" for check in proof.of("wrong")]
        checked += len(proof.checks)
    assert wrong == []
    assert checked >= 370 * len(BATTERY)
