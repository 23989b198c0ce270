"""A request that both sides answered: what is the same, cheaply, from the two summaries alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from migrate.gateway.shadow_answer import AnswerSummary

Side = Literal["source", "target"]

BEGINNING = 16
"""Characters in which two greedy answers of the same model agree, but for an early near tie of two tokens: weights or
prompts that are wrong part before."""
COSINE = 0.99


class SideTimes(BaseModel):
    """Seconds; `ttft` None: not streamed."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: int | None
    total: float
    ttft: float | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None


class Pair(BaseModel):
    """What the journal keeps of a pair. A check is True (same), False, or None: it does not apply.

    `status`: both succeeded, or both refused alike; None where the source itself failed. `prompt`: equal counts of
    prompt tokens, BOS included. `calls`: same functions with the same arguments, greedy requests only; `called`:
    whether tools were called at all is the same. `json_valid`: the target's text is JSON where the source's is and it
    was asked for. `text`, `beginning`, `end` (done_reason) and `tokens` (equal lengths) are of greedy requests only,
    `at` is the first character at which the texts part.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    answered_by: Side
    greedy: bool
    source: SideTimes
    target: SideTimes
    status: bool | None = None
    prompt: bool | None = None
    end: bool | None = None
    tokens: bool | None = None
    called: bool | None = None
    calls: bool | None = None
    json_valid: bool | None = None
    text: bool | None = None
    beginning: bool | None = None
    at: int | None = None
    embeddings: bool | None = None

    @property
    def differences(self) -> tuple[str, ...]:
        """Names of the checks that found the sides different."""
        return tuple(name for name in CHECKS if getattr(self, name) is False)


CHECKS = ("status", "prompt", "end", "tokens", "called", "calls", "json_valid", "beginning", "text", "embeddings")


def compare(
    body: Mapping[str, Any],
    source: AnswerSummary,
    target: AnswerSummary,
    *,
    answered_by: Side,
    default_temperature: float | None = None,
) -> Pair:
    """`default_temperature`: the model's own, for requests that name none; None: it samples."""
    greedy = is_greedy(body, default_temperature)
    base: dict[str, Any] = {
        "answered_by": answered_by,
        "greedy": greedy,
        "source": _times(source),
        "target": _times(target),
        "status": _status(source, target),
    }
    if not (source.ok and target.ok and source.understood and target.understood):
        unreadable = source.ok and target.ok and source.understood and not target.understood
        return Pair(**{**base, "status": False} if unreadable else base)
    if source.vectors or target.vectors:
        return Pair(**base, prompt=_equal(source.prompt_tokens, target.prompt_tokens), embeddings=_near(source, target))
    base |= {
        "prompt": _equal(source.prompt_tokens, target.prompt_tokens),
        "json_valid": _json_valid(body, source, target),
    }
    if body.get("tools"):
        base |= {"called": bool(source.calls) == bool(target.calls)}
        if greedy and (source.calls or target.calls):
            base |= {"calls": source.calls == target.calls}
    if greedy:
        at = first_difference(source.thinking + source.text, target.thinking + target.text)
        base |= {
            "end": source.done_reason == target.done_reason,
            "tokens": _equal(source.tokens, target.tokens),
            "text": at is None,
            "beginning": at is None or at >= BEGINNING,
            "at": at,
        }
    return Pair(**base)


def _times(answer: AnswerSummary) -> SideTimes:
    ttft = round(answer.ttft_s, 4) if answer.ttft_s is not None else None
    return SideTimes(
        status=answer.status,
        total=round(answer.total_s, 4),
        ttft=ttft,
        prompt_tokens=answer.prompt_tokens,
        tokens=answer.tokens,
    )


def _status(source: AnswerSummary, target: AnswerSummary) -> bool | None:
    if source.status is None or (source.status >= 500 and source.status != 501):
        return None
    return (source.ok and target.ok) or source.status == target.status


def _equal(ours: int | None, theirs: int | None) -> bool | None:
    return ours == theirs if ours is not None and theirs is not None else None


def _json_valid(body: Mapping[str, Any], source: AnswerSummary, target: AnswerSummary) -> bool | None:
    kind = body.get("response_format")
    asked = bool(body.get("format")) or (isinstance(kind, dict) and kind.get("type") in ("json_object", "json_schema"))
    if not asked or source.calls or not _is_json(source.text):
        return None
    return _is_json(target.text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _near(source: AnswerSummary, target: AnswerSummary) -> bool:
    if len(source.vectors) != len(target.vectors):
        return False
    return all(a == b or cosine(a, b) >= COSINE for a, b in zip(source.vectors, target.vectors, strict=True))


def cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """-1 to 1; 0 for vectors of different lengths, or without a direction."""
    if len(a) != len(b):
        return 0.0
    norm = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm if norm else 0.0


def first_difference(ours: str, theirs: str) -> int | None:
    """Character at which two texts part, None when they are equal."""
    if ours == theirs:
        return None
    for index, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return index
    return min(len(ours), len(theirs))


def is_greedy(body: Mapping[str, Any], default_temperature: float | None = None) -> bool:
    """Whether the request leaves the model no choice: temperature 0, or the best token only."""
    options = body.get("options")
    asked = {**body, **options} if isinstance(options, Mapping) else body
    temperature = asked.get("temperature", default_temperature)
    if asked.get("top_k") == 1:
        return True
    return isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
