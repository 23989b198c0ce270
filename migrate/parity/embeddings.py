"""Embedding models: do both sides put texts into the same places, and rank neighbours the same?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from migrate.errors import MissingExtra, ServerError
from migrate.parity.case import Run, is_refusal
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport

TEXTS: tuple[str, ...] = (
    "The cat sleeps on the warm windowsill.",
    "A kitten is napping in the sun.",
    "The stock market fell sharply on Monday.",
    "Shares lost value at the start of the week.",
    "How do I reset my password?",
    "I cannot log in to my account any more.",
    "Bake the bread at 220 degrees for half an hour.",
    "Knead the dough and let it rise overnight.",
    "def add(a, b):\n    return a + b",
    "SELECT name FROM users WHERE id = 7;",
    "Der Zug nach Hamburg hat zwanzig Minuten Verspätung.",
    "The train to Hamburg is twenty minutes late.",
    "Le musée est fermé le mardi.",
    "The museum is closed on Tuesdays.",
    "東京は今日も雨です。",
    "It is raining in Tokyo today.",
    "ok",
    "Refunds are paid within 14 days. " * 12,
    "naïve café, ñandú, e\u0301, 🎉",
    "search_query: what is the warranty period",
)
"""Written for this project: pairs that mean the same, code, languages, a short, a long and an odd one."""


def check(run: Run) -> LayerReport:
    """Cosine of the two vectors of each text, their lengths, and the agreement of the neighbours' order."""
    import numpy as np

    texts = run.texts or TEXTS
    report = LayerReport(name=LayerName.EMBEDDINGS, status="pass", summary="")
    vectors: list[tuple[str, Any, Any]] = []
    for text, pair in zip(texts, run.each(lambda text: _pair(run, text), texts), strict=True):
        if isinstance(pair, Difference):
            report.differences.append(pair)
        else:
            ours, theirs = (np.asarray(vector, dtype=np.float64) for vector in pair)
            vectors.append((text, ours, theirs))
    report.compared = len(texts)
    for text, ours, theirs in vectors:
        reason = _compare(ours, theirs, run.settings.min_cosine)
        if reason:
            report.differences.append(Difference(conversation=_short(text), reason=reason))
    report.agreed = report.compared - len(report.differences)
    report.thresholds = {"min_cosine": run.settings.min_cosine}
    alike = [(a, b) for _, a, b in vectors if a.shape == b.shape]
    if alike:
        cosines = [_cosine(a, b) for a, b in alike]
        report.metrics = {"min_cosine": min(cosines), "mean_cosine": sum(cosines) / len(cosines)}
        report.metrics |= _ranks([a for a, _ in alike], [b for _, b in alike], report.notes)
    if not vectors:
        report.status, report.summary = "inconclusive", "no text was embedded by both sides"
    elif report.differences:
        first = report.differences[0]
        report.status = "fail"
        report.summary = f"{len(report.differences)} of {report.compared} texts differ; «{first.conversation}»: "
        report.summary += first.reason
        report.differences = report.differences[:MAX_DIFFERENCES]
    else:
        report.summary = f"all {report.compared} vectors point the same way: cosine {report.metrics['min_cosine']:.6f}"
        report.summary += " or more"
        if "rank_agreement" in report.metrics:
            report.summary += f", neighbours' order agrees to {report.metrics['rank_agreement']:.4f} (Kendall)"
        if len(vectors) < run.settings.min_compared:
            report.status = "inconclusive"
            report.summary += f"; only {len(vectors)} texts, and {run.settings.min_compared} are needed"
    return report


def _pair(run: Run, text: str) -> tuple[Sequence[float], Sequence[float]] | Difference:
    sides = []
    for side, engine in (("source", run.source), ("target", run.target)):
        try:
            (vector,) = engine.embed([text])
        except ServerError as error:
            if not is_refusal(error):
                raise
            return Difference(conversation=_short(text), reason=f"the {side} refuses it: {error}")
        sides.append(vector)
    return sides[0], sides[1]


def _compare(ours: Any, theirs: Any, limit: float) -> str:
    if ours.shape != theirs.shape:
        return f"{ours.size} numbers became {theirs.size}"
    cosine = _cosine(ours, theirs)
    if not cosine >= limit:
        return f"cosine {cosine:.6f} is below {limit:g}"
    lengths = [float((v @ v) ** 0.5) for v in (ours, theirs)]
    if abs(lengths[0] - lengths[1]) > 0.01 * max(lengths):
        return f"the same direction, but length {lengths[0]:.4g} became {lengths[1]:.4g}: normalised on one side only"
    return ""


def _cosine(a: Any, b: Any) -> float:
    norms = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / norms if norms else 0.0


def _ranks(ours: Sequence[Any], theirs: Sequence[Any], notes: list[str]) -> dict[str, float]:
    """How alike the two sides order the neighbours of each text: mean Kendall tau, and the same nearest neighbour."""
    import numpy as np

    if len(ours) < 3:
        return {}
    try:
        from migrate.parity.statistics import stats

        kendalltau = stats().kendalltau
    except MissingExtra as error:
        notes.append(f"the order of neighbours was not compared: {error}")
        return {}
    a, b = (np.array([[_cosine(x, y) for y in side] for x in side]) for side in (ours, theirs))
    taus, same = [], 0
    for row in range(len(ours)):
        others = np.arange(len(ours)) != row
        taus.append(float(kendalltau(a[row, others], b[row, others]).statistic))
        same += int(np.argmax(a[row, others]) == np.argmax(b[row, others]))
    known = [tau for tau in taus if tau == tau]
    metrics = {"same_nearest": same / len(ours)}
    return metrics | ({"rank_agreement": sum(known) / len(known)} if known else {})


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
