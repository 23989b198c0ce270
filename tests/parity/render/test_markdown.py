"""report.md: the samples word for word, and what a model says stays text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from migrate.parity.render import render_markdown
from migrate.parity.render.markdown import MAX_CHARACTERS, code, fenced, prose
from migrate.parity.render.text import side_by_side
from tests.parity.render import sample
from tests.parity.render.golden.__main__ import NAMES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    assert render_markdown(getattr(sample, name)()) == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*NAMES, "hostile"])
def test_every_row_has_the_cells_of_its_heading(name: str) -> None:
    columns = 0
    for line in render_markdown(getattr(sample, name)()).split("\n"):
        if not line.startswith("|"):
            columns = 0
            continue
        cells = len(re.findall(r"(?<!\\)\|", line)) - 1
        columns = columns or cells
        assert cells == columns, line
        assert line.endswith("|")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, with 4 of 5 (80%)", "plain, with 4 of 5 (80%)"),
        ("a|b", "a\\|b"),
        ("*bold* _it_ snake_case ~~x~~", "\\*bold\\* \\_it\\_ snake_case \\~\\~x\\~\\~"),
        ("<b>&amp;", "&lt;b>&amp;amp;"),
        ("[x](http://y)", "\\[x\\](http://<!-- -->y)"),
        ("@team, see #12 and www.x.y", "@<!-- -->team, see #<!-- -->12 and www.<!-- -->x.y"),
        ("# no heading", "\\# no heading"),
        ("> no quotation", "\\> no quotation"),
        ("- no list", "\\- no list"),
        ("12. no list", "12\\. no list"),
        ("`x|y` is code", "`x\\|y` is code"),
        ("an odd ` tick", "an odd \\` tick"),
        ("`` two", "\\`\\` two"),
        ("a\n\nb", "a b"),
        ("\x1b[2J", "\\\\x1b\\[2J"),
    ],
)
def test_prose(text: str, shown: str) -> None:
    assert prose(text, 300) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("x", "`x`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b", "`a\\|b`"), ("", ""), ("a\nb", "`a b`")],
)
def test_code(text: str, shown: str) -> None:
    assert code(text, 100) == shown


def test_a_block_of_code_is_not_left() -> None:
    block = fenced(side_by_side("a\n````\n<b>", "a\n````\n<i>")[0], 100)
    assert block == "`````text\na\n````\n<⟦b>⟧\n`````"
    assert fenced(side_by_side("x" * 500, "y")[0], 20).count("x") == 20


@pytest.mark.parametrize("name", [*NAMES, "hostile"])
def test_a_reader_of_markdown_finds_no_markup_of_a_model(name: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = parser.parse(render_markdown(getattr(sample, name)()))
    inline = [child for token in tokens for child in token.children or ()]
    html = [token.content.strip() for token in (*tokens, *inline) if token.type in ("html_block", "html_inline")]
    ours = re.compile(r"<details><summary>[\w ():/,⟦⟧-]+</summary>|</details>|</?sub>|<!-- -->")
    assert not [text for text in html if not ours.fullmatch(text)]
    assert not {"link_open", "image", "s_open", "em_open"} & {token.type for token in inline}
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == [h for h in ("Layers", "For whom this holds", "Differences", "Throughput") if h in headings]
    said = "\n".join(token.content for token in inline if token.type == "text")
    assert not re.findall(r"@\w|://\w|#\d", said)


def test_hostile_text_is_visible() -> None:
    text = render_markdown(sample.hostile())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\u202egnp.exe" in text
    text.encode("utf-8")


def test_it_fits_into_a_comment() -> None:
    report = sample.hostile()
    for layer in report.layers:
        layer.notes = ["x" * 1000] * 1000
        layer.differences = report.layer("text").differences
    text = render_markdown(report)
    assert len(text) <= MAX_CHARACTERS
    assert text.startswith("## ✅ PASS")
    assert text.rstrip().endswith("</sub>")
