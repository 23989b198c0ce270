"""The same requests for both sides: which prompts, how long, and how each server is asked for them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.engines.base import Conversation, Engine, Kind, to_openai
from migrate.errors import BadInput, UsageError
from migrate.parity.throughput.plan import Plan, Point

if TYPE_CHECKING:
    from tokenizers import Tokenizer


QUESTIONS = (
    "How do I {}, and what should I look out for?",
    "Explain to a beginner how to {}.",
    "Write a short plan in five steps: I want to {}.",
    "What are the three most common mistakes of people who {}?",
    "A customer asks how to {}. Write the answer.",
    "Compare two ways to {} and say which one you would take.",
    "Write a friendly message to a colleague who has to {} today.",
    "I tried to {} and it did not work. What do you need to know from me?",
)
TOPICS = (
    "return a parcel that arrived broken",
    "move a small web shop to another host",
    "cook rice for twenty people",
    "repair a flat bicycle tyre",
    "learn the names of the stars in winter",
    "write a letter of application",
    "plan a week in Lisbon by train",
    "keep tomatoes alive on a balcony",
    "back up a laptop every night",
    "teach a child to swim",
    "read a balance sheet",
    "insulate an old wooden door",
    "sort ten thousand photographs",
    "choose a dentist in a new town",
    "prepare a talk of ten minutes",
    "find out why a server answers slowly",
)
# fmt: off
WORDS = (
    "river", "stone", "garden", "window", "morning", "letter", "village", "market", "bridge", "summer", "paper",
    "kitchen", "winter", "station", "forest", "teacher", "music", "harbour", "question", "answer", "colour", "number",
    "picture", "mountain", "evening", "doctor", "journey", "country", "machine", "silver", "orange", "yellow",
    "green", "quiet", "early", "simple", "narrow", "heavy", "gentle", "open", "close", "carry", "follow", "listen",
    "travel", "build", "remember", "measure", "gather", "between", "under", "across", "around", "before", "after",
    "always", "never", "often", "slowly", "quickly", "together",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request of the workload. `ids`: its token ids as the target's server makes them, with BOS."""

    conversation: Conversation
    ids: tuple[int, ...]


