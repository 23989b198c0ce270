"""report.html: one file that needs nothing else, for people who decide about a cut-over.

The page has no script and asks no server: its policy (CSP) forbids both, should anything of a model ever get through
the escaping. What is shown is bounded whatever was measured; all of it is in report.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migrate.parity.render import charts, loads, words
from migrate.parity.render.text import (
    SIGNS,
    Listed,
    Pieces,
    finite,
    first,
    line,
    number,
    parting,
    percent,
    plain,
    sentence,
    side_by_side,
    thinned,
)
from migrate.parity.report import (
    Check,
    ClientVerdict,
    Curve,
    Difference,
    Evidence,
    LayerName,
    LayerReport,
    ParityReport,
    SamplePlan,
    Verdict,
)

MAX_LAYERS = 40
MAX_DIFFERENCES = 20
MAX_EXAMPLES = 12
MAX_ROWS = 100
MAX_FIELDS = 80
SURVIVAL_ROWS = 5

_COMPARED_AS_TEXT = {LayerName.PROMPT, LayerName.TEXT, LayerName.TOKENS, LayerName.BEHAVIOURS, LayerName.SAMPLED}
"""Layers whose two sides of a difference are excerpts of one text, so that the place where they part can be marked."""


def render_html(report: ParityReport) -> str:
    """The page. Without matplotlib it has tables in place of the charts, and says what to install."""
    from migrate.resources import render

    return render("report/report.html.j2", **view(report))


@dataclass(frozen=True, slots=True)
class Sides:
    """Two texts side by side. `where` in words."""

    conversation: str
    reason: str
    where: str = ""
    source: Pieces = ()
    target: Pieces = ()


def view(report: ParityReport) -> dict[str, Any]:
    """The values of the template. Every text in it is bounded and visible; the template escapes it."""
    layers, more_layers = first(report.layers, MAX_LAYERS)
    pairs = report.evidence.logprob_pairs
    curves = [curve for curve in report.evidence.survival[: charts.MAX_CURVES] if charts.curve_steps(curve)]
    return {
        "model": line(report.model, 120),
        "facts": _facts(report),
        "verdict": report.verdict.value,
        "sign": words.SIGNS[report.verdict.value],
        "meaning": words.VERDICTS[report.verdict],
        "reason": sentence(line(report.reason)),
        "next_step": sentence(line(report.next_step)),
        "exit_code": report.exit_code,
        "glance": _glance(report),
        "clients": [_client(client, report.verdict) for client in report.clients[:4]],
        "hiccups": Listed.of(report.hiccups),
        "layers": [_layer(layer) | {"id": f"layer-{n}"} for n, layer in enumerate(layers, 1)],
        "more_layers": more_layers,
        "plan": [_plan(plan) for plan in report.plan[:MAX_ROWS]],
        "noise": next((_layer(layer) for layer in report.layers if _is_noise(layer)), None),
        "deviations": [
            (words.layer_title(layer.name), Listed.of(layer.deviations)) for layer in layers if layer.deviations
        ],
        "examples": _examples(report.evidence),
        "more_examples": max(0, len(report.evidence.examples) - MAX_EXAMPLES),
        "signs": SIGNS,
        "charts": charts.all_charts(pairs, curves, report.throughput),
        "curves": [_curve(curve) for curve in curves],
        "spread": _spread(pairs),
        "traffic": _traffic(report),
        "throughput": loads.view(report.throughput) if report.throughput else None,
        "absent": _absent(report),
        "details": _details(report),
        "signs_of": words.SIGNS,
    }


def _facts(report: ParityReport) -> list[tuple[str, str]]:
    facts = [("Source", report.source), ("Target", report.target), ("Reference", report.reference)]
    facts += [("Made", f"{words.moment(report.created)} by {report.generator}")]
    return [(name, line(text, 300)) for name, text in facts if text]


def _glance(report: ParityReport) -> list[tuple[str, str, str]]:
    """(name, number, what it is): what one looks for first."""
    asked = f"of {report.traffic.read:,} requests" if report.traffic.read else line(report.traffic.origin, 40)
    found = [("Conversations", f"{report.conversations:,}", asked)]
    found.append(("Layers", words.results(report.layers), "cheapest first"))
    for layer in report.layers:
        if layer.name == LayerName.LOGPROBS and "top1_agreement" in layer.metrics:
            of = f"of {number(layer.metrics.get('positions'))} positions"
            found.append(("Same likeliest token", percent(layer.metrics["top1_agreement"]), of))
        if layer.name == LayerName.TEXT and layer.compared:
            found.append(("Same answers", f"{layer.agreed:,} of {layer.compared:,}", "word for word, greedy"))
        if layer.name == LayerName.EMBEDDINGS and layer.compared:
            found.append(("Same vectors", f"{layer.agreed:,} of {layer.compared:,}", "texts embedded on both sides"))
    for ratio in loads.headline_ratios(report.throughput):
        found.append(
            (sentence(words.metric(ratio.metric)), f"× {charts.ratio_text(ratio.value)}", words.load_point(ratio))
        )
    return found


def _client(client: ClientVerdict, verdict: Verdict) -> dict[str, Any]:
    status, word = ("pass", "holds") if client.holds else ("fail", "does not hold")
    if verdict is Verdict.INCONCLUSIVE:
        status, word = "inconclusive", "not proved"
    return {
        "name": words.CLIENTS[client.client],
        "status": status,
        "sign": words.SIGNS[status],
        "word": word,
        "statement": line(client.statement),
        "changes": Listed.of(client.changes, MAX_ROWS),
    }


def _layer(layer: LayerReport) -> dict[str, Any]:
    differences, more = first(layer.differences, MAX_DIFFERENCES)
    return {
        "name": layer.name.value,
        "title": words.layer_title(layer.name),
        "question": words.LAYERS.get(layer.name, ("", ""))[1],
        "status": layer.status,
        "sign": words.SIGNS[layer.status],
        "agree": f"{layer.agreed:,}/{layer.compared:,}" if layer.compared else "–",
        "summary": sentence(line(layer.summary)),
        "seconds": number(layer.seconds) if layer.status != "skipped" else "–",
        "rows": words.rows(layer)[:MAX_FIELDS],
        "checks": [_check(check) for check in layer.checks[:MAX_ROWS]],
        "notes": Listed.of(layer.notes),
        "differences": [difference(layer.name, d) for d in differences],
        "more_differences": more,
        "open": layer.status in ("fail", "inconclusive"),
        "holds": _holds(layer),
    }


def _check(check: Check) -> dict[str, str]:
    status, word = words.CHECKS[check.result]
    shown = {"name": line(check.name, 120), "detail": line(check.detail)}
    return shown | {"status": status, "sign": words.SIGNS[status], "word": word}


def _is_noise(layer: LayerReport) -> bool:
    return layer.name == LayerName.NOISE and layer.status != "skipped"


def _holds(layer: LayerReport) -> str:
    """What there is to open: "2 differences, 10 numbers, 1 note"."""
    counts = [
        (len(layer.differences), "difference"),
        (len(layer.checks), "check"),
        (len(words.rows(layer)), "number"),
        (len(layer.notes), "note"),
    ]
    return ", ".join(words.counted(count, name) for count, name in counts if count)


def difference(name: LayerName, found: Difference) -> Sides:
    """A difference of a layer; the place where the two part is marked where the two are one text."""
    unit = "character" if name == LayerName.PROMPT else "token"
    where = f"{unit} {found.position:,}" if found.position is not None else ""
    source, target = found.source, found.target
    if not (source or target):
        return Sides(line(found.conversation, 160), line(found.reason), where)
    if name in _COMPARED_AS_TEXT:
        sides = side_by_side(source, target, excerpt_parting(name, source, target), context=400)
    else:
        sides = plain(source, 400), plain(target, 400)
    return Sides(line(found.conversation, 160), line(found.reason), where, *sides)


def excerpt_parting(name: LayerName, source: str, target: str) -> int:
    """Where two excerpts part: tokens are not cut in two, nor are escapes (`\\n`)."""
    at = parting(source, target)
    if name == LayerName.TOKENS:
        return source.rfind(" ", 0, at) + 1
    before = source[max(0, at - 12) : at]
    backslashes = len(before) - len(before.rstrip("\\"))
    return at - backslashes % 2


def _examples(evidence: Evidence) -> list[Sides]:
    return [
        Sides(
            line(example.conversation, 160),
            line(example.reason),
            f"{words.layer_title(example.layer)}, character {example.at:,}",
            *side_by_side(example.source, example.target, example.at),
        )
        for example in evidence.examples[:MAX_EXAMPLES]
    ]


def _plan(plan: SamplePlan) -> dict[str, Any]:
    return {
        "items": f"{plan.items:,}",
        "needed": f"{plan.needed:,}",
        "margin": f"{number(100 * plan.margin)} points",
        "alpha": number(plan.alpha),
        "power": percent(plan.power),
        "achieved": percent(plan.achieved_power),
        "discordance": percent(plan.discordance),
        "enough": plan.items >= plan.needed,
    }


def _curve(curve: Curve) -> dict[str, Any]:
    """The curve as a table: share after so many tokens."""
    steps = charts.curve_steps(curve)
    return {
        "label": line(curve.label, 80),
        "answers": f"{curve.answers:,}",
        "censored": f"{curve.censored:,}",
        "steps": [(number(x), percent(y)) for x, y in _spread_out(steps)],
    }


def _spread_out(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    shown = list(thinned(steps, SURVIVAL_ROWS))
    return shown if not steps or shown[-1] == steps[-1] else [*shown, steps[-1]]


def _spread(pairs: Sequence[tuple[float, float]]) -> list[tuple[str, str]]:
    """How far the log-probabilities of the two sides lie apart (nats), as a table."""
    apart = sorted(abs(a - b) for a, b in finite(pairs))
    if not apart:
        return []
    quantiles = (("median", 0.5), ("95th percentile", 0.95), ("99th percentile", 0.99), ("largest", 1.0))
    return [(name, number(apart[min(len(apart) - 1, int(q * len(apart)))])) for name, q in quantiles]


def _traffic(report: ParityReport) -> dict[str, Any]:
    traffic = report.traffic
    counts = [
        ("read", traffic.read),
        ("duplicates", traffic.duplicates),
        ("not usable", traffic.unusable),
        ("used", traffic.used),
    ]
    return {
        "origin": line(traffic.origin, 200),
        "counts": [(name, f"{count:,}") for name, count in counts] if traffic.read else [],
        "redacted": traffic.redacted,
        "seed": traffic.seed,
        "battery": line(report.battery, 100),
        "conversations": f"{report.conversations:,}",
        "notes": Listed.of(traffic.notes),
    }


def _absent(report: ParityReport) -> list[str]:
    """What this run does not tell, so that nobody takes silence for good news."""
    evidence = report.evidence
    noise = any(_is_noise(layer) for layer in report.layers)
    parts = [
        (report.clients, "for which kinds of clients the result holds"),
        (report.plan, "a sample-size plan: no decision of this run rests on a rate"),
        (noise, "the noise floor: how much each server differs from itself is not known"),
        (evidence.logprob_pairs or evidence.survival, "charts of the answers: none were compared token by token"),
        (evidence.examples, "answers side by side: none that part were kept"),
        (report.throughput, "throughput"),
    ]
    return [text for there, text in parts if not there]


def _details(report: ParityReport) -> list[tuple[str, list[tuple[str, str]]]]:
    run = [
        ("schema", str(report.schema_version)),
        ("generator", report.generator),
        ("created", report.created),
        ("conversations' digest", report.battery),
    ]
    groups = [
        ("Run", run),
        ("Digests", list(report.digests.items())[:MAX_FIELDS]),
        ("Settings", [(key, str(setting)) for key, setting in list(report.settings.items())[:MAX_FIELDS]]),
    ]
    return [(title, [(line(k, 80), line(v, 200)) for k, v in found]) for title, found in groups if found]
