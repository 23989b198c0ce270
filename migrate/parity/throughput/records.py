"""What a load generator is given, and what it tells of each request: the form both adapters share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from migrate.parity.throughput.plan import Point

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_FILE_BYTES = 1 << 30
"""Of one export of a load generator."""
MAX_ERROR = 300
ONE_PIECE_MS = 0.02
"""A mean time between tokens below this is none: they were read from one piece of the stream."""

Route = Literal["chat/completions", "completions"]
Watch = Callable[[int], None]
"""Called every so often with the number of requests done so far, discarded ones included."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a load generator against one server.

    `bodies` are complete requests in the order they are sent, the `warmup` first. `api_key` reaches the generator
    through its environment, never its command line.
    """

    url: str
    model: str
    route: Route
    bodies: Sequence[Mapping[str, Any]]
    warmup: int
    point: Point
    seconds: float
    request_timeout: float
    seed: int
    output_tokens: int
    tokenizer: Path
    api_key: str | None = None

    @property
    def requests(self) -> int:
        """Measured ones."""
        return len(self.bodies) - self.warmup

    @property
    def deadline(self) -> float:
        """Seconds after which the generator itself is ended: its own limits, and a minute to start and finish."""
        return 2 * (self.seconds + self.request_timeout) + 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One measured request. Times in milliseconds, `start` in seconds on the generator's clock.

    `text` is None where the generator did not keep it; `reported_tokens` is the server's own count. `cut_off`: it was
    still under way when the run's time was over.
    """

    start: float
    e2e_ms: float = 0.0
    ttft_ms: float | None = None
    text: str | None = None
    reported_tokens: int | None = None
    input_tokens: int | None = None
    error: str = ""
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run gave. `error` says why it ended early; the answers until then are there all the same."""

    answers: tuple[Answer, ...]
    error: str = ""


class Tool(Protocol):
    """A load generator."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def run(self, job: Job, directory: Path, watch: Watch) -> Outcome:
        """Sends the job's requests; `directory` is empty and its own. Raises NotFound, EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One measured and answered request, its tokens counted by the bundle's tokenizer (`output_tokens`)."""

    start: float
    e2e_ms: float
    ttft_ms: float
    output_tokens: int
    reported_tokens: int | None = None
    input_tokens: int | None = None

    @property
    def in_one_piece(self) -> bool:
        """All tokens came at once: the server, or what lies between, was too busy to stream."""
        return self.output_tokens > 1 and self.e2e_ms - self.ttft_ms < ONE_PIECE_MS * (self.output_tokens - 1)

    @property
    def itl_ms(self) -> float | None:
        """Mean time between two tokens; None where there is no such time: one token, or all at once."""
        if self.output_tokens < 2 or self.in_one_piece:
            return None
        return (self.e2e_ms - self.ttft_ms) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: its answered requests, what went wrong, and the GPU meanwhile."""

    requests: tuple[Request, ...]
    offered: int
    errors: int = 0
    cut_off: int = 0
    first_error: str = ""
    gpu_utilization: float | None = None
    gpu_memory_gb: float | None = None

    @property
    def seconds(self) -> float:
        """From the first request sent to the last answer's end."""
        if not self.requests:
            return 0.0
        return max(r.start + r.e2e_ms / 1000 for r in self.requests) - min(r.start for r in self.requests)


def measured(
    outcome: Outcome,
    tokenizer: Tokenizer,
    *,
    gpu_utilization: float | None = None,
    gpu_memory_gb: float | None = None,
) -> Measured:
    """Counts the tokens of a run's answers and tells errors from answers."""
    requests = []
    errors = [answer.error for answer in outcome.answers if answer.error]
    cut_off = sum(answer.cut_off and not answer.error for answer in outcome.answers)
    for answer in outcome.answers:
        if not answer.error and not answer.cut_off:
            requests.append(_request(answer, tokenizer))
    return Measured(
        requests=tuple(requests),
        offered=len(outcome.answers),
        errors=len(errors),
        cut_off=cut_off,
        first_error=errors[0][:MAX_ERROR] if errors else "",
        gpu_utilization=gpu_utilization,
        gpu_memory_gb=gpu_memory_gb,
    )


def _request(answer: Answer, tokenizer: Tokenizer) -> Request:
    if answer.text is None:
        tokens = answer.reported_tokens or 0
    else:
        tokens = len(tokenizer.encode(answer.text, add_special_tokens=False).ids)
    return Request(
        start=answer.start,
        e2e_ms=answer.e2e_ms,
        ttft_ms=answer.e2e_ms if answer.ttft_ms is None else answer.ttft_ms,
        output_tokens=tokens,
        reported_tokens=answer.reported_tokens,
        input_tokens=answer.input_tokens,
    )