@dataclass(slots=True)
class Workload:
    """Prompts for every run, the same for both sides, other ones for each load and repeat as long as they last."""

    plan: Plan
    output_tokens: int
    fixed_length: bool
    """Answers are exactly `output_tokens` long: both servers take `ignore_eos`."""
    target: Engine
    tokenizer: Tokenizer
    context: int
    conversations: tuple[Conversation, ...] = ()
    """The user's; empty for the built-in or synthetic ones."""
    too_long: int = 0
    _ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def prompts(self, point: Point, repeat: int, count: int) -> list[Prompt]:
        """`count` prompts for one load and repeat. Raises UsageError when none fits the context, EngineError."""
        made: list[Prompt] = []
        misses = 0
        for conversation in self._stream(point, repeat):
            ids = self._tokenize(conversation)
            if len(ids) + self.output_tokens <= self.context:
                made.append(Prompt(conversation, ids))
                misses = 0
            else:
                misses += 1
                self.too_long += 1
            if len(made) == count:
                return made
            if misses > max(100, len(self.conversations)):
                break
        raise UsageError(
            f"no prompt leaves room for {self.output_tokens} tokens in the target's context of {self.context}",
            hint="ask for fewer --output-tokens or --prompt-tokens, or serve with a larger --max-model-len",
        )

    def describe(self) -> str:
        """In words, for the report."""
        plan = self.plan
        if self.conversations:
            prompts = f"{len(self.conversations)} conversations of the user, repeated as needed"
        elif plan.prompt_tokens:
            prompts = f"synthetic prompts of {plan.prompt_tokens} tokens, every one another"
        else:
            prompts = "built-in questions, every one another"
        exactly = "exactly" if self.fixed_length else "at most"
        points = (
            f"{point} ({'closed loop' if point.concurrency else 'Poisson'}, {plan.requests_at(point)} requests after "
            f"{plan.warmup_at(point)} discarded ones)"
            for point in plan.points
        )
        return (
            f"{prompts}; answers of {exactly} {self.output_tokens} tokens, greedy, streamed; {plan.repeats} runs for "
            f"each side and load: {'; '.join(points)}"
        )

    def _stream(self, point: Point, repeat: int) -> Iterator[Conversation]:
        chance = random.Random(f"{self.plan.seed} {point} {repeat}")
        if self.conversations:
            order = chance.sample(self.conversations, len(self.conversations))
            yield from itertools.cycle(order)
        while True:
            yield self._synthetic(chance) if self.plan.prompt_tokens else _question(chance)

    def _synthetic(self, chance: random.Random) -> Conversation:
        """A user message that makes the whole prompt, template and all, `prompt_tokens` long, give or take a token."""
        assert self.plan.prompt_tokens is not None
        wanted = self.plan.prompt_tokens - self._overhead()
        if wanted < 1:
            raise UsageError(
                f"--prompt-tokens {self.plan.prompt_tokens}: the model's own template and system prompt already take "
                f"{self._overhead()} tokens",
                hint="the length counts the whole prompt, as the server sees it",
            )
        text = " ".join(chance.choices(WORDS, k=wanted))
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        end = offsets[min(wanted, len(offsets)) - 1][1]
        return Conversation("synthetic", ({"role": "user", "content": text[:end]},))

    def _overhead(self) -> int:
        """Tokens of the prompt with next to nothing in it."""
        return len(self._tokenize(Conversation("one word", ({"role": "user", "content": "a"},)))) - 1

    def _tokenize(self, conversation: Conversation) -> tuple[int, ...]:
        key = repr((conversation.messages, conversation.tools))
        if key not in self._ids:
            self._ids[key] = self.target.tokenize(conversation)
        return self._ids[key]


def _question(chance: random.Random) -> Conversation:
    number = chance.randrange(10_000, 100_000)
    text = f"Request {number}. " + chance.choice(QUESTIONS).format(chance.choice(TOPICS))
    return Conversation("question", ({"role": "user", "content": text},))


def usable(conversations: Sequence[Conversation]) -> tuple[Conversation, ...]:
    """Those that end with a question to answer; a begun answer has no common form on the chat endpoints."""
    return tuple(c for c in conversations if c.messages and not c.is_prefill)


def read_tokenizer(model: Path) -> Tokenizer:
    """The bundle's tokenizer, which counts the tokens of both sides. Raises BadInput."""
    from tokenizers import Tokenizer

    path = model / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise BadInput(f"{path}: not a tokenizer.json: {error}", hint="convert the model again") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def body(kind: Kind, model: str, prompt: Prompt, *, output_tokens: int, fixed_length: bool) -> dict[str, Any]:
    """A request as one kind of server takes it: greedy, streamed, with the usage at the end.

    Ollama knows only `max_tokens` and neither `ignore_eos` nor `min_tokens` (vllm.md section 8.2). llama.cpp's chat
    endpoint would render the GGUF's own template, which is not the Modelfile's, so it gets the target's token ids.
    vLLM shows special tokens when answers go on behind them, so that they can be counted; an empty `stop` keeps the
    bundle's default stop strings from ending such an answer.
    """
    common: dict[str, Any] = {
        "model": model,
        "max_tokens": output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if kind == "llama.cpp":
        return common | {"prompt": list(prompt.ids), "ignore_eos": fixed_length}
    chat: Mapping[str, Any] = {"messages": to_openai(prompt.conversation.messages)}
    if prompt.conversation.tools:
        chat = {**chat, "tools": [dict(tool) for tool in prompt.conversation.tools], "tool_choice": "none"}
    if kind == "vllm" and fixed_length:
        chat = {**chat, "ignore_eos": True, "skip_special_tokens": False, "stop": []}
    return common | dict(chat)
