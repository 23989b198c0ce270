"""What layers, results and numbers are called in a report for people."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

from migrate.parity.render.text import line, number, percent
from migrate.parity.report import LayerReport, Load, Ratio, Verdict

VERDICTS = {
    Verdict.PASS: "The target answers as the source does, as far as this run could tell.",
    Verdict.FAIL: "The target does not answer as the source does. Do not cut over.",
    Verdict.INCONCLUSIVE: "Nothing is decided. This is not a pass.",
}

SIGNS = {"pass": "✓", "fail": "✕", "inconclusive": "?", "skipped": "–"}
"""Beside the word, so that colour is never the only sign."""

CHECKS = {
    "same": ("pass", "the same"),
    "different": ("fail", "different"),
    "told": ("skipped", "known deviation"),
    "unknown": ("inconclusive", "not decided"),
}
"""Results of a layer's named checks: which status they look like, and what they are called."""

LAYERS = {
    "artefact": ("Files", "Are the bundle's files the ones that were written, and does the server run on them?"),
    "prompt": ("Prompt", "Do both sides make the same text of a conversation?"),
    "tokens": ("Token ids", "Does that text become the same token ids?"),
    "noise": ("Noise floor", "How much does each server differ from itself when it is asked twice?"),
    "embeddings": ("Embeddings", "Do both models give a text the same vector?"),
    "logprobs": ("Log-probabilities", "Given the same tokens, do both models expect the same next ones?"),
    "text": ("Greedy answers", "Is the answer the same text, and does it end at the same place?"),
    "sampled": ("Sampled answers", "Do answers at the model's own temperature come from the same distribution?"),
    "behaviours": ("Behaviours", "Stops, tools, JSON, limits and errors: does a client see the same?"),
    "tasks": ("Tasks", "Are as many questions answered correctly?"),
}
"""Name and question of each layer."""

CLIENTS = {"native": "Ollama API clients (/api/…)", "openai": "OpenAI API clients (/v1/…)"}

_METRICS = {
    "top1_agreement": "same most likely token",
    "mean_kl": "mean KL divergence, nats",
    "mean_kl_se": "its standard error, nats",
    "mean_kl_upper": "its upper bound, nats",
    "p95_kl": "KL divergence, 95th percentile, nats",
    "max_kl": "largest KL divergence, nats",
    "positions": "positions compared",
    "rms_probability_difference": "RMS difference of probabilities",
    "mean_delta": "mean |log-probability difference|, nats",
    "max_delta": "largest |log-probability difference|, nats",
    "source_mean_kl": "source against itself, mean KL, nats",
    "target_mean_kl": "target against itself, mean KL, nats",
    "source_identical": "source: same answer again",
    "target_identical": "target: same answer again",
    "source_asked_twice": "source: asked twice",
    "target_asked_twice": "target: asked twice",
    "concurrency": "requests at a time",
    "near_ties": "parted at a near tie",
    "parted": "answers that part",
    "contained_where_parted": "of these, each side knows the other's choice",
    "tie_margin": "near tie: closer than, nats",
    "reference_to_source_kl": "reference to source, mean KL, nats",
    "reference_to_target_kl": "reference to target, mean KL, nats",
    "farther_than_source_kl": "target farther from the reference by, nats",
    "farther_than_source_kl_upper": "its upper bound, nats",
    "reference_with_source": "where they part, the reference sides with the source",
    "reference_with_target": "where they part, the reference sides with the target",
    "rate_upper": "requests that could still differ, at most",
    "p": "chance of such a difference between equals (p)",
    "samples": "answers of each side to a conversation",
    "source_accuracy": "source: right",
    "target_accuracy": "target: right",
    "difference": "target minus source",
    "difference_low": "its lower bound",
    "difference_high": "its upper bound",
    "lost": "right on the source only",
    "gained": "right on the target only",
    "p_worse": "chance of so many losses between equals (p)",
    "margin": "largest loss that is no worse",
    "alpha": "error probability allowed (α)",
    "same_nearest": "same nearest neighbour",
    "rank_agreement": "order of neighbours, Kendall's τ",
    "min_cosine": "smallest cosine similarity",
    "mean_cosine": "mean cosine similarity",
    "requests_per_min": "requests a minute",
    "tokens_per_s": "tokens a second",
    "goodput_per_min": "goodput, requests a minute",
    "ttft_ms": "time to first token",
    "itl_ms": "time between tokens",
    "e2e_ms": "end to end",
}
_SHARES = ("top1_agreement", "share", "accuracy", "rate", "rate_upper", "same_nearest", "discordance")
_CHANGES = ("difference", "difference_low", "difference_high")

