"""What of a long conversation is kept, beside a plain transcription of Ollama's loops with the real tokenizer."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.gateway import truncation
from migrate.gateway.catalog import Catalog, ServedModel
from migrate.gateway.prompts import Prompts
from migrate.gateway.sampling import Sampling
from migrate.gateway.tokens import Tokens
from migrate.gateway.truncation import Kept, chat_prompt, cut
from migrate.gateway.types import ApiError, Message
from tests.gateway import bench

WORDS = [
    *[
        "cat",
        "dog",
        "tiger",
        "apple",
        "fox",
        "story",
        "weather",
        "Oslo",
        "Lima",
        "seven",
        "eleven",
        "ünïcödé",
        "<|im_start|>",
    ],
    "\n\n",
]


def chat_prompt_of_ollama(model: ServedModel, msgs: Sequence[Message], num_ctx: int) -> tuple[str, list[Message]]:
    """server/prompt.go, chatPrompt: one message after the other goes, system messages stay, the last one stays."""
    last = len(msgs) - 1
    current, system = 0, []
    for i in range(len(msgs)):
        system = [m for m in msgs[:i] if m["role"] == "system"]
        prompt = model.prompts.render([*system, *msgs[i:]], (), None)
        if len(model.tokens.encode(prompt)) <= num_ctx:
            current = i
            break
        if i == last:
            current = last
    kept = [*system, *msgs[current:]]
    return model.prompts.render(kept, (), None), kept


def keep(model: ServedModel, messages: Sequence[Message], num_ctx: int, *, truncate: bool = True, **more: Any) -> Kept:
    return bench.run(chat_prompt(model, messages, (), None, num_ctx, truncate=truncate, **more))


def conversation(seed: int, size: int, system: float = 0.1) -> list[Message]:
    chance = random.Random(seed)
    roles = [chance.choices(["system", "user", "assistant"], [system, 1, 1])[0] for _ in range(size)]
    return [{"role": role, "content": " ".join(chance.choices(WORDS, k=chance.randint(0, 20)))} for role in roles]


@pytest.mark.parametrize("name", ["support-bot", "legacy-bot", "native-bot", "q4-bot", "renderer-bot", "child-bot"])
def test_conversations_are_cut_as_by_ollama(catalog: Catalog, name: str) -> None:
    model = catalog.require(name)
    dropped = 0
    for seed in range(24):
        messages = model.prompts.messages(conversation(seed, size=1 + seed % 25))
        for num_ctx in (4, 60, 150, 400):
            prompt, kept = chat_prompt_of_ollama(model, messages, num_ctx)
            got = keep(model, messages, num_ctx)
            assert (got.prompt, list(got.messages)) == (prompt, kept), (seed, num_ctx)
            stayed = sum(m["role"] == "system" for m in messages[: got.dropped])
            assert len(messages) - got.dropped == len(kept) - stayed
            dropped += got.dropped > 0
    assert dropped > 30


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(4, 500))
@settings(max_examples=60)
def test_any_conversation_is_cut_as_by_ollama(catalog: Catalog, seed: int, size: int, num_ctx: int) -> None:
    model = catalog.require("support-bot")
    messages = model.prompts.messages(conversation(seed, size, system=0.3))

    assert keep(model, messages, num_ctx).prompt == chat_prompt_of_ollama(model, messages, num_ctx)[0]


def test_nothing_is_cut_that_fits_or_may_not_be(catalog: Catalog) -> None:
    model = catalog.require("support-bot")
    messages = conversation(1, 30)
    whole = model.prompts.render(messages, (), None)

    assert keep(model, messages, len(model.tokens.encode(whole))) == Kept(whole, messages, 0)
    assert keep(model, messages, 4, truncate=False) == Kept(whole, messages, 0)
    assert keep(model, messages, len(model.tokens.encode(whole)) - 1).dropped == 1
    assert keep(model, messages[:1], 4).dropped == 0


# ---- templates that refuse -------------------------------------------------------------------------------------------

AGENT = """{%- if not messages | selectattr('role', 'eq', 'user') | list -%}
{{- raise_exception('No user query found in messages.') -}}{%- endif -%}
{%- for m in messages -%}[{{ m.role }}] {{ m.content }}{{ '\n' }}{%- endfor -%}"""
"""As the templates of Qwen 3.5 do."""


def with_template(model: ServedModel, chat_template: str) -> ServedModel:
    source = model.source.model_copy(update={"prompt_path": "gguf_jinja", "chat_template": chat_template})
    return dataclasses.replace(model, source=source, prompts=Prompts(source))


def test_a_template_that_refuses_the_end_of_a_conversation_is_not_asked_for_it(catalog: Catalog) -> None:
    """A user's question followed by many calls of tools: what is cut in halves would begin behind the question."""
    model = with_template(catalog.require("support-bot"), AGENT)
    messages: list[Message] = [{"role": "user", "content": "cat " * 50}, {"role": "user", "content": "dog"}]
    messages += [{"role": "assistant", "content": f"step {i}"} for i in range(20)]
    num_ctx = len(model.tokens.encode(model.prompts.render(messages[1:], (), None)))

    assert keep(model, messages, num_ctx).messages == messages[1:]
    with pytest.raises(ApiError, match="No user query") as caught:  # as Ollama: the next one to try is refused
        keep(model, messages, num_ctx - 1)
    assert caught.value.status == 500


