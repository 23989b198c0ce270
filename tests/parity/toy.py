"""A very small language model that runs here: an engine that answers without a server.

Its distributions depend on all tokens before through a seeded generator, so that two engines with one seed agree in
everything, and whatever is changed in one of them shows where it should.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from migrate.engines.base import Ask, Candidate, Capabilities, Conversation, Generation, Kind, Prompt, TokenLogprob
from migrate.errors import ServerError, ServerUnreachable

WORDS = ["yes", "no", "cat", "dog", " ", ".", "user:", "bot:", "\n", "hello", "two", "three"]
BOS, EOS = len(WORDS), len(WORDS) + 1
SIZE = EOS + 1


def tokenizer_json() -> dict[str, Any]:
    vocab = {word.replace(" ", "\u2581"): i for i, word in enumerate(WORDS)}
    special = [{"id": BOS, "content": "<s>", "special": True}, {"id": EOS, "content": "</s>", "special": True}]
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": special, "decoder": None, "pre_tokenizer": None}


def write_bundle(root: Path, **source: Any) -> Path:
    """A bundle of this model, without weights."""
    model = root / "model"
    model.mkdir(parents=True)
    facts = {"name": "toy", "prompt_path": "gguf_jinja", "template": None, "chat_template": "{{ messages }}"} | source
    (root / "migration.json").write_text(json.dumps({"schema_version": 1, "source": facts, "new": {"key": 1}}))
    (model / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS]}))
    return root


def conversations(count: int, *, words: int = 2, least: int = 0) -> tuple[Conversation, ...]:
    """Different questions of so many words whose greedy answers have at least so many tokens."""
    model, found = ToyEngine(), []
    vocabulary = ("cat", "dog", "two", "three", "yes", "no", "hello")
    for number in range(len(vocabulary) ** words):
        content = " ".join(vocabulary[number // len(vocabulary) ** place % len(vocabulary)] for place in range(words))
        conversation = Conversation(content, ({"role": "user", "content": content},))
        if len(model.generate(conversation, max_tokens=48).tokens) >= least:
            found.append(conversation)
        if len(found) == count:
            break
    assert len(found) == count
    return tuple(found)


class ToyEngine:
    """`ids=False` makes it as silent as Ollama; `noise` moves its log-probabilities; `dies_after` counts requests,
    `fails_at` names those (by number) that are answered with a 500; `restless` moves them anew at every request.
    `stops` are the strings it stops at without being told; `faults` the behaviours that it gets wrong; `limit` ends
    answers to requests that name none."""

    def __init__(
        self,
        kind: Kind = "vllm",
        *,
        ids: bool = True,
        seed: int = 1,
        noise: float = 0.0,
        bos: bool = True,
        ends: bool = True,
        turn: str = "bot:",
        dies_after: int | None = None,
        fails_at: Sequence[int] = (),
        restless: float = 0.0,
        stops: Sequence[str] = (),
        faults: Sequence[str] = (),
        context: int = 600,
        limit: int | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.ids, self.seed, self.noise, self.bos, self.ends, self.turn = ids, seed, noise, bos, ends, turn
        self.requests_left, self.fails_at = dies_after, frozenset(fails_at)
        self.restless, self.stops, self.faults, self.context = restless, tuple(stops), frozenset(faults), context
        self.limit = limit
        self.asked: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            render=True, tokenize=self.ids, generate=True, token_ids=self.ids, score=self.kind == "vllm", embed=True
        )

    @property
    def name(self) -> str:
        return f"toy {self.kind}"

    def context_length(self) -> int | None:
        return self.context

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        if self.kind != "llama.cpp" and not isinstance(prompt, Conversation):
            raise ServerError("asked through its chat endpoint", status=501)
        if isinstance(prompt, Conversation) and len(str(prompt.messages)) > 4 * self.context:
            self._ask("chat")
            raise ServerError("too long", status=500 if "overflow" in self.faults else 400)
        if isinstance(prompt, Conversation) and prompt.tools and ask.call_tools and "tools" in self.faults:
            self._ask("chat")
            raise ServerError('"auto" tool choice requires --enable-auto-tool-choice', status=400)
        limit = ask.max_tokens if ask.max_tokens is not None and "max_tokens" not in self.faults else 64
        if ask.format is not None:
            self._ask("chat")
            text = "no" if "format" in self.faults else self._formed(ask.format)
            said = Generation(text, (), "stop", 3, completion_tokens=len(text))
            if ask.max_tokens is None and self.limit is not None and len(text) > self.limit:
                said = replace(said, text=text[: self.limit], finish_reason="length", completion_tokens=self.limit)
        else:
            before = self.seed, self.noise
            if not ask.greedy:
                self.seed = hash((self.seed, ask.seed))
                self.noise = 2.0 + len(self.asked) if "seeds" in self.faults else self.noise
            said = self.generate(prompt, max_tokens=limit)
            self.seed, self.noise = before
            ended = 1 if self.ids and said.finish_reason == "stop" else 0
            said = replace(said, completion_tokens=len(said.tokens) - ended)
        stops = self.stops if ask.stop is None else (() if "stop" in self.faults else ask.stop)
        cut = min((said.text.find(stop) for stop in stops if stop in said.text), default=None)
        if cut is not None:
            said = replace(said, text=said.text[:cut], finish_reason="stop")
        if ask.stream:
            text = said.text if "stream" not in self.faults else said.text.replace(" ", "")
            said = replace(said, text=text, chunks=1 if "pieces" in self.faults else len(said.tokens) or 2)
        return said

    def _formed(self, form: Any) -> str:
        if form == "json":
            return "{}"
        if "enum" in form:
            return json.dumps(form["enum"][0])
        return json.dumps({"answer": "yes", "sure": True})

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        self._ask("embed")
        vectors = []
        for text in texts:
            rng = random.Random(f"{self.seed} {text}")
            vector = [rng.gauss(0.0, 1.0) for _ in range(16)]
            wobble = random.Random(f"{self.noise} {text}")
            moved = [x + wobble.gauss(0.0, self.noise) for x in vector]
            scale = 1.0 if "norm" in self.faults else math.sqrt(math.fsum(x * x for x in moved))
            vectors.append(tuple(x / scale for x in moved))
        return tuple(vectors)

    def render(self, conversation: Conversation) -> str:
        self._ask("render")
        if "refuse" in str(conversation.messages) and self.kind == "vllm":
            raise ServerError(str(conversation.messages[0]["content"]), status=400)
        turns = "".join(f"{m['role']}:{m['content']}\n" for m in conversation.messages)
        return ("<s>" if self.kind == "vllm" and self.bos else "") + turns.replace("assistant:", "bot:") + self.turn

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        self._ask("tokenize")
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        ids = [BOS] if text.startswith("<s>") or (self.kind != "vllm" and self.bos) else []
        text = text.removeprefix("<s>")
        while text:
            word = next(i for i, word in enumerate(WORDS) if text.startswith(word))
            ids.append(word)
            text = text[len(WORDS[word]) :]
        return tuple(ids)

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        self._ask("generate")
        if isinstance(prompt, str | Conversation):
            shown, self.ids = self.ids, True
            given = list(self.tokenize(prompt))
            self.ids = shown
        else:
            given = list(prompt)
        tokens: list[TokenLogprob] = []
        context = list(given)
        finish = "length"
        while len(tokens) < max_tokens:
            top = self._distribution(context)[: max(top_logprobs, 1)]
            best = top[0]
            context.append(best.id if best.id is not None else 0)
            if best.id == EOS and self.ends:
                finish = "stop"
                if self.ids:
                    tokens.append(TokenLogprob(best.id, b"", best.logprob, tuple(top)))
                break
            known = [c if self.ids else Candidate(None, c.text, c.logprob) for c in top]
            tokens.append(TokenLogprob(known[0].id, best.text, best.logprob, tuple(known)))
        text = b"".join(token.text for token in tokens).decode()
        return Generation(text, tuple(tokens), finish, len(given))

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        self._ask("score")
        context, scored = list(prompt), []
        for token in continuation:
            ranked = self._distribution(context)
            own = next(c for c in ranked if c.id == token)
            listed = ranked[:top] if own in ranked[:top] else [*ranked[:top], own]
            scored.append(TokenLogprob(token, own.text, own.logprob, tuple(listed)))
            context.append(token)
        return tuple(scored)

    def close(self) -> None:
        pass

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if len(self.asked) in self.fails_at:
            raise ServerError(f"{self.name} answered 500", status=500)
        if self.requests_left is not None:
            if self.requests_left == 0:
                raise ServerUnreachable(f"{self.name} broke off while answering")
            self.requests_left -= 1

    def _distribution(self, context: Sequence[int]) -> list[Candidate]:
        rng = random.Random(f"{self.seed} {list(context)}")
        logits = [rng.gauss(0.0, 3.0) for _ in range(SIZE)]
        logits[BOS] = -20.0
        wobble = random.Random(f"{self.noise} {list(context)}")
        logits = [value + wobble.gauss(0.0, self.noise) for value in logits]
        if self.restless:
            anew = random.Random(f"{len(self.asked)} {list(context)}")
            logits = [value + anew.gauss(0.0, self.restless) for value in logits]
        total = math.log(math.fsum(math.exp(value) for value in logits))
        pieces = [word.encode() for word in WORDS] + [b"", b""]
        candidates = [Candidate(i, pieces[i], value - total) for i, value in enumerate(logits)]
        return sorted(candidates, key=lambda c: -c.logprob)
