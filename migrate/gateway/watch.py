"""The automatic return: what vLLM's answers look like to clients, and when Ollama has to answer again.

A sliding window of answers per model. It trips once; after that the model stays with Ollama until an operator acts, so
that it cannot swing to and fro. What a client got wrong, and clients that went away, say nothing about a server.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from migrate.gateway.state import State, canonical

logger = logging.getLogger(__name__)

Side = Literal["source", "target"]

MAX_ANSWERS = 20_000
"""In a window; the oldest go first."""


class ReturnPolicy(BaseModel):
    """`return:` of the configuration. Times in seconds, rates from 0 to 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    window: float = Field(default=120.0, gt=0, le=86_400, description="how far back answers count")
    min_requests: int = Field(
        default=20, ge=1, le=MAX_ANSWERS, description="answers in the window before anything is decided"
    )
    max_error_rate: float = Field(default=0.05, ge=0, le=1, description="share of vLLM's answers that may be errors")
    max_ttft: float | None = Field(default=None, gt=0, description="p95 of the time to vLLM's first token")
    ttft_factor: float | None = Field(default=3.0, gt=1, description="times Ollama's p95, where both were measured")
    ttft_floor: float = Field(default=1.0, ge=0, description="a p95 below this is never too slow for ttft_factor")
    source_window: float = Field(default=3600.0, gt=0, le=604_800, description="how far back Ollama's answers count")


@dataclass(frozen=True, slots=True)
class Trip:
    """A decision to return. `numbers` is what it was made from."""

    model: str
    reason: str
    numbers: Mapping[str, float]


@dataclass(slots=True)
class _Window:
    """(when it ended, whether it was an error, time to first token or None) of the answers of the last `seconds`."""

    seconds: float
    answers: deque[tuple[float, bool, float | None]] = field(default_factory=lambda: deque(maxlen=MAX_ANSWERS))
    errors: int = 0

    def add(self, now: float, error: bool, ttft_s: float | None) -> None:
        if len(self.answers) == MAX_ANSWERS:
            self._drop()
        self.answers.append((now, error, ttft_s))
        self.errors += error
        self.expire(now)

    def expire(self, now: float) -> None:
        while self.answers and self.answers[0][0] <= now - self.seconds:
            self._drop()

    def _drop(self) -> None:
        self.errors -= self.answers.popleft()[1]

    def clear(self) -> None:
        self.answers.clear()
        self.errors = 0

    def ttfts(self) -> list[float]:
        return [ttft for _, error, ttft in self.answers if ttft is not None and not error]


@dataclass(slots=True)
class _Model:
    target: _Window
    source: _Window
    phase_since: object = None
    opened: float = -math.inf
    tripped: bool = False
    unsorted: int = 0


class Watch:
    """`on_trip` is called once per trip, from `answered`; it must not block. `returnable` are the models with an Ollama
    to return to: for others a trip is logged, and told again when the window has filled anew."""

    def __init__(
        self,
        policy: ReturnPolicy,
        states: Callable[[], State],
        *,
        on_trip: Callable[[Trip], None],
        returnable: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._states = states
        self._on_trip = on_trip
        self._returnable = frozenset(map(canonical, returnable))
        self._clock = clock
        self._models: dict[str, _Model] = {}

    def answered(
        self, model: str, side: Side, status: int | None, ttft_s: float | None, total_s: float | None = None
    ) -> Trip | None:
        """After each answer. `status` None: the upstream could not be reached, or broke off in the middle (also when
        200 had been sent). `ttft_s` None: not measured, as in an answer that is not streamed. `total_s` from the
        request's arrival; an answer to a request from before the present phase is left out."""
        error = is_error(status)
        if not self.policy.enabled or error is None:
            return None
        key = canonical(model)
        found = self._models.get(key)
        if found is None:
            found = _Model(_Window(self.policy.window), _Window(self.policy.source_window))
            self._models[key] = found
        now = self._clock()
        if side == "source":
            found.source.add(now, error, ttft_s)
            return None
        if key in self._returnable and not self._watched(key, found, now):
            return None
        if total_s is not None and now - total_s < found.opened:
            return None
        found.target.add(now, error, ttft_s)
        reason = self._reason(found)
        if reason is None:
            return None
        trip = Trip(key, *reason)
        found.tripped = True
        found.target.clear()
        where = "back to Ollama" if key in self._returnable else "there is no Ollama to return to"
        logger.error("%s: %s; %s", key, trip.reason, where)
        self._on_trip(trip)
        return trip

    def _watched(self, key: str, found: _Model, now: float) -> bool:
        """Whether vLLM's answers count: in canary and target, not after a trip. A new phase begins a new window."""
        state = self._states().of(key)
        since = state.since if state is not None else None
        if since != found.phase_since:
            if found.phase_since is not None:
                found.opened = now
            found.phase_since, found.tripped = since, False
            found.target.clear()
        return state is not None and state.phase in ("canary", "target") and not found.tripped

    def _reason(self, found: _Model) -> tuple[str, dict[str, float]] | None:
        policy, window = self.policy, found.target
        count = len(window.answers)
        if count < policy.min_requests:
            return None
        rate = window.errors / count
        if rate > policy.max_error_rate:
            return (
                f"{window.errors} of {count} answers were errors ({100 * rate:.1f} %, allowed "
                f"{100 * policy.max_error_rate:g} %)",
                {"errors": window.errors, "answers": count, "error_rate": rate},
            )
        if policy.max_ttft is None and policy.ttft_factor is None:
            return None
        found.unsorted += 1
        if found.unsorted < count // 100:  # sorting a full window for every answer would cost more than it tells
            return None
        found.unsorted = 0
        return self._too_slow(window.ttfts(), found.source)

    def _too_slow(self, ours: list[float], source: _Window) -> tuple[str, dict[str, float]] | None:
        policy = self.policy
        if len(ours) < policy.min_requests:
            return None
        slow = percentile(ours, 0.95)
        if policy.max_ttft is not None and slow > policy.max_ttft:
            return (
                f"p95 to the first token is {slow:.2f} s (allowed {policy.max_ttft:g} s)",
                {"ttft_p95": slow, "answers": len(ours)},
            )
        if policy.ttft_factor is None or slow <= policy.ttft_floor:
            return None
        source.expire(self._clock())
        theirs = source.ttfts()
        if len(theirs) < policy.min_requests:
            return None
        known = percentile(theirs, 0.95)
        if slow > policy.ttft_factor * known:
            return (
                f"p95 to the first token is {slow:.2f} s, Ollama's {known:.2f} s (allowed {policy.ttft_factor:g}x)",
                {"ttft_p95": slow, "source_ttft_p95": known, "answers": len(ours)},
            )
        return None


def is_error(status: int | None) -> bool | None:
    """Whether an answer speaks against the server; None when it says nothing about it.

    4xx is the client's, as Ollama answers it too; 499 is a client that left, and 501 what Ollama says of an embedding
    of a chat model. 429 is a server with too much to do.
    """
    if status is None or status == 429:
        return True
    if 400 <= status < 500 or status == 501:
        return None
    return status >= 500


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank). ValueError for none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
