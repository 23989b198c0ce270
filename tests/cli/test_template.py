"""`migrate template --against`: our chat templates and a recorded server's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate.chat_template import native
from migrate.cli.template import compare_live
from migrate.engines.ollama import OllamaEngine
from migrate.errors import ServerError
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.ollama.replay import recordings, replay


def asked(rows: list[dict[str, Any]], bot: str) -> dict[str, dict[str, Any]]:
    """name -> request of everything that the recorded server was asked to render for a model."""
    found = {}
    for row in rows:
        body = row["request"].get("body")
        if isinstance(body, dict) and body.get("_debug_render_only") and body["model"] == bot:
            found[row["name"]] = body
    return found


@pytest.mark.parametrize(
    ("folder", "bot", "exact", "wrong", "left_out"),
    [
        ("ollama", "renderer-bot", 15, 0, 2),
        ("ollama", "legacy-bot", 11, 0, 6),
        ("ollama", "support-bot", 11, 4, 2),  # tools as a Go struct
        ("ollama/modern", "qwen35-bot", 19, 2, 0),  # longer than the recorded context: Ollama dropped messages
    ],
)
def test_a_live_server_is_the_judge(shared: Path, folder: str, bot: str, exact: int, wrong: int, left_out: int) -> None:
    rows = recordings(shared / folder / "recordings.jsonl")
    jinja = plan(Store(shared / folder / "store").load(bot)).chat_template
    assert jinja is not None
    with replay(rows) as url:
        proof, refused = compare_live(OllamaEngine(url, model=bot), jinja, asked(rows, bot))
    assert (len(proof.of("exact")), len(proof.of("wrong")), len(refused)) == (exact, wrong, left_out)


def test_another_template_is_told_apart(shared: Path) -> None:
    rows = recordings(shared / "ollama/recordings.jsonl")
    other = native("{% for m in messages %}{{ m.content }}{% endfor %}").jinja
    with replay(rows) as url:
        proof, _ = compare_live(OllamaEngine(url, model="legacy-bot"), other, asked(rows, "legacy-bot"))
    assert not proof.holds
    assert "wrong at character 0" in proof.of("wrong")[0].describe()


def test_a_server_without_the_model_is_an_error(shared: Path) -> None:
    rows = recordings(shared / "ollama/recordings.jsonl")
    with replay(rows) as url, pytest.raises(ServerError):
        compare_live(OllamaEngine(url, model="nobody"), "x", {"one": {"messages": [{"role": "user", "content": "?"}]}})
