"""What is known of each conversation while a parity run goes through its layers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from migrate.engines.base import MAX_TOP_LOGPROBS, Ask, Conversation, Engine, Generation, Prompt, TokenLogprob
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


def is_too_long(error: ServerError) -> bool:
    """vLLM's 400 to what its context does not hold, where Ollama drops old messages: documented, and no failure
    (`behaviours` tells it; a context that is shorter than the bundle's is for `artefact`)."""
    return error.status == 400 and "maximum context length" in str(error)


TOO_LONG = "longer than the context: vLLM answers 400, where Ollama drops old messages"


def has_gaps(answer: Generation) -> bool:
    """Tokens of the answer are missing, nobody knows where: Ollama leaves those out that it is still reading when it
    takes reasoning apart by a Go template's tags. An end of sequence that is counted and not listed is no gap."""
    if not answer.thinking or answer.completion_tokens is None or answer.ids is not None:
        return False
    return answer.completion_tokens > len(answer.tokens) + (answer.finish_reason == "stop")


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


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item], count: int) -> Iterator[Result]:
    """In the order of `items`. The threads are daemons: an executor's are waited for when the process ends, and after
    Ctrl-C or an error nobody waits for a slow server."""
    futures: list[Future[Result]] = [Future() for _ in items]
    waiting, lock = iter(zip(futures, items, strict=True)), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                pair = next(waiting, None)
            if pair is None:
                return
            future, item = pair
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)

    for _ in range(min(count, len(items))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


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
        return list(self._counted(_in_threads(function, items, concurrency), len(items)))

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

    def ask_source_greedily(self, case: Case) -> Generation:
        """The source's greedy answer with its candidates. Raises EngineError."""
        return self.source.generate(
            self.source_prompt(case),
            max_tokens=self.settings.max_tokens,
            top_logprobs=self.settings.top,
            stop=self.source_stop,
        )

    def source_answer(self, case: Case) -> Generation | None:
        """The source's greedy answer, asked once: from its own token ids where it tells them, else through chat.

        None, and the case is excluded, when the source refuses this conversation. Raises EngineError.
        """
        if case.source_answer is None and not case.excluded:
            try:
                case.source_answer = self.ask_source_greedily(case)
            except ServerError as error:
                if not is_refusal(error):
                    raise
                case.excluded = f"the source refuses it: {error}"
        return case.source_answer

    def answer_ids(self, answer: Generation) -> tuple[tuple[int, ...], bool]:
        """(ids of an answer's tokens as far as they are known, without a closing special token; whether that is all).

        Not known is what stands behind bytes that do not name one token, or behind tokens that are missing: Ollama's
        while it takes reasoning apart, and those that only begin a character, of which it tells nothing.
        """
        if has_gaps(answer):
            return (), False
        known = self.known(answer.tokens)
        ids = [t.id if t.id is not None else self.vocabulary.id_of(t.text) for t in answer.tokens[:known]]
        while ids and ids[-1] in self.vocabulary.special and known == len(answer.tokens):
            ids.pop()
        return tuple(i for i in ids if i is not None), known == len(answer.tokens)

    def known(self, tokens: Sequence[TokenLogprob]) -> int:
        """How many of the tokens, from the first on, are known and without a gap before them."""
        return next((n for n, token in enumerate(tokens) if self._unknown(token)), len(tokens))

    def _unknown(self, token: TokenLogprob) -> bool:
        if token.id is None:
            return self.vocabulary.id_of(token.text) is None
        piece = self.vocabulary.pieces.get(token.id, b"")
        return 0 < len(piece) < len(token.text) and token.text.endswith(piece)
