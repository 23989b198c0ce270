"""Who decides, watches, compares and counts, put together for the endpoints."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from migrate.errors import UsageError
from migrate.gateway import wire
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import ServedModel
from migrate.gateway.metrics import Metrics
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.routing import Decision, LastLine, Route, Router
from migrate.gateway.shadow import Ask, Shadow, Taken, http_side
from migrate.gateway.shadow import Reply as ShadowReply
from migrate.gateway.shadow_journal import Journal, journal_path
from migrate.gateway.state import LiveState, StateFile
from migrate.gateway.types import ApiError
from migrate.gateway.upstreams import UpstreamError
from migrate.gateway.watch import Trip, Watch
from migrate.parity.traffic.redact import Redactor

if TYPE_CHECKING:
    from migrate.gateway.endpoint import Handler

log = logging.getLogger("migrate.gateway")
access = logging.getLogger("migrate.gateway.access")

UPSTREAM_BROKE_OFF = None


class Observer:
    """One per process. `handlers` are the routes that run a model, for copies that are asked of vLLM."""

    def __init__(self, backend: Backend, handlers: Mapping[str, Handler], *, workers: int = 1) -> None:
        config = backend.config
        self._backend = backend
        self._handlers = handlers
        models = backend.catalog.models
        self.state = LiveState(StateFile(config.state_path))
        routes = [Route((model.name.short,), model.upstream, model.ollama) for model in models]
        self.router = Router(routes, self.state.current, policy=config.routing, canary_shadow=config.shadow.in_canary)
        self.metrics = Metrics(model.name.short for model in models) if config.metrics else None
        self._returnable = frozenset(model.name.short for model in models if model.ollama is not None)
        self.watch = Watch(config.returning, self.state.current, on_trip=self._tripped, returnable=self._returnable)
        self.shadow = self._shadowing(workers)

    # ---- before an answer -------------------------------------------------------------------------------------------

    def decide(self, model: str, headers: Mapping[str, str], request: Mapping[str, Any]) -> Decision:
        """Raises ApiError 400 for a header that names no upstream."""
        return self.router.decide(model, headers, request)

    def take(self, decision: Decision, path: str, body: bytes, request: Mapping[str, Any]) -> Taken | None:
        return self.shadow.take(decision, path, body, request) if self.shadow is not None else None

    def heard(
        self, decision: Decision, taken: Taken | None, reply: Reply, outcome: Outcome
    ) -> bytes | AsyncIterator[bytes]:
        """The body of a reply, listened to on its way out."""
        if isinstance(reply.body, bytes):
            if taken is not None:
                taken.piece(reply.body)
            self._end(decision, taken, reply.body, reply.status, outcome)
            return reply.body
        return self._listening(decision, taken, reply.body, reply.status, outcome)

    async def _listening(
        self, decision: Decision, taken: Taken | None, body: AsyncIterator[bytes], status: int, outcome: Outcome
    ) -> AsyncIterator[bytes]:
        last = LastLine()
        try:
            async for piece in body:
                if taken is not None:
                    taken.piece(piece)
                last.piece(piece)
                yield piece
        finally:
            if (close := getattr(body, "aclose", None)) is not None:
                await close()
        self._end(decision, taken, last.line, status, outcome)

    def _end(self, decision: Decision, taken: Taken | None, last: bytes, status: int, outcome: Outcome) -> None:
        if decision.remember:
            self.router.remember_last(decision, last)
        if taken is not None and self.shadow is not None:
            self.shadow.offer(taken, UPSTREAM_BROKE_OFF if outcome.failed else status)

    # ---- after an answer --------------------------------------------------------------------------------------------

    def begun(self, model: str) -> None:
        if self.metrics is not None:
            self.metrics.begun(model)

    def refused(self, model: str) -> None:
        if self.metrics is not None:
            self.metrics.refused(model)

    def logged(self, path: str, outcome: Outcome, started: float) -> None:
        """One line in the access log, without what was asked or answered."""
        total = time.perf_counter() - started
        line = {
            "path": path,
            "status": outcome.status,
            "model": outcome.model,
            "upstream": outcome.upstream,
            "seconds": round(total, 4),
            "first": round(outcome.first - started, 4) if outcome.first else None,
            "prompt_tokens": outcome.prompt_tokens,
            "answer_tokens": outcome.answer_tokens,
            "notes": ",".join(outcome.notes),
            "failed": outcome.failed,
        }
        access.info(" ".join(f"{key}={value}" for key, value in line.items() if value), extra={"request": line})

    def answered(self, path: str, outcome: Outcome, started: float, *, left: bool) -> None:
        """After a request that was to run a model, once for each `begun`: log, numbers, the automatic return."""
        self.logged(path, outcome, started)
        total = time.perf_counter() - started
        first = outcome.first - started if outcome.first else None
        failed = outcome.failed and not left
        status = UPSTREAM_BROKE_OFF if failed and outcome.status == 200 else outcome.status
        if self.metrics is not None:
            self.metrics.ended(
                outcome.model,
                path,
                outcome.upstream,
                status,
                total_s=total,
                ttft_s=first,
                overhead_s=outcome.overhead or None,
                tokens_in=outcome.prompt_tokens,
                tokens_out=outcome.answer_tokens,
            )
            if failed:
                self.metrics.upstream_error(outcome.model, outcome.upstream)
        model = self._backend.catalog.find(outcome.model) if outcome.model else None
        # Ollama says 500 of an option of the wrong type, or of a template that does not parse: the client's doing
        blameless = outcome.status >= 500 and not failed
        if model is not None and outcome.upstream and not left and not blameless:
            side = self._side(model, outcome.upstream)
            self.watch.answered(outcome.model, side, UPSTREAM_BROKE_OFF if failed else status, first, total)

    def _side(self, model: ServedModel, upstream: str) -> Any:
        return "target" if upstream == model.upstream else "source"

    def _tripped(self, trip: Trip) -> None:
        returned = trip.model in self._returnable and self.state.return_to_source(trip.model, trip.reason)
        if self.metrics is not None:
            self.metrics.tripped(trip.model, returned=returned)

    def render_metrics(self) -> tuple[bytes, str]:
        """Raises nothing; without metrics the text is empty."""
        if self.metrics is None:
            return b"", "text/plain; charset=utf-8"
        state = self.state.current()
        for route in self.router.routes:
            change = route.state(state)
            self.metrics.phase(route.name, route.phase(state), change.weight if change is not None else 0.0)
        return self.metrics.render()

    async def close(self) -> None:
        if self.shadow is not None:
            await self.shadow.close()
        self.state.flush()

    # ---- shadowing --------------------------------------------------------------------------------------------------

    def _shadowing(self, workers: int) -> Shadow | None:
        """None where there is no Ollama to compare with."""
        config, pools = self._backend.config, self._backend.upstreams.pools
        sources = {model.ollama for model in self._backend.catalog.models if model.ollama is not None}
        if not sources:
            return None
        if len(sources) > 1:
            raise UsageError(
                f"copies can be compared with one Ollama only, and models have {', '.join(sorted(sources))}",
                hint="run a gateway for each, or give the models one `source`",
            )
        pool = pools[min(sources)]
        policy = config.shadow
        journal = Journal(
            journal_path(config.state_path),
            max_bytes=policy.journal_mb << 20,
            redactor=Redactor() if policy.keep_text and policy.redact else None,
        )
        metrics = self.metrics
        return Shadow(
            policy,
            {
                "source": http_side(
                    self._backend.upstreams.client, lambda: pool.ordered()[0].url, lambda: pool.headers
                ),
                "target": self._target_side(),
            },
            journal,
            workers=workers,
            on_pair=lambda model, pair: metrics.pair(model, pair.differences) if metrics is not None else None,
            on_drop=lambda model, reason: metrics.dropped(model, reason) if metrics is not None else None,
            default_temperature=self._temperature,
        )

    def _temperature(self, model: str) -> float | None:
        found = self._backend.catalog.find(model)
        value = found.parameters.get("temperature") if found is not None else None
        return float(value) if isinstance(value, int | float) else None

    def _target_side(self) -> Ask:
        """A copy asked of vLLM goes the way a client's request would."""

        @asynccontextmanager
        async def ask(path: str, body: bytes) -> AsyncIterator[ShadowReply]:
            try:
                reply = await self._handlers[path](self._backend, body, Outcome())
            except UpstreamError:
                raise
            except ApiError as error:
                reply = Reply(error.status, wire.JSON_TYPE, wire.error(error.message))
            pieces = _pieces(reply)
            async with contextlib.aclosing(pieces):
                yield reply.status, pieces

        return ask


async def _pieces(reply: Reply) -> AsyncGenerator[bytes]:
    if isinstance(reply.body, bytes):
        yield reply.body
        return
    try:
        async for piece in reply.body:
            yield piece
    finally:
        if (close := getattr(reply.body, "aclose", None)) is not None:
            await close()
