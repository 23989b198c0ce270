"""Recorded load generators, and engines that only count tokens, for tests without servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from migrate.engines.base import Conversation, Kind
from migrate.errors import EngineError
from migrate.parity.throughput import aiperf
from migrate.parity.throughput.records import Answer, Job, Outcome, Request, Watch

DATA = Path(__file__).parent / "data"


def bundle(root: Path, shared: Path, **generation: Any) -> Path:
    """What throughput reads of a bundle."""
    (root / "model").mkdir(parents=True)
    shutil.copy(shared / "models" / "tinychat" / "hf" / "tokenizer.json", root / "model")
    (root / "model" / "generation_config.json").write_text(json.dumps(generation))
    (root / "migration.json").write_text(json.dumps({"source": {"name": "x", "prompt_path": "go_template"}}))
    return root


class Counter:
    """Counts the tokens of a prompt as a server with the bundle's tokenizer would: `overhead` for the template."""

    overhead = 7

    def __init__(self, tokenizer: Path, kind: Kind = "vllm", context: int | None = 1000) -> None:
        self.kind: Kind = kind
        self.url, self.model = f"http://127.0.0.1:1/{kind}", f"{kind}-model"
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._context = context
        self.asked = 0

    def context_length(self) -> int | None:
        return self._context

    def tokenize(self, conversation: Conversation) -> tuple[int, ...]:
        self.asked += 1
        text = " ".join(str(message["content"]) for message in conversation.messages)
        return (0,) * self.overhead + tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


class Replay:
    """A load generator that gives what aiperf recorded. From job `dies_at` on (counted from 0), the source is dead;
    job `breaks_at` cannot be run at all."""

    name = "aiperf 0.13.0 (recorded)"

    def __init__(self, *, dies_at: int | None = None, breaks_at: int | None = None) -> None:
        self.jobs: list[Job] = []
        self.dies_at, self.breaks_at = dies_at, breaks_at

    def run(self, job: Job, directory: Path, watch: Watch) -> Outcome:
        number = len(self.jobs)
        self.jobs.append(job)
        assert list(directory.iterdir()) == []
        if number == self.breaks_at:
            raise EngineError("the load generator broke")
        dead = self.dies_at is not None and number >= self.dies_at
        recorded = "aiperf-dead" if dead else "aiperf-vllm" if "vllm" in job.url else "aiperf-llamacpp"
        answers = aiperf.read_answers(DATA / recorded)
        watch(len(answers))
        return Outcome(answers)


def requests(times: Sequence[float], *, ttft: float = 10.0, tokens: int = 11, gap: float = 0.0) -> tuple[Request, ...]:
    """Requests one after the other, of so many milliseconds each."""
    found, start = [], 0.0
    for time in times:
        found.append(Request(start, time, ttft, tokens, tokens, 20))
        start += time / 1000 + gap
    return tuple(found)


def answer(**fields: Any) -> Answer:
    given: dict[str, Any] = {"start": 0.0, "e2e_ms": 100.0, "ttft_ms": 10.0, "text": "a b c"}
    return Answer(**(given | fields))
