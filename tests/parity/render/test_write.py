"""The files of a report: which there are, and that none is ever there by half."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.errors import UsageError
from migrate.parity import render
from migrate.parity.render import render_html, write_all, write_one
from migrate.parity.report import Difference, ParityReport
from tests.parity.render import sample


def test_all_formats(tmp_path: Path) -> None:
    report = sample.embedding()
    paths = write_all(report, tmp_path / "new" / "proof")
    assert [path.name for path in paths] == ["report.json", "report.html", "report.md", "junit.xml"]
    assert sorted(paths) == sorted((tmp_path / "new" / "proof").iterdir())
    assert ParityReport.model_validate_json(paths[0].read_bytes()) == report
    assert paths[1].read_text(encoding="utf-8") == render_html(report)


def test_only_some_and_in_order(tmp_path: Path) -> None:
    names = [path.name for path in write_all(sample.embedding(), tmp_path, formats=("md", "json", "md"))]
    assert names == ["report.json", "report.md"]


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.json", "{\n"), ("b.html", "<!doctype html>"), ("c.md", "## ✅ PASS"), ("d.xml", '<?xml version="1.0"')],
)
def test_one_file_by_its_ending(name: str, start: str, tmp_path: Path) -> None:
    path = write_one(sample.embedding(), tmp_path / "new" / name)
    assert path.read_text(encoding="utf-8").startswith(start)


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.pdf: no report format has this ending") as error:
        write_one(sample.embedding(), tmp_path / "x.pdf")
    assert error.value.hint == "*.json, *.html, *.md, *.xml"


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no report format 'pdf'") as error:
        write_all(sample.embedding(), tmp_path, formats=("json", "pdf"))
    assert "json, html, md, junit" in str(error.value.hint)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_file_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(sample.embedding(), tmp_path, formats=("md",))
    before = (tmp_path / "report.md").read_bytes()

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_all(sample.passing(), tmp_path, formats=("md",))
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_bytes() == before


def test_the_data_is_written_even_when_a_page_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: ParityReport) -> str:
        raise RuntimeError("no page")

    monkeypatch.setitem(render.RENDERERS, "html", broken)
    with pytest.raises(RuntimeError, match="no page"):
        write_all(sample.embedding(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_half_a_character_does_not_lose_the_report(tmp_path: Path) -> None:
    """An answer that ends in the middle of an emoji, as a server that escapes JSON by UTF-16 halves sends it."""
    report = sample.embedding()
    report.layers[0].differences = [Difference(conversation="\ud83d", reason="\ud83c\udf89", source="ok")]
    (path, *_) = write_all(report, tmp_path)
    (found,) = ParityReport.model_validate_json(path.read_bytes()).layers[0].differences
    assert (found.conversation, found.reason, found.source) == ("\ufffd", "🎉", "ok")
