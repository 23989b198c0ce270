"""What is known of each conversation while a parity run goes through its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from migrate.engines.base import MAX_TOP_LOGPROBS, Ask, Conversation, Engine, Generation, Prompt
from migrate.errors import BadInput, ServerError, TemplateError
from migrate.parity.facts import Bundle
from migrate.parity.report import Evidence, SamplePlan
from migrate.parity.vocabulary import Vocabulary

if TYPE_CHECKING:
    from migrate.parity.tasks import Task

Item = TypeVar("Item")
Result = TypeVar("Result")


class Settings(BaseModel):
    """What is asked and what it is held to; how the limits were found is told in `logprobs`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = 48
    top: int = MAX_TOP_LOGPROBS
    min_top1_agreement: float = 0.95
    max_mean_kl: float = 0.005
    tie_margin: float = 0.3
    """Two candidates whose log-probabilities are closer than this (nats) on both sides may swap places."""
    confidence: float = 0.95
    """One-sided, for the upper bound of the mean divergence."""
    concurrency: int = Field(default=1, ge=1, le=256)
    """Requests at a time to each server. The noise floor is measured with as many."""
    noise_cases: int = Field(default=8, ge=1)
    samples: int = Field(default=0, ge=0)
    """Sampled answers per conversation and side; 0: the sampled layer is not run."""
    sampled_cases: int = Field(default=8, ge=1)
    seed: int = 1
    margin: float = Field(default=0.02, gt=0, lt=1)
    """The largest loss of accuracy on the tasks, as a share of all items, that counts as no worse."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    power: float = Field(default=0.8, gt=0, lt=1)
    discordance: float = Field(default=0.1, gt=0, lt=1)
    min_cosine: float = 0.999
    """For embedding models: of the two vectors of one text."""
    min_compared: int = Field(default=5, ge=1)
    """Answers below which nothing is called a pass: an error clustered by answer cannot be estimated from fewer."""
    task_tokens: int = Field(default=256, ge=1)
    retry_pauses_s: tuple[float, ...] = (0.5, 4.0)
    """Waits before a question that failed is asked again. Whatever failed once makes the run inconclusive."""


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
    target_answer: Generation | None = None
    unstable: str = ""
    """Which side does not give this conversation the same answer twice."""
    excluded: str = ""
    """Why this conversation is not compared (any further)."""

    @property
    def name(self) -> str:
        return self.conversation.name

    @property
    def is_prefill(self) -> bool:
        return self.conversation.is_prefill


def _no_renderer(conversation: Conversation) -> str:
    raise BadInput(f"nothing renders «{conversation.name}» yet")


@dataclass(slots=True)
class Run:
    """A run in progress: both engines, the bundle, the settings and the cases."""

    bundle: Bundle
    source: Engine
    target: Engine
    vocabulary: Vocabulary
    settings: Settings
    cases: list[Case] = field(default_factory=list)
    reference: Engine | None = None
    """A server on the weights both sides were made from, at full precision."""
    tasks: tuple[Task, ...] = ()
    texts: tuple[str, ...] = ()
    """What an embedding model is asked; empty for the built-in ones."""
    evidence: Evidence = field(default_factory=Evidence)
    plan: list[SamplePlan] = field(default_factory=list)
    render_source: Callable[[Conversation], str] = field(default=_no_renderer)
    """What the source makes of a conversation (`prompts.source_renderer`)."""
    step: Callable[[int, int], None] = lambda done, total: None
    """Told (done, total) after each answer of a layer."""
    noise_kl: float = 0.0
    """Mean divergence of a server from itself (nats), the larger of the two sides."""

    @property
    def expects_difference(self) -> bool:
        """The bundle serves the original of quantized weights: source and target are meant to differ."""
        facts = self.bundle.facts
        return facts.original is not None and facts.source.quantization.upper() not in ("", "F32", "F16", "BF16")

    @property
    def open_cases(self) -> list[Case]:
        return [case for case in self.cases if not case.excluded]

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of every item, `concurrency` at a time, in the order of `items`. The first error ends it."""
        return self.at_once(function, items, self.settings.concurrency)

    def at_once(self, function: Callable[[Item], Result], items: Sequence[Item], concurrency: int) -> list[Result]:
        """The same with another number of them at a time."""
        if concurrency == 1 or len(items) < 2:
            return list(self._counted((function(item) for item in items), len(items)))
        pool = ThreadPoolExecutor(concurrency)
        try:
            futures = [pool.submit(function, item) for item in items]
            return list(self._counted((future.result() for future in futures), len(items)))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for a slow server

    def _counted(self, results: Iterable[Result], total: int) -> Iterator[Result]:
        for done, result in enumerate(results, start=1):
            self.step(done, total)
            yield result

    def source_prompt(self, case: Case) -> Prompt:
        """How the source is asked: with its own token ids where it takes them, else through chat."""
        if self.source.capabilities.token_ids and case.source_ids:
            return case.source_ids
        return case.conversation

    @property
    def source_stop(self) -> tuple[str, ...]:
        """Stop strings that have to be sent along: llama.cpp does not know the Modelfile."""
        return self.bundle.facts.source.stop if self.source.kind == "llama.cpp" else ()

    def prepare(self, conversation: Conversation) -> Case | None:
        """A case for a conversation that came up later; None when the source refuses it. Raises EngineError."""
        case = Case(conversation, conversation)
        if self.source.capabilities.token_ids:
            try:
                text = self.render_source(conversation)
                case.source_ids = self.source.tokenize(conversation if self.source.kind == "vllm" else text)
            except (ServerError, TemplateError, BadInput) as error:
                if isinstance(error, ServerError) and not is_refusal(error):
                    raise
                return None
        return case

    def ask_source(self, case: Case, ask: Ask) -> Generation:
        """A request to the source as a client of the model makes it. Raises EngineError."""
        if self.source.kind == "llama.cpp":
            stop = self.source_stop if ask.stop is None else ask.stop
            own = {} if ask.greedy else self.bundle.facts.source.sampling
            ask = replace(ask, stop=stop, sampling={**own, **(ask.sampling or {})})
            return self.source.chat(self.source_prompt(case), ask)
        return self.source.chat(case.conversation, ask)

    def source_answer(self, case: Case) -> Generation | None:
        """The source's greedy answer, asked once: from its own token ids where it tells them, else through chat.

        None, and the case is excluded, when the source refuses this conversation. Raises EngineError.
        """
        if case.source_answer is None and not case.excluded:
            try:
                case.source_answer = self.source.generate(
                    self.source_prompt(case),
                    max_tokens=self.settings.max_tokens,
                    top_logprobs=self.settings.top,
                    stop=self.source_stop,
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
