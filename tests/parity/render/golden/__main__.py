from __future__ import annotations

from pathlib import Path

from migrate.parity.render import render_junit, render_markdown
from tests.parity.render import sample

HERE = Path(__file__).parent
NAMES = ("passing", "failing", "partial", "embedding")

if __name__ == "__main__":
    for name in NAMES:
        report = getattr(sample, name)()
        (HERE / f"{name}.md").write_text(render_markdown(report), encoding="utf-8")
        (HERE / f"{name}.xml").write_text(render_junit(report), encoding="utf-8")
