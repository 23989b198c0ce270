"""`migrate parity --requests FILE`: the user's own requests, from a file to what parity compares."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from migrate.engines.base import Conversation
from migrate.errors import BadInput
from migrate.ollama.names import ModelName
from migrate.parity.facts import BundleFacts
from migrate.parity.report import Traffic
from migrate.parity.traffic.conversations import Model, Unusable, asked
from migrate.parity.traffic.logs import Limits, Line, Source
from migrate.parity.traffic.redact import Redactor
from migrate.parity.traffic.requests import Entry, Request, UnknownRequest, entry, same_model
from migrate.parity.traffic.select import distinct, sample

SHOWN_LINES = 10
SHOWN_REASONS = 12


@dataclass(frozen=True, slots=True)
class Batch:
    """What a file holds.

    `requests` are compared: distinct conversations (or texts, for an embedding model), sampled, in the order of the
    file, each with its `count`. `seen` is all that was asked of this model, unusable requests too, equal bodies put
    together: what clients send, for `clients`. `traffic` is the report's part.
    """

    requests: tuple[Request, ...]
    seen: tuple[Request, ...]
    traffic: Traffic

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return tuple(request.conversation for request in self.requests if request.conversation is not None)

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of embedding requests, each once."""
        return tuple(dict.fromkeys(text for request in self.requests for text in request.texts))


def read_requests(
    path: Path,
    *,
    facts: BundleFacts | None = None,
    model: str | None = None,
    embedding: bool = False,
    sample_size: int | None = None,
    seed: int = 1,
    redactor: Redactor | None = None,
    limits: Limits | None = None,
) -> Batch:
    """Requests as clients send them, one JSON object a line, or a directory of Ollama's request logs (`logs`).

    A line is the body of a request to Ollama's API or to its OpenAI routes (the endpoint is told from its fields), or
    an object with `path`, `endpoint` or `url` and `body` or `request`; `migrate parity record` writes the latter.
    `model` leaves out requests for other models (default: the one of `facts`); a body without a model is taken for one
    to it.
    With a `redactor` personal data and secrets are replaced before anything else looks at a request. `sample_size`
    takes so many of the distinct requests (`select.sample`).

    Broken lines and requests that cannot be compared are counted and told in `traffic.notes`. Raises NotFound, and
    BadInput when no line is a request or none of them can be compared.
    """
    wanted = model if model is not None else facts.source.name if facts is not None else None
    reader = _Reader(wanted, Model.of(facts) if facts else Model(), embedding, redactor)
    source = Source(path, limits or Limits())
    for line in source:
        reader.take(line, source.place)
    reader.check(path)
    usable = [request for request in reader.seen.values() if not request.unusable]
    found = distinct(usable)
    used = sample(found, sample_size, seed=seed) if sample_size is not None else found
    traffic = Traffic(
        origin=path.name or str(path),
        read=reader.read,
        duplicates=sum(request.count for request in usable) - len(found),
        unusable=reader.read - sum(request.count for request in usable),
        used=len(used),
        redacted=redactor is not None,
        seed=seed if len(used) < len(found) else None,
        notes=[*([source.cut] if source.cut else []), *_sampling(used, found), *reader.notes(used, source.place)],
    )
    if not found:
        raise BadInput(
            f"{path}: none of its {reader.read} requests can be compared",
            hint="; ".join(traffic.notes[:3]) or None,
        )
    return Batch(tuple(used), tuple(reader.seen.values()), traffic)


