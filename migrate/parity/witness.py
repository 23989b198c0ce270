"""An engine that is asked through a witness: answers are written down as they come, hiccups are counted.

What was written down is not asked again, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from migrate.engines.base import (
    Ask,
    Candidate,
    Capabilities,
    Conversation,
    Engine,
    Generation,
    Kind,
    Prompt,
    TokenLogprob,
)
from migrate.errors import BadInput, ServerError, ServerUnreachable
from migrate.parity.case import is_refusal

T = TypeVar("T")

SCHEMA = 1
MAX_LINE = 16 << 20


class Journal:
    """Questions and answers of one run, a JSON line each.

    The first line says what run it is (`identity`); a journal of another run is not read. Lines that were cut off when
    a run was interrupted are dropped. Several threads may write.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], known: dict[str, list[Any]] | None = None) -> None:
        self.path = path
        self.identity = identity
        self.known = known or {}
        self.loaded = sum(len(answers) for answers in self.known.values())
        self._used: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._closed = False

    @classmethod
    def resume(cls, path: Path, identity: dict[str, Any]) -> Journal:
        """Raises BadInput when the journal at `path` is of another run."""
        found, known = read(path)
        different = sorted(key for key in identity if found.get(key) != identity[key])
        if different:
            raise BadInput(
                f"{path} is of another run: {', '.join(different)} differ",
                hint="start anew without --resume, or give the options of that run",
            )
        return cls(path, identity, known)

    def answer(self, key: str) -> Any:
        """The next answer that is known to this question; None when it has to be asked."""
        with self._lock:
            answers, used = self.known.get(key, []), self._used[key]
            if used >= len(answers):
                return None
            self._used[key] += 1
            return answers[used]

    def add(self, key: str, answer: Any) -> None:
        with self._lock:
            self._used[key] += 1
            file = self._open() if self.path is not None and not self._closed else None
            self.known.setdefault(key, []).append(answer)
            if file is not None:
                file.write(json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n")
                file.flush()

    def close(self, *, remove: bool = False) -> None:
        with self._lock:  # an answer that comes later (the run was broken off) is not written
            self._closed = True
            if self._file is not None:
                self._file.close()
                self._file = None
        if remove and self.path is not None:
            self.path.unlink(missing_ok=True)

    def _open(self) -> TextIO:
        """The file, begun anew with what is known already, so that a line cut off before does not stay."""
        if self._file is not None:
            return self._file
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            part.chmod(0o600)
            file.write(json.dumps({"schema": SCHEMA, **self.identity}) + "\n")
            for key, answers in self.known.items():
                for answer in answers:
                    file.write(json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n")
        part.replace(self.path)
        self._file = self.path.open("a", encoding="utf-8")
        return self._file


def read(path: Path) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(identity, key -> answers) of a journal. Raises BadInput."""
    known: dict[str, list[Any]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8") as file:
            identity = json.loads(file.readline(MAX_LINE))
            if not isinstance(identity, dict) or identity.get("schema") != SCHEMA:
                raise BadInput(f"{path} is no journal of a parity run")
            while line := file.readline(MAX_LINE):
                try:
                    row = json.loads(line)
                    known[row["key"]].append(row["answer"])
                except (ValueError, KeyError, TypeError):
                    continue
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: cannot be read as a journal: {error}") from None
    return identity, dict(known)


class Witness:
    """Stands before `engine`: repeats what failed for a moment, and keeps every answer in `journal`.

    `pauses` (s) are the waits before a question is asked again. A server that restarts needs longer: then the run ends,
    and can be resumed.
    `hiccups` tells of each failure that a repetition mended; `asked` counts the questions that went to the server.
    """

    def __init__(
        self,
        engine: Engine,
        side: str,
        journal: Journal,
        *,
        pauses: Sequence[float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.engine, self.side, self.journal = engine, side, journal
        self.kind: Kind = engine.kind
        self.hiccups: list[str] = []
        self.asked = 0
        self._pauses, self._sleep = pauses, sleep

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    @property
    def name(self) -> str:
        return self.engine.name

    def context_length(self) -> int | None:
        return self.engine.context_length()

    def render(self, conversation: Conversation) -> str:
        return str(self._do("render", [_plain(conversation)], lambda: self.engine.render(conversation), str, str))

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        return self._do("tokenize", [_plain(prompt)], lambda: self.engine.tokenize(prompt), list, tuple)

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        def ask() -> Generation:
            return self.engine.generate(prompt, max_tokens=max_tokens, top_logprobs=top_logprobs, stop=stop)

        question = [_plain(prompt), max_tokens, top_logprobs, list(stop)]
        return self._do("generate", question, ask, _dump, _load)

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        return self._do(
            "score",
            [list(prompt), list(continuation), top],
            lambda: self.engine.score(prompt, continuation, top=top),
            lambda positions: [_dump_position(p) for p in positions],
            lambda rows: tuple(_load_position(row) for row in rows),
        )

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        question = [_plain(prompt), dataclasses.asdict(ask)]
        return self._do("chat", question, lambda: self.engine.chat(prompt, ask), _dump, _load)

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        return self._do(
            "embed",
            list(texts),
            lambda: self.engine.embed(texts),
            lambda vectors: [list(v) for v in vectors],
            lambda rows: tuple(tuple(row) for row in rows),
        )

    def close(self) -> None:
        self.engine.close()

    def _do(
        self, method: str, question: Any, ask: Callable[[], T], dump: Callable[[T], Any], load: Callable[[Any], T]
    ) -> T:
        key = _key(self.side, method, question)
        known = self.journal.answer(key)
        if known is not None:
            if "refused" in known:
                raise ServerError(known["refused"], status=known["status"])
            return load(known["said"])
        try:
            answer = self._patiently(method, ask)
        except ServerError as error:
            if is_refusal(error):  # what may be mended (401, 404, 429) is asked again by a resumed run
                self.journal.add(key, {"refused": str(error), "status": error.status})
            raise
        self.journal.add(key, {"said": dump(answer)})
        return answer

    def _patiently(self, method: str, ask: Callable[[], T]) -> T:
        """Asks again after a moment where that may help. Raises the last error."""
        for pause in (*self._pauses, None):
            self.asked += 1
            try:
                return ask()
            except (ServerUnreachable, ServerError) as error:
                final = isinstance(error, ServerError) and error.status not in (200, 500, 502, 503, 504)
                if final or pause is None or "did not answer" in str(error):
                    raise
                self.hiccups.append(f"{error} (asked again)")
                self._sleep(pause)
        raise AssertionError("unreachable")


def describe(engine: Engine) -> dict[str, Any]:
    """By what a journal knows a side again. Raises EngineError."""
    return {"kind": engine.kind, "name": engine.name}


def _key(side: str, method: str, question: Any) -> str:
    text = json.dumps([side, method, question], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _plain(prompt: Prompt) -> Any:
    """A prompt without the name it has in reports."""
    if isinstance(prompt, Conversation):
        return {
            "messages": [dict(m) for m in prompt.messages],
            "tools": [dict(t) for t in prompt.tools],
            "continue_final": prompt.continue_final,
            "think": prompt.think,
        }
    return prompt if isinstance(prompt, str) else list(prompt)


def _dump(answer: Generation) -> dict[str, Any]:
    row = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
    return row | {
        "tokens": [_dump_position(position) for position in answer.tokens],
        "tool_calls": [dict(call) for call in answer.tool_calls],
    }


def _load(row: dict[str, Any]) -> Generation:
    return Generation(
        **row
        | {
            "tokens": tuple(_load_position(position) for position in row["tokens"]),
            "tool_calls": tuple(row["tool_calls"]),
            "prompt_ids": tuple(row["prompt_ids"]) if row["prompt_ids"] is not None else None,
        }
    )


def _dump_position(position: TokenLogprob) -> list[Any]:
    top = [[c.id, c.text.hex(), c.logprob] for c in position.top]
    return [position.id, position.text.hex(), position.logprob, top]


def _load_position(row: list[Any]) -> TokenLogprob:
    top = tuple(Candidate(i, bytes.fromhex(text), logprob) for i, text, logprob in row[3])
    return TokenLogprob(row[0], bytes.fromhex(row[1]), row[2], top)
