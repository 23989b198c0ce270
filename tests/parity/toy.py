"""A very small language model that runs here: an engine that answers without a server.

Its distributions depend on the last two tokens through a seeded generator, so that two engines with one seed agree in
everything, and whatever is changed in one of them shows where it should.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrate.engines.base import Candidate, Capabilities, Conversation, Generation, Kind, Prompt, TokenLogprob
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


class ToyEngine:
    """`ids=False` makes it as silent as Ollama; `noise` moves its log-probabilities; `dies_after` counts requests."""

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
    ) -> None:
        self.kind: Kind = kind
        self.ids, self.seed, self.noise, self.bos, self.ends, self.turn = ids, seed, noise, bos, ends, turn
        self.requests_left = dies_after
        self.asked: list[str] = []

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            render=True, tokenize=self.ids, generate=True, token_ids=self.ids, score=self.kind == "vllm"
        )

    @property
    def name(self) -> str:
        return f"toy {self.kind}"

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
        if self.requests_left is not None:
            if self.requests_left == 0:
                raise ServerUnreachable(f"{self.name} broke off while answering")
            self.requests_left -= 1

    def _distribution(self, context: Sequence[int]) -> list[Candidate]:
        rng = random.Random(f"{self.seed} {list(context[-2:])} {len(context) // 6}")
        logits = [rng.gauss(0.0, 3.0) for _ in range(SIZE)]
        logits[BOS] = -20.0
        wobble = random.Random(f"{self.noise} {list(context)}")
        logits = [value + wobble.gauss(0.0, self.noise) for value in logits]
        total = math.log(math.fsum(math.exp(value) for value in logits))
        pieces = [word.encode() for word in WORDS] + [b"", b""]
        candidates = [Candidate(i, pieces[i], value - total) for i, value in enumerate(logits)]
        return sorted(candidates, key=lambda c: -c.logprob)
