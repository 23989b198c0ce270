"""Shadowing: an answered request is asked again of the other side, in the background and on a budget.

    taken = shadow.take(decision, path, body)        # None: not this one
    ...                                              # the client is answered; `taken.piece(data)` for every piece
    shadow.offer(taken, status)                      # never waits, never raises

What does not fit the budget is dropped, never queued. Comparing and writing happen in a thread of their own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from migrate.gateway.shadow_answer import AnswerSummary, summary
from migrate.gateway.shadow_compare import Pair, Side, compare
from migrate.gateway.shadow_journal import Journal
from migrate.parity.traffic.requests import WORLDS

if TYPE_CHECKING:
    import httpx

    from migrate.gateway.routing import Decision

logger = logging.getLogger(__name__)

Reply = tuple[int, AsyncIterator[bytes]]
Ask = Callable[[str, bytes], AbstractAsyncContextManager[Reply]]
"""Asks one side: (path, body of the request) -> its status and the pieces of its answer. May raise anything; what it
raises is an answer that broke off."""


class ShadowPolicy(BaseModel):
    """`shadow:` of the configuration. Budgets are a whole gateway's, whatever its number of processes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fraction: float = Field(
        default=1.0, ge=0, le=1, description="share of requests, unless `migrate gateway shadow` says another"
    )
    max_per_hour: int = Field(default=1000, ge=0, description="pairs in any hour")
    max_concurrent: int = Field(default=2, ge=1, le=256, description="copies under way")
    max_request_bytes: int = Field(default=1 << 20, ge=1, description="larger requests are not copied")
    max_answer_bytes: int = Field(default=4 << 20, ge=1, description="larger answers are not compared")
    timeout: float = Field(default=300.0, gt=0, description="seconds a copy may take")
    in_canary: bool = Field(default=False, description="whether a canary's requests are copied, too")
    keep_text: bool = Field(
        default=False, description="keep requests (not answers) in the journal, for `report --parity`"
    )
    redact: bool = Field(default=True, description="of what is kept, replace personal data and secrets")
    journal_mb: int = Field(default=64, ge=1, le=100_000, description="size of the journal, all files together, in MiB")
    min_pairs: int = Field(default=50, ge=1, description="pairs before `report` decides anything")
    min_same_status: float = Field(default=0.99, ge=0, le=1)
    min_same_prompt: float = Field(default=0.99, ge=0, le=1, description="equal counts of prompt tokens")
    min_same_beginning: float = Field(default=0.8, ge=0, le=1, description="of greedy answers: equal at the beginning")
    min_same_text: float | None = Field(default=None, ge=0, le=1, description="of greedy answers: equal to the end")
    min_same_calls: float = Field(default=0.9, ge=0, le=1, description="of greedy answers with tool calls")
    min_valid_json: float = Field(default=0.98, ge=0, le=1, description="where JSON was asked for")
    min_same_embeddings: float = Field(default=0.99, ge=0, le=1, description="cosine of at least 0.99")


@dataclass(slots=True)
class Taken:
    """A request that may be copied, while the client's answer passes. Times are of `time.perf_counter`."""

    model: str
    path: str
    body: bytes
    request: Mapping[str, Any]
    answered_by: Side
    limit: int
    began: float = field(default_factory=time.perf_counter)
    at: float = field(default_factory=time.time)
    first: float | None = None
    answer: bytearray | None = field(default_factory=bytearray)

    def piece(self, data: bytes) -> None:
        """A piece of the client's answer; too large an answer is let go."""
        if self.answer is None or not data:
            return
        if self.first is None:
            self.first = time.perf_counter()
        if len(self.answer) + len(data) > self.limit:
            self.answer = None
        else:
            self.answer += data


