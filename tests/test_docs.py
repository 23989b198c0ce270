"""Documents do not point into nothing, and say nothing about a verb that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import VERBS
from tests.conftest import REPO

DOCUMENTS = sorted([REPO / "README.md", *(REPO / "docs").glob("*.md"), REPO / "fixtures" / "README.md"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    commands = set(re.findall(r"(?m)(?:^\$ |^    |`)migrate ([a-z]+)", text))
    assert commands <= set(VERBS), commands
