"""What the gateway tells Prometheus.

Labels are bounded: models of the configuration ("other" for the rest), known paths, upstream names, statuses. With
several worker processes set PROMETHEUS_MULTIPROC_DIR to an empty directory before they start; any of them then tells
the numbers of all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from migrate.errors import MissingExtra
from migrate.gateway.state import Phase, canonical

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

PHASES: tuple[Phase, ...] = ("source", "shadow", "canary", "target")
PATHS = frozenset(
    {
        "/",
        "/api/version",
        "/api/tags",
        "/api/ps",
        "/api/show",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1/models",
    }
)
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
FIRST_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)

MULTIPROC = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """One per application. `models` are the names that get a label of their own. Raises MissingExtra."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MissingExtra(
                "metrics need prometheus-client, which is not installed",
                hint="pip install 'ollama-to-vllm[gateway]', or say `metrics: false` in the configuration",
            ) from None
        self.registry: CollectorRegistry = prometheus.CollectorRegistry()
        self._models = frozenset(map(canonical, models))
        common: dict[str, Any] = {"namespace": "migrate_gateway", "registry": self.registry}
        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        labels = ("model", "route", "upstream")
        self._requests = counter("requests", "Requests answered.", (*labels, "status"), **common)
        self._seconds = histogram(
            "request_seconds", "From a request's arrival to its answer's end.", labels, buckets=SECONDS, **common
        )
        self._first = histogram(
            "first_token_seconds", "To the first piece of an answer.", labels, buckets=FIRST_SECONDS, **common
        )
        self._overhead = histogram(
            "overhead_seconds",
            "What the gateway adds before the upstream is asked and after its first piece.",
            labels,
            buckets=OVERHEAD_SECONDS,
            **common,
        )
        self._tokens = counter("tokens", "Tokens as the upstream counts them.", ("model", "upstream", "kind"), **common)
        self._in_flight = gauge(
            "in_flight", "Requests being answered.", ("model",), multiprocess_mode="livesum", **common
        )
        self._refused = counter("refused", "Requests refused because too many were in flight.", ("model",), **common)
        self._errors = counter(
            "upstream_errors", "Answers that failed or broke off at an upstream.", ("model", "upstream"), **common
        )
        self._pairs = counter("shadow_pairs", "Shadowed requests that were compared.", ("model",), **common)
        self._differences = counter(
            "shadow_differences", "Shadowed requests that differ, by check.", ("model", "check"), **common
        )
        self._dropped = counter(
            "shadow_dropped", "Requests not shadowed for want of budget.", ("model", "reason"), **common
        )
        self._phase = gauge(
            "phase",
            "1 for the phase a model is in.",
            ("model", "phase"),
            multiprocess_mode="livemostrecent",
            **common,
        )
        self._weight = gauge(
            "canary_weight",
            "Percent of conversations that vLLM answers.",
            ("model",),
            multiprocess_mode="livemostrecent",
            **common,
        )
        self._returns = counter(
            "automatic_returns", "Times a model went back to Ollama by itself.", ("model",), **common
        )
        self._trips = counter(
            "alarms", "Times vLLM's answers were beyond a limit, returned or not.", ("model",), **common
        )
        for name in self._models:  # Prometheus sees no increase in a series that appears with its first value
            for told in (self._refused, self._pairs, self._returns, self._trips):
                told.labels(name)

    def begun(self, model: str) -> None:
        self._in_flight.labels(self._model(model)).inc()

    def ended(
        self,
        model: str,
        route: str,
        upstream: str,
        status: int | None,
        *,
        total_s: float,
        ttft_s: float | None = None,
        overhead_s: float | None = None,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
    ) -> None:
        """After every `begun`, once. `upstream` is its name, "" for what the gateway answers itself. `status` None: the
        upstream broke off after 200 had been sent."""
        name, path = self._model(model), route if route in PATHS else "other"
        self._in_flight.labels(name).dec()
        self._requests.labels(name, path, upstream, str(status) if status is not None else "broken").inc()
        self._seconds.labels(name, path, upstream).observe(total_s)
        if ttft_s is not None:
            self._first.labels(name, path, upstream).observe(ttft_s)
        if overhead_s is not None:
            self._overhead.labels(name, path, upstream).observe(overhead_s)
        if tokens_in:
            self._tokens.labels(name, upstream, "prompt").inc(tokens_in)
        if tokens_out:
            self._tokens.labels(name, upstream, "generated").inc(tokens_out)

    def refused(self, model: str) -> None:
        self._refused.labels(self._model(model)).inc()

    def upstream_error(self, model: str, upstream: str) -> None:
        self._errors.labels(self._model(model), upstream).inc()

    def pair(self, model: str, differences: Iterable[str]) -> None:
        name = self._model(model)
        self._pairs.labels(name).inc()
        for check in differences:
            self._differences.labels(name, check).inc()

    def dropped(self, model: str, reason: str) -> None:
        self._dropped.labels(self._model(model), reason).inc()

    def phase(self, model: str, phase: Phase, weight: float) -> None:
        name = self._model(model)
        for known in PHASES:
            self._phase.labels(name, known).set(known == phase)
        share = {"target": 100.0, "canary": weight}.get(phase, 0.0)
        self._weight.labels(name).set(share)

    def tripped(self, model: str, *, returned: bool) -> None:
        name = self._model(model)
        self._trips.labels(name).inc()
        if returned:
            self._returns.labels(name).inc()

    def render(self) -> tuple[bytes, str]:
        """(text, content type) for GET /metrics."""
        import prometheus_client as prometheus

        registry = self.registry
        if MULTIPROC in os.environ:
            from prometheus_client import multiprocess

            registry = prometheus.CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return prometheus.generate_latest(registry), prometheus.CONTENT_TYPE_LATEST

    def _model(self, name: str) -> str:
        known = canonical(name)
        return known if known in self._models else "other"


def worker_gone(process_id: int) -> None:
    """Takes the gauges of a worker that has ended out of the sum. For whoever starts the workers."""
    if MULTIPROC in os.environ:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(process_id)  # type: ignore[no-untyped-call]