class Shadow:
    """`ask` gives the way to ask each side. `journal` None: pairs are told to `on_pair` only. `workers`: processes that
    share the budget. `default_temperature`: a model's own, where it is known."""

    def __init__(
        self,
        policy: ShadowPolicy,
        ask: Mapping[Side, Ask],
        journal: Journal | None,
        *,
        workers: int = 1,
        on_pair: Callable[[str, Pair], None] = lambda model, pair: None,
        on_drop: Callable[[str, str], None] = lambda model, reason: None,
        default_temperature: Callable[[str], float | None] = lambda model: None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.dropped: Counter[str] = Counter()
        self._ask = ask
        self._journal = journal
        self._on_pair, self._on_drop = on_pair, on_drop
        self._temperature = default_temperature
        self._clock, self._draw = clock, draw
        self._per_hour = -(-policy.max_per_hour // workers)
        self._concurrent = max(1, policy.max_concurrent // workers)
        self._begun: deque[float] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._told_error = -1e9

    def take(self, decision: Decision, path: str, body: bytes, request: Mapping[str, Any]) -> Taken | None:
        """A request that may be copied, None for the others: asked before it is answered, so that those cost nothing.
        `request` is the decoded `body`."""
        if not decision.shadow or not is_comparable(path, request):
            return None
        fraction = decision.fraction if decision.fraction is not None else self.policy.fraction
        if self._draw() >= fraction:
            return None
        if len(body) > self.policy.max_request_bytes:
            self._drop(decision.model, "the request is too large")
            return None
        return Taken(decision.model, path, body, request, decision.upstream, self.policy.max_answer_bytes)

    def offer(self, taken: Taken, status: int | None) -> bool:
        """After the client's answer has ended (`status` None: the upstream broke off); not for clients that left.
        Whether it is copied."""
        try:
            return self._offer(taken, status)
        except Exception:
            logger.exception("shadow: a request was not copied")
            return False

    def _offer(self, taken: Taken, status: int | None) -> bool:
        now, ended = self._clock(), time.perf_counter()
        while self._begun and self._begun[0] <= now - 3600.0:
            self._begun.popleft()
        reason = None
        if taken.answer is None:
            reason = "the answer is too large"
        elif len(self._tasks) >= self._concurrent:
            reason = "too many at a time"
        elif len(self._begun) >= self._per_hour:
            reason = "too many in an hour"
        if reason is not None:
            self._drop(taken.model, reason)
            return False
        self._begun.append(now)
        task = asyncio.get_running_loop().create_task(self._copy(taken, status, ended - taken.began), name="shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def _drop(self, model: str, reason: str) -> None:
        self.dropped[reason] += 1
        self._on_drop(model, reason)

    async def _copy(self, taken: Taken, status: int | None, total_s: float) -> None:
        other: Side = "target" if taken.answered_by == "source" else "source"
        try:
            theirs = await self._answer(other, taken)
            if theirs is None:
                self._drop(taken.model, "the answer is too large")
                return
            first = taken.first - taken.began if taken.first is not None else None
            ours = _Raw(status, bytes(taken.answer or b""), first, total_s)
            loop = asyncio.get_running_loop()
            pair = await loop.run_in_executor(self._thread, self._settle, taken, ours, theirs)
            self._on_pair(taken.model, pair)
        except Exception as error:
            self._drop(taken.model, "it could not be compared or written")
            if self._clock() - self._told_error > 60.0:
                self._told_error = self._clock()
                logger.warning("shadow: %s: %s", type(error).__name__, error)

    async def _answer(self, side: Side, taken: Taken) -> _Raw | None:
        """The other side's answer; None when it is too large."""
        began, first, content = time.perf_counter(), None, bytearray()
        status: int | None = None
        try:
            async with asyncio.timeout(self.policy.timeout), self._ask[side](taken.path, taken.body) as (code, pieces):
                async for piece in pieces:
                    if first is None and piece:
                        first = time.perf_counter() - began
                    content += piece
                    if len(content) > self.policy.max_answer_bytes:
                        return None
            status = code
        except Exception as error:  # it stands in the journal as an answer that broke off
            logger.info("shadow: the %s broke off: %s: %s", side, type(error).__name__, error)
        return _Raw(status, bytes(content), first, time.perf_counter() - began)

    def _settle(self, taken: Taken, ours: _Raw, theirs: _Raw) -> Pair:
        """In the thread: reads both answers, compares them, writes the line."""
        streamed = bool(taken.request.get("stream", not taken.path.startswith("/v1/"))) and "embed" not in taken.path
        mine, other = (raw.read(taken.path, streamed=streamed) for raw in (ours, theirs))
        source, target = (mine, other) if taken.answered_by == "source" else (other, mine)
        pair = compare(
            taken.request,
            source,
            target,
            answered_by=taken.answered_by,
            # Ollama's OpenAI routes put 1.0 in place of the model's own (ollama.md section 7.4)
            default_temperature=1.0 if WORLDS[taken.path] == "openai" else self._temperature(taken.model),
        )
        if self._journal is not None:
            body = taken.request if self.policy.keep_text else None
            self._journal.append(taken.model, taken.path, pair, body=body, started=taken.at)
        return pair

    @property
    def under_way(self) -> int:
        return len(self._tasks)

    async def drain(self) -> None:
        """Waits for the copies under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Lets go of what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Raw:
    status: int | None
    content: bytes
    ttft_s: float | None
    total_s: float

    def read(self, path: str, *, streamed: bool) -> AnswerSummary:
        first = self.ttft_s if streamed else None
        return summary(path, self.status, self.content, ttft_s=first, total_s=self.total_s)


def is_comparable(path: str, request: Mapping[str, Any]) -> bool:
    """Requests that run the model and leave nothing behind: none that load or unload it, or only show the prompt."""
    if path not in WORLDS or request.get("_debug_render_only") or _unloads(request.get("keep_alive")):
        return False
    if "messages" in request:
        return bool(request["messages"])
    return bool(request.get("prompt") or request.get("input") or request.get("suffix"))


def _unloads(keep_alive: Any) -> bool:
    if isinstance(keep_alive, bool):
        return False
    return keep_alive == 0 or (isinstance(keep_alive, str) and not keep_alive.strip("0hms.µun") and "0" in keep_alive)


def http_side(
    client: httpx.AsyncClient, url: str | Callable[[], str], headers: Callable[[], Mapping[str, str]] = dict
) -> Ask:
    """A side that speaks the client's API itself: Ollama. `url` may be a function that chooses among several."""

    @asynccontextmanager
    async def ask(path: str, body: bytes) -> AsyncIterator[Reply]:
        root = url if isinstance(url, str) else url()
        sent = {"content-type": "application/json", **headers()}
        async with client.stream("POST", root.rstrip("/") + path, content=body, headers=sent) as reply:
            yield reply.status_code, reply.aiter_bytes()

    return ask


def read_request(body: bytes) -> dict[str, Any] | None:
    """A request's JSON object; None for anything else."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
