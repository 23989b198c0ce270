"""Every row of the real-world corpus: the interpreter makes the prompt that Ollama makes, and fails where it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus import Row, interpret, rows, score


@pytest.fixture(scope="module")
def corpus(shared: Path) -> list[Row]:
    return list(rows(shared))


@pytest.mark.parametrize(("form", "count"), [("go", 7700), ("json_tools", 76)])
def test_every_prompt_is_exact(corpus: list[Row], form: str, count: int) -> None:
    result = score([row for row in corpus if row.form == form], interpret)
    assert (result.exact, result.wrong, result.error) == (count, 0, 0), result.reasons.most_common(10)


def test_the_corpus_has_failures_to_agree_on(corpus: list[Row]) -> None:
    assert sum(row.expected is None for row in corpus) == 145
