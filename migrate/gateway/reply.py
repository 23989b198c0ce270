"""An answer on its way out, whatever the protocol: a status, a type, and bytes or pieces of bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outcome:
    """What became of a request, filled in as it is answered: for the log, the metrics and the automatic return.

    `failed`: the server behind was at fault. `first` is when the first piece went out, in seconds of
    `time.perf_counter`, 0 for an answer that is not streamed. `overhead`: seconds the gateway took before it asked.
    """

    model: str = ""
    upstream: str = ""
    status: int = 0
    failed: bool = False
    first: float = 0.0
    overhead: float = 0.0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Reply:
    """`body` as pieces is sent chunk by chunk as they come, each at once."""

    status: int
    content_type: str
    body: bytes | AsyncIterator[bytes]
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
