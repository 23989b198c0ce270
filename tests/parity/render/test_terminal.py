"""On a terminal nothing that a server or a file says is obeyed."""

from __future__ import annotations

import io

from rich.console import Console

from migrate.parity.render.terminal import render_terminal
from migrate.parity.report import Difference, LayerName, LayerReport, ParityReport, Traffic, Verdict

EVIL = "\x1b]0;title\x07\x1b[31m\u202e[/bold]"


def test_control_characters_and_markup_are_shown() -> None:
    layer = LayerReport(
        name=LayerName.PROMPT,
        status="fail",
        summary=EVIL,
        compared=1,
        differences=[Difference(conversation=EVIL, reason=EVIL, source=EVIL, target=EVIL)],
        notes=[EVIL],
        deviations=[EVIL],
    )
    report = ParityReport(
        generator="x",
        created="x",
        model=EVIL,
        source=EVIL,
        target=EVIL,
        battery="x",
        conversations=1,
        traffic=Traffic(origin=EVIL),
        verdict=Verdict.FAIL,
        reason=EVIL,
        next_step=EVIL,
        layers=[layer],
        hiccups=[EVIL],
    )
    out = io.StringIO()
    Console(file=out, width=200).print(render_terminal(report))
    shown = out.getvalue()
    assert not [c for c in shown if not c.isprintable() and c != "\n"]
    assert shown.count("\\x1b]0;title\\x07\\x1b[31m\\u202e[/bold]") >= 12, "the title's markup, too"
