"""What a probe is and what it can find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from migrate.engines.base import Ask, Conversation, Generation
from migrate.errors import ServerError
from migrate.parity.case import Case, Run, is_refusal

Result = Literal["same", "different", "told", "unknown"]
"""`told`: a difference that is documented, and no failure. `unknown`: could not be decided here, with the reason."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one probe found. `detail` is a sentence for people; the excerpts are shown side by side."""

    result: Result
    detail: str = ""
    source: str = ""
    target: str = ""


Probe = Callable[[Run], Found]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer with a status of 4xx."""

    status: int
    reason: str


def ask_source(run: Run, case: Case, ask: Ask) -> Generation | Refusal:
    """Raises EngineError for everything but a refusal."""
    try:
        return run.ask_source(case, ask)
    except ServerError as error:
        if not is_refusal(error):
            raise
        return Refusal(error.status, str(error))


def ask_target(run: Run, conversation: Conversation, ask: Ask) -> Generation | Refusal:
    """Raises EngineError for everything but a refusal."""
    try:
        return run.target.chat(conversation, ask)
    except ServerError as error:
        if not is_refusal(error):
            raise
        return Refusal(error.status, str(error))


def plain_cases(run: Run) -> list[Case]:
    """Conversations that both sides answer, without tools and not begun by the client."""
    return [
        case
        for case in run.open_cases
        if case.target_ids and case.source_answer is not None and not (case.conversation.tools or case.is_prefill)
    ]


def wordy(run: Run, least: int) -> Case | None:
    """One whose greedy answer on the source has at least so many tokens; the longest if there are several."""
    found = [case for case in plain_cases(run) if case.source_answer and len(case.source_answer.tokens) >= least]
    return max(found, key=lambda case: len(case.source_answer.tokens if case.source_answer else ()), default=None)


def shown(answer: Generation | Refusal) -> str:
    """An answer in a report."""
    if isinstance(answer, Refusal):
        return f"{answer.status}: {answer.reason[:200]}"
    return f"{answer.text[:200]!r} ({answer.finish_reason or 'no finish reason'})"
