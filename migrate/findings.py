"""The vocabulary of a migration: what becomes of every single element of the source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How well an element survives, best first."""

    EXACT = "exact"
    """The same bytes, numbers or behaviour."""
    EQUIVALENT = "equivalent"
    """Expressed differently for the same effect; the reason names the edge where it shows, if there is one."""
    APPROXIMATE = "approximate"
    """Close, and the reason says where it differs."""
    DROPPED = "dropped"
    """Has no meaning on the other side; the reason says what that changes."""
    REFUSED = "refused"
    """Cannot be moved and stay right: no bundle is written."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One element of the source and what becomes of it.

    `item` names it in the source's own words ("PARAMETER stop", "TEMPLATE", "tensor blk.0.attn_q.weight");
    `source` and `target` show both sides as short text ("" where there is none); `reason` says why, `action`
    what the user has to do ("" if nothing).
    """

    item: str
    status: Status
    source: str = ""
    target: str = ""
    reason: str = ""
    action: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status.value}


@dataclass(slots=True)
class Ledger:
    """All findings of a migration, in the order they were made."""

    findings: list[Finding] = field(default_factory=list)

    def add(
        self, item: str, status: Status, source: object = "", target: object = "", reason: str = "", action: str = ""
    ) -> None:
        self.findings.append(Finding(item, status, str(source), str(target), reason, action))

    def extend(self, findings: Iterable[Finding]) -> None:
        self.findings.extend(findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def of(self, status: Status) -> list[Finding]:
        return [f for f in self.findings if f.status is status]

    @property
    def refused(self) -> list[Finding]:
        return self.of(Status.REFUSED)

    def counts(self) -> dict[str, int]:
        """Findings per status, in the order of `Status`, zeros left out."""
        return {s.value: n for s in Status if (n := len(self.of(s)))}
