from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.engines.base import Conversation
from migrate.errors import BadInput, UsageError
from migrate.parity.throughput.plan import Plan, Point
from migrate.parity.throughput.workload import Prompt, Workload, body, read_tokenizer, usable
from tests.parity.throughput.replayed import Counter, bundle

ONE, TWO = Point(1), Point(2)
HELLO = Conversation("hello", ({"role": "user", "content": "Hello"},))
LONG = Conversation("long", ({"role": "user", "content": "word " * 2000},))


def workload(tmp_path: Path, shared: Path, plan: Plan, *conversations: Conversation, context: int = 1000) -> Workload:
    model = bundle(tmp_path / "bundle", shared) / "model"
    target = Counter(model / "tokenizer.json")
    return Workload(plan, 16, True, target, read_tokenizer(model), context, conversations)  # type: ignore[arg-type]


def test_both_sides_get_the_same_and_every_run_gets_its_own(tmp_path: Path, shared: Path) -> None:
    made = workload(tmp_path, shared, Plan())
    first = made.prompts(ONE, 1, 50)
    assert made.prompts(ONE, 1, 50) == first
    texts = [prompt.conversation.messages[0]["content"] for prompt in first]
    assert len(set(texts)) == 50
    others = made.prompts(ONE, 2, 50) + made.prompts(TWO, 1, 50)
    assert not {prompt.conversation.messages[0]["content"] for prompt in others} & set(texts)
    assert "built-in questions" in made.describe()
    assert "exactly 16 tokens" in made.describe()


@pytest.mark.parametrize("length", [9, 64, 512])
def test_synthetic_prompts_have_the_length(length: int, tmp_path: Path, shared: Path) -> None:
    made = workload(tmp_path, shared, Plan(prompt_tokens=length)).prompts(ONE, 1, 20)
    assert all(abs(len(prompt.ids) - length) <= 1 for prompt in made)
    assert len({prompt.ids for prompt in made}) > 15


def test_synthetic_prompts_shorter_than_the_template(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(UsageError, match="already take 7 tokens"):
        workload(tmp_path, shared, Plan(prompt_tokens=7)).prompts(ONE, 1, 1)


def test_conversations_of_the_user_are_repeated_and_fit(tmp_path: Path, shared: Path) -> None:
    made = workload(tmp_path, shared, Plan(), HELLO, LONG)
    assert [prompt.conversation for prompt in made.prompts(ONE, 1, 5)] == [HELLO] * 5
    assert made.too_long >= 4
    assert made.target.asked == 2, "each is tokenized once"  # type: ignore[attr-defined]
    assert "2 conversations of the user" in made.describe()


def test_nothing_fits(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(UsageError, match="no prompt leaves room for 16 tokens in the target's context of 1000"):
        workload(tmp_path, shared, Plan(), LONG).prompts(ONE, 1, 1)
    with pytest.raises(UsageError, match="no prompt leaves room"):
        workload(tmp_path / "small", shared, Plan(), context=20).prompts(ONE, 1, 1)


def test_begun_answers_are_left_out() -> None:
    begun = Conversation("begun", (*HELLO.messages, {"role": "assistant", "content": "2, 3,"}))
    assert usable([HELLO, begun, Conversation("empty", ())]) == (HELLO,)


def test_a_damaged_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 5}))
    with pytest.raises(BadInput, match="not a tokenizer"):
        read_tokenizer(tmp_path)


def test_how_each_server_is_asked() -> None:
    prompt = Prompt(HELLO, (1, 2, 3))
    ollama = body("ollama", "bot", prompt, output_tokens=9, fixed_length=False)
    assert ollama == {
        "model": "bot",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 9,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert body("vllm", "bot", prompt, output_tokens=9, fixed_length=False) == ollama, "the same to the last byte"
    fixed = body("vllm", "bot", prompt, output_tokens=9, fixed_length=True)
    assert fixed == ollama | {"ignore_eos": True, "skip_special_tokens": False, "stop": []}
    llamacpp = body("llama.cpp", "bot", prompt, output_tokens=9, fixed_length=True)
    assert (llamacpp["prompt"], llamacpp["ignore_eos"], "messages" in llamacpp) == ([1, 2, 3], True, False)
    with_tools = Conversation("tools", HELLO.messages, ({"type": "function", "function": {"name": "f"}},))
    asked = body("vllm", "bot", Prompt(with_tools, ()), output_tokens=9, fixed_length=False)
    assert asked["tool_choice"] == "none"
    assert asked["tools"] == [{"type": "function", "function": {"name": "f"}}]