_HELD: dict[tuple[str, str], tuple[str, Literal["least", "most"], int]] = {
    ("sampled", "alpha"): ("p", "least", 1),
    ("tasks", "margin"): ("difference_low", "least", -1),
}
"""Limits whose name does not say so: (layer, limit) -> (number, side, sign)."""


def metric(name: str) -> str:
    """Name of a number in words; names nobody told us about are spelled out."""
    if name in _METRICS:
        return _METRICS[name]
    stem, _, percentile = name.rpartition("_")
    if stem and percentile in ("p50", "p95", "p99"):
        return f"{_METRICS.get(f'{stem}_ms') or metric(stem)}, {percentile}"
    return line(name.replace("_", " "), 80)


def value(name: str, measured: float) -> str:
    """A number as its name wants it: shares in percent."""
    if name in _CHANGES and abs(measured) <= 1:
        return f"{measured:+.1%}"
    if (name == "margin" or name.endswith(_SHARES)) and 0 <= measured <= 1:
        return percent(measured)
    return number(measured)


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a layer. `limit` in words ("at least 95 %"), `kept`: whether it was kept, None without a limit."""

    name: str
    measured: str
    limit: str = ""
    kept: bool | None = None


def rows(layer: LayerReport) -> list[Row]:
    """The numbers of a layer, beside each the limit it was held to.

    `min_X` and `max_X` hold for the number X, or else for every number that ends in _X; other limits stand alone.
    """
    limits: dict[str, tuple[Literal["least", "most"], float]] = {}
    alone = []
    for name, limit in layer.thresholds.items():
        held, side, sign = _held(layer, name)
        limits |= dict.fromkeys(held, (side, sign * limit))
        if not held:
            alone.append(Row(metric(name), "", value(name, limit)))
    found = []
    for name, measured in layer.metrics.items():
        if name not in limits:
            found.append(Row(metric(name), value(name, measured)))
            continue
        side, limit = limits[name]
        kept = measured >= limit if side == "least" else measured <= limit
        found.append(Row(metric(name), value(name, measured), f"at {side} {value(name, limit)}", kept))
    return found + alone


def _held(layer: LayerReport, limit: str) -> tuple[list[str], Literal["least", "most"], int]:
    """(the numbers that a limit is for, its side, its sign)."""
    if (layer.name.value, limit) in _HELD:
        name, side, sign = _HELD[layer.name.value, limit]
        return [name] if name in layer.metrics else [], side, sign
    side = "least" if limit.startswith("min_") else "most"
    if not limit.startswith(("min_", "max_")):
        return [], side, 1
    stem = limit[4:]
    for names in ([limit], [stem], [name for name in layer.metrics if name.endswith(f"_{stem}")]):
        if held := [name for name in names if name in layer.metrics]:
            return held, side, 1
    return [], side, 1


def load_point(item: Load | Ratio) -> str:
    """Under which load: "4 at a time", "500 a minute"."""
    if item.concurrency is not None:
        return f"{item.concurrency:,} at a time"
    return f"{number(item.request_rate)} a minute" if item.request_rate is not None else "all"


def utc(created: str) -> datetime.datetime | None:
    """A time in ISO 8601; None when it is something else."""
    try:
        return datetime.datetime.fromisoformat(created).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        return None


def moment(created: str) -> str:
    """A time in ISO 8601 for people: 2026-11-25 14:03 UTC."""
    found = utc(created)
    return f"{found:%Y-%m-%d %H:%M} UTC" if found else created


def layer_title(name: str) -> str:
    return LAYERS.get(name, (name.capitalize(), ""))[0]


def counted(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def results(layers: list[LayerReport]) -> str:
    """ "7 passed, 1 failed, 2 not run" """
    names = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive", "skipped": "not run"}
    counts = {status: sum(layer.status == status for layer in layers) for status in names}
    return ", ".join(f"{counts[status]} {word}" for status, word in names.items() if counts[status]) or "none"