def test_that_search_has_an_end(catalog: Catalog) -> None:
    model = with_template(catalog.require("support-bot"), AGENT)
    messages: list[Message] = [{"role": "user", "content": "cat " * 50}]
    messages += [{"role": "assistant", "content": "x"} for _ in range(2 * truncation._MOST_TRIES + 10)]

    with pytest.raises(ApiError, match="No user query"):
        keep(model, messages, 30)


# ---- beside the event loop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "beside"),
    [
        (conversation(3, 10), False),
        (conversation(3, 300), True),
        ([{"role": "user", "content": "cat " * 9000}, {"role": "user", "content": "dog"}], True),
    ],
)
def test_large_conversations_do_not_hold_up_others(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, messages: list[Message], beside: bool
) -> None:
    model = catalog.require("support-bot")
    threads: list[str] = []
    encode = Tokens.encode

    def seen(self: Tokens, text: str) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(self, text)

    monkeypatch.setattr(Tokens, "encode", seen)
    keep(model, messages, 60)

    assert threads
    assert ("MainThread" not in threads) is beside


# ---- tokens from the middle ------------------------------------------------------------------------------------------


def cut_of_ollama(tokens: list[int], num_ctx: int, num_keep: int, adds_bos: bool) -> list[int]:
    """llm/llama_server.go, completionPromptForRequest and contextShiftPromptLimit."""
    if num_ctx <= 1 or len(tokens) <= num_ctx - 1:
        return tokens
    n_keep = len(tokens) if num_keep < 0 else num_keep
    n_keep = min(n_keep + adds_bos, num_ctx - 1)
    kept = max(0, min(n_keep, num_ctx - 1))
    limit = num_ctx - max((num_ctx - kept) // 2, 1)
    discard = len(tokens) - limit
    return tokens[:n_keep] + tokens[n_keep + discard :]


def settings_of(num_ctx: int, num_keep: int = 4) -> Sampling:
    return Sampling({}, num_ctx, -1, num_keep, {})


@given(
    st.integers(1, 3000), st.integers(4, 1024), st.one_of(st.integers(-3, 30), st.integers(0, 5000)), st.booleans()
)  # fmt: skip
def test_tokens_are_cut_as_by_ollama(catalog: Catalog, size: int, num_ctx: int, num_keep: int, adds_bos: bool) -> None:
    model = catalog.require("support-bot")
    model = dataclasses.replace(model, source=model.source.model_copy(update={"adds_bos": adds_bos}))
    ids = list(range(size))
    got = cut(model, ids, settings_of(num_ctx, num_keep), truncate=True, shift=True)

    assert got == cut_of_ollama(ids, num_ctx, num_keep, adds_bos)
    assert len(got) < num_ctx
    assert not got or got[-1] == ids[-1] or num_keep < 0 or num_keep >= num_ctx - 2


@pytest.mark.parametrize(
    ("size", "truncate", "shift", "refused"),
    [
        (99, True, True, ""),
        (99, False, False, ""),
        (100, True, True, ""),
        (100, True, False, "the prompt is longer than the context length currently available to the model"),
        (100, False, True, "exceeds the available context size (100 tokens)"),
        (5000, False, True, "exceeds the available context size (100 tokens)"),
    ],
)
def test_what_may_not_be_cut_is_refused(catalog: Catalog, size: int, truncate: bool, shift: bool, refused: str) -> None:
    model = catalog.require("support-bot")
    ids = list(range(size))
    if not refused:
        assert len(cut(model, ids, settings_of(100), truncate=truncate, shift=shift)) < 100
        return
    with pytest.raises(ApiError) as caught:
        cut(model, ids, settings_of(100), truncate=truncate, shift=shift)
    assert refused in caught.value.message
    assert caught.value.status == 400


def test_images_count_as_ollama_counts_them(catalog: Catalog) -> None:
    model = catalog.require("support-bot")
    seeing = dataclasses.replace(
        model, source=model.source.model_copy(update={"capabilities": [*model.source.capabilities, "vision"]})
    )
    messages: list[Message] = [{"role": "user", "content": "a", "images": ["aGk="]}, {"role": "user", "content": "b"}]

    assert keep(model, messages, 700).dropped == 0
    assert keep(seeing, messages, 700).dropped == 1
    assert keep(seeing, messages, 1024).dropped == 0