class _Reader:
    """Takes line after line. `seen` are the requests by endpoint and body, `others` counts those to other models by
    name, `broken` has the numbers of lines by reason."""

    def __init__(self, wanted: str | None, model: Model, embedding: bool, redactor: Redactor | None) -> None:
        self.wanted = wanted
        self.model = model
        self.embedding = embedding
        self.redactor = redactor
        self.read = 0
        self.seen: dict[tuple[bytes, bool], Request] = {}
        self.others: Counter[str] = Counter()
        self.broken: dict[str, list[int]] = {}
        self.guessed: Counter[str] = Counter()

    def take(self, line: Line, place: str) -> None:
        self.read += 1
        try:
            found = entry(_json(line.data), endpoint=line.endpoint, embedding=self.embedding)
            name = found.body.get("model")
            if isinstance(name, str) and name and self.wanted is not None and not same_model(name, self.wanted):
                self.others[name if ModelName.valid(name) else "with a name that is none"] += 1
                return
            if self.redactor is not None:
                found = _redacted(found, self.redactor)
            request = self._request(found, line.number, f"{place} {line.number}")
        except UnknownRequest as error:
            reason = self.redactor.text(str(error)) if self.redactor is not None else str(error)
            self.broken.setdefault(reason, []).append(line.number)
            return
        self.guessed[found.endpoint] += found.guessed
        # a body that was answered once and refused once is kept both ways
        key = request.body_key, bool(request.unusable)
        known = self.seen.get(key)
        self.seen[key] = request if known is None else replace(known, count=known.count + 1)

    def _request(self, found: Entry, number: int, place: str) -> Request:
        named = found.body.get("model")
        name = named if isinstance(named, str) else ""
        request = Request(found.endpoint, found.body, name, number, place, status=found.status, answer=found.answer)
        if found.status is not None and 400 <= found.status < 500 and found.status not in _NOT_ITS_FAULT:
            return replace(request, unusable=f"Ollama answered it with {found.status}")
        try:
            what = asked(found, place, self.model)
        except Unusable as reason:
            return replace(request, unusable=str(reason))
        if self.embedding and what.conversation is not None:
            return replace(request, unusable="a chat with an embedding model")
        if self.wanted is not None and not self.embedding and what.conversation is None:
            return replace(request, unusable="asks a chat model for embeddings")
        return replace(request, conversation=what.conversation, texts=what.texts, notes=tuple(what.notes))

    def check(self, path: Path) -> None:
        """Raises BadInput when there is no request at all."""
        if self.seen or self.others:
            return
        if not self.read:
            raise BadInput(f"{path}: it is empty", hint="record requests with `migrate parity record`")
        reason, lines = next(iter(self.broken.items()))
        raise BadInput(
            f"{path}: none of its {self.read} lines is a request; line {lines[0]}: {reason}",
            hint='one JSON object a line: a body as clients send it, or {"path": ..., "body": ...}; '
            "`jq -c '.[]'` makes lines of an array",
        )

    def notes(self, used: Iterable[Request], place: str) -> list[str]:
        """What was left out and why, the most frequent reason first, and what of the others is not compared."""
        reasons = Counter({f"for another model ({name})": count for name, count in self.others.items()})
        for request in self.seen.values():
            if request.unusable:
                reasons[request.unusable] += request.count
        told = [f"{_times(count)}: {reason}" for reason, count in reasons.most_common(SHOWN_REASONS)]
        if rest := sum(reasons.values()) - sum(count for _, count in reasons.most_common(SHOWN_REASONS)):
            told.append(f"{_times(rest)} for other reasons")
        if len(self.broken) > SHOWN_REASONS:
            told.append(f"{len(self.broken) - SHOWN_REASONS} more kinds of lines that are no requests")
        for reason, lines in list(self.broken.items())[:SHOWN_REASONS]:
            more = f" and {len(lines) - SHOWN_LINES} more" if len(lines) > SHOWN_LINES else ""
            plural = "s" if len(lines) > 1 else ""
            told.append(f"{place}{plural} {', '.join(map(str, lines[:SHOWN_LINES]))}{more} left out: {reason}")
        kept: Counter[str] = Counter(note for request in used for note in request.notes)
        told += [f"in {_times(count, '')}: {note}" for note, count in kept.most_common()]
        for endpoint, count in self.guessed.most_common():
            if count:
                told.append(f"{count} bodies fit more than one endpoint and were taken for {endpoint}")
        return told


_NOT_ITS_FAULT = frozenset({408, 429, 499})
"""Statuses that say something of the server's day, not of the request."""


def _times(count: int, left_out: str = " left out") -> str:
    return f"{count} request{'' if count == 1 else 's'}{left_out}"


def _sampling(used: list[Request], found: list[Request]) -> list[str]:
    if len(used) == len(found):
        return []
    covered = sum(request.count for request in used)
    of = sum(request.count for request in found)
    return [
        f"a sample of {len(used)} of {len(found)} distinct requests, stratified by endpoint, tools, turns and length; "
        f"they stand for {covered} of {of} requests word for word"
    ]


def _json(data: bytes | None) -> Any:
    if data is None:
        raise UnknownRequest("it is too long")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise UnknownRequest("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise UnknownRequest("it is not JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _redacted(found: Entry, redactor: Redactor) -> Entry:
    answer: Mapping[str, Any] | None = redactor.value(dict(found.answer)) if found.answer is not None else None
    return replace(found, body=redactor.body(found.body), answer=answer)
