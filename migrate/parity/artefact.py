"""The files of the bundle: are they the ones that were written, and does the server run on them?

No model is asked anything; a wrong file here explains every later difference.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from migrate.errors import ServerError
from migrate.parity.case import Run
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport

PIECE = 8 << 20
HASH_BUDGET_S = 60.0
"""Large weights are hashed for so long; what is left is compared by size, and a note says so."""


def check(run: Run) -> LayerReport:
    """Digests and sizes of the bundle's files against its migration.json, and what the target says it serves."""
    bundle = run.bundle
    files = bundle.facts.files
    report = LayerReport(name=LayerName.ARTEFACT, status="pass", summary="")
    deadline = time.monotonic() + HASH_BUDGET_S
    unhashed = 0
    for name in sorted(files, key=lambda name: files[name].size):
        report.compared += 1
        path = (bundle.root / name).resolve()
        reason = "it points outside the bundle"
        if path.is_relative_to(bundle.root.resolve()):
            reason, hashed = _compare(path, files[name].size, files[name].sha256, deadline)
            unhashed += not hashed
        if reason:
            report.differences.append(Difference(conversation=name, reason=reason))
    for name, reason in (*_stops(run), *_served(run)):
        report.compared += 1
        report.differences += [Difference(conversation=name, reason=reason)] if reason else []
    report.agreed = report.compared - len(report.differences)
    if not files:
        report.notes.append("migration.json lists no files: their digests were not compared")
    if unhashed:
        report.notes.append(f"{unhashed} large files were compared by size only, after {HASH_BUDGET_S:g} s of hashing")
    if report.differences:
        first = report.differences[0]
        report.status = "fail"
        report.summary = (
            f"{len(report.differences)} of {report.compared} checks fail; {first.conversation}: {first.reason}"
        )
        report.differences = report.differences[:MAX_DIFFERENCES]
    elif not report.compared:
        report.status, report.summary = "skipped", "migration.json lists no files and no stop strings"
    else:
        report.summary = f"{len(files)} files are those of migration.json"
        if others := report.compared - len(files):
            report.summary += f"; {others} stop strings and limits are in place"
    return report


def _compare(path: Path, size: int, sha256: str, deadline: float) -> tuple[str, bool]:
    """(what is wrong or "", whether the content was hashed)."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"it has {found} bytes, {size} were written", True
        if time.monotonic() > deadline:
            return "", False
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                if time.monotonic() > deadline:
                    return "", False
    except OSError as error:
        return f"it cannot be read: {error.strerror}", True
    if digest.hexdigest() != sha256.removeprefix("sha256:"):
        return "its content was changed after it was written", True
    return "", True


def _stops(run: Run) -> list[tuple[str, str]]:
    """(what, what is wrong or "") per stop string of the model: the bundle has it for requests, or as an end token."""
    bundle = run.bundle
    defaults = bundle.root_json("request_defaults.json").get("stop") or []
    ends = {run.vocabulary.names.get(i) for i in bundle.eos_ids}
    lost = "neither request_defaults.json nor eos_token_id has it: answers go on where Ollama's stop"
    stops = [stop for stop in bundle.facts.source.stop if stop]
    return [(f"stop {stop!r}", "" if stop in defaults or stop in ends else lost) for stop in stops]


def _served(run: Run) -> list[tuple[str, str]]:
    """The context length the server runs with, when it tells."""
    wanted = run.bundle.facts.target.max_model_len
    if wanted is None:
        return []
    try:
        served = run.target.context_length()
    except ServerError:
        return []
    if served is None:
        return []
    short = f"the server takes {served} tokens (max_model_len), the bundle was made for {wanted}"
    return [("context length", short if served < wanted else "")]
