"""What is known of each conversation while a parity run goes through its layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from migrate.engines.base import MAX_TOP_LOGPROBS, Conversation, Engine, Generation, Prompt
from migrate.errors import ServerError
from migrate.parity.facts import Bundle
from migrate.parity.vocabulary import Vocabulary


class Settings(BaseModel):
    """What is asked and what it is held to; how the limits were found is told in `logprobs`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = 48
    top: int = MAX_TOP_LOGPROBS
    min_top1_agreement: float = 0.95
    max_mean_kl: float = 0.005
    tie_margin: float = 0.3
    """Two candidates whose log-probabilities are closer than this (nats) on both sides may swap places."""


def is_refusal(error: ServerError) -> bool:
    """The server is well and understood, but does not take this one request (template error, too long, no tools)."""
    return error.status in (400, 413, 422)


@dataclass(slots=True)
class Case:
    """One conversation. `target_conversation` is how the target has to be asked (see `Conversation.continue_final`)."""

    conversation: Conversation
    target_conversation: Conversation
    source_text: str | None = None
    source_ids: tuple[int, ...] | None = None
    target_ids: tuple[int, ...] | None = None
    source_answer: Generation | None = None
    excluded: str = ""
    """Why this conversation is not compared (any further)."""

    @property
    def name(self) -> str:
        return self.conversation.name


@dataclass(slots=True)
class Run:
    """A run in progress: both engines, the bundle, the settings and the cases."""

    bundle: Bundle
    source: Engine
    target: Engine
    vocabulary: Vocabulary
    settings: Settings
    cases: list[Case] = field(default_factory=list)

    @property
    def open_cases(self) -> list[Case]:
        return [case for case in self.cases if not case.excluded]

    def source_answer(self, case: Case) -> Generation | None:
        """The source's greedy answer, asked once: from its own token ids where it tells them, else through chat.

        None, and the case is excluded, when the source refuses this conversation. Raises EngineError.
        """
        if case.source_answer is None and not case.excluded:
            from_ids = self.source.capabilities.token_ids and case.source_ids is not None
            prompt: Prompt = case.source_ids if from_ids and case.source_ids else case.conversation
            stop = self.bundle.facts.source.stop if self.source.kind == "llama.cpp" else ()
            try:
                case.source_answer = self.source.generate(
                    prompt, max_tokens=self.settings.max_tokens, top_logprobs=self.settings.top, stop=stop
                )
            except ServerError as error:
                if not is_refusal(error):
                    raise
                case.excluded = f"the source refuses it: {error}"
        return case.source_answer

    def answer_ids(self, answer: Generation) -> tuple[int, ...] | None:
        """Ids of an answer's tokens without a closing special token; None where bytes do not name one token."""
        ids = [t.id if t.id is not None else self.vocabulary.id_of(t.text) for t in answer.tokens]
        while ids and ids[-1] in self.vocabulary.special:
            ids.pop()
        known = tuple(i for i in ids if i is not None)
        return known if len(known) == len(ids) else None
