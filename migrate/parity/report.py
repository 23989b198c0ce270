"""What a parity run found: the data of report.json, and its summary on a terminal."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_DIFFERENCES = 50


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}


class LayerName(StrEnum):
    """Cheapest first; each explains differences in the later ones."""

    PROMPT = "prompt"
    TOKENS = "tokens"
    LOGPROBS = "logprobs"
    TEXT = "text"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Difference(_Model):
    """One place where the two sides differ. `position` counts characters (prompt) or tokens (the other layers)."""

    conversation: str
    reason: str
    position: int | None = None
    source: str = ""
    target: str = ""


class LayerReport(_Model):
    """One check over all conversations. `metrics` are the measured numbers, `thresholds` what they were held to."""

    name: LayerName
    status: Literal["pass", "fail", "inconclusive", "skipped"]
    summary: str
    compared: int = Field(default=0, description="conversations that were compared")
    agreed: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    thresholds: dict[str, float] = Field(default_factory=dict)
    differences: list[Difference] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    seconds: float = 0.0


class ParityReport(_Model):
    """The whole of report.json. `created` is UTC in ISO 8601."""

    schema_version: Literal[1] = 1
    generator: str
    created: str
    model: str
    digests: dict[str, str] = Field(default_factory=dict)
    source: str
    target: str
    battery: str = Field(description="digest of the conversations")
    conversations: int
    verdict: Verdict
    reason: str
    next_step: str
    layers: list[LayerReport]

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 inconclusive."""
        return EXIT_CODES[self.verdict]

    def layer(self, name: LayerName | str) -> LayerReport:
        return next(layer for layer in self.layers if layer.name == name)


def write_json(report: ParityReport, path: Path) -> None:
    """Writes report.json; never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    part.replace(path)


STYLES: dict[str, str] = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "skipped": "dim"}
SHOWN_DIFFERENCES = 3


def render_terminal(report: ParityReport) -> RenderableType:
    """Summary for `rich.print`: a row per layer, the first differences, and what to do next."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Parity of {report.model}", title_justify="left", show_edge=False, pad_edge=False)
    for heading in ("layer", "result", "agree", "what was found"):
        table.add_column(heading, overflow="fold")
    for layer in report.layers:
        agree = f"{layer.agreed}/{layer.compared}" if layer.compared else "-"
        table.add_row(layer.name.value, Text(layer.status, style=STYLES[layer.status]), agree, Text(layer.summary))
    parts: list[Any] = [Text(f"source  {report.source}\ntarget  {report.target}\n"), table]
    for layer in report.layers:
        parts += _differences(layer)
        parts += [Text(f"note ({layer.name.value}): {note}", style="dim") for note in layer.notes]
    verdict = Text(f"\n{report.verdict.value.upper()}", style=STYLES[report.verdict.value])
    parts += [verdict.append(f"  {report.reason}", style="default"), Text(f"next: {report.next_step}")]
    return Group(*parts)


def _differences(layer: LayerReport) -> list[Any]:
    from rich.text import Text

    parts: list[Any] = []
    for difference in layer.differences[:SHOWN_DIFFERENCES]:
        where = f" at {difference.position}" if difference.position is not None else ""
        parts.append(Text(f"\n{layer.name.value}{where}, «{difference.conversation}»: {difference.reason}"))
        if difference.source or difference.target:
            parts.append(Text(f"  source {difference.source}\n  target {difference.target}"))
    if (more := len(layer.differences) - SHOWN_DIFFERENCES) > 0:
        parts.append(Text(f"  ... and {more} more in report.json", style="dim"))
    return parts
