"""The three clients: what they send and how they read real answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.engines import llamacpp, vllm
from migrate.engines.base import Conversation, to_openai
from migrate.engines.ollama import OllamaEngine, ollama_url
from migrate.errors import NotFound, ServerError
from tests.engines.recorded import recorded_conversations, recorded_ollama
from tests.engines.test_http import answer, server

CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": "ü"}}}]}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "x"}], [{"role": "user", "content": "x"}]),
        ([{"role": "user"}], [{"role": "user", "content": ""}]),
        (
            [CALL, {"role": "tool", "content": "1", "tool_name": "f"}],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "call_0_0", "type": "function", "function": {"name": "f", "arguments": '{"a": "ü"}'}}
                    ],
                },
                {"role": "tool", "content": "1", "tool_call_id": "call_0_0", "name": "f"},
            ],
        ),
        (
            [{"role": "tool", "content": "1", "tool_call_id": "abc"}],
            [{"role": "tool", "content": "1", "tool_call_id": "abc"}],
        ),
    ],
)
def test_messages_for_vllm(messages: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert to_openai(messages) == expected


def test_answers_of_tools_get_the_ids_of_their_calls_in_order() -> None:
    two: dict[str, Any] = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": n, "arguments": {}}} for n in ("f", "g")],
    }
    messages = [two, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    assert [m["tool_call_id"] for m in to_openai(messages)[1:]] == ["call_0_0", "call_0_1"]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434/"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234/"),
        ("gpu1", "http://gpu1:11434/"),
        ("https://ollama.example.com", "https://ollama.example.com/"),
    ],
)
def test_spellings_of_ollama_host(host: str, url: str) -> None:
    assert ollama_url(host) == url


def test_what_a_real_ollama_said(shared: Path) -> None:
    asked = next(c for c in recorded_conversations(shared, "render/native-bot/") if c.name == "system-user")
    with recorded_ollama(shared) as url:
        engine = OllamaEngine(url, model="native-bot")
        assert engine.name == f"Ollama 0.33.0-rc2 at {url}, model native-bot"
        assert engine.render(asked).startswith("<|im_start|>system\nYou are a terse")
        question = Conversation("x", ({"role": "user", "content": "What is 3+4?"},))
        said = engine.generate(question, max_tokens=48, top_logprobs=20)
        assert (said.text, said.finish_reason, said.prompt_tokens, said.ids) == ("3+4 is 7.", "stop", 20, None)
        assert b"".join(token.text for token in said.tokens) == b"3+4 is 7."
        assert all(len(token.top) == 20 for token in said.tokens)
        assert said.tokens[0].logprob == pytest.approx(-0.0077316, abs=1e-6)
        unknown = OllamaEngine(url, model="nope")
        with pytest.raises(ServerError) as caught:
            unknown.generate(Conversation("x", ({"role": "user", "content": "x"},)), max_tokens=1)
        assert caught.value.status == 501


CHAT_ANSWER = {
    "choices": [
        {
            "message": {"role": "assistant", "content": "7.", "reasoning": None},
            "logprobs": {
                "content": [
                    {
                        "token": "token_id:22",
                        "logprob": -1.3,
                        "bytes": [55],
                        "top_logprobs": [
                            {"token": "token_id:22", "logprob": -1.3, "bytes": [116]},
                            {"token": "token_id:452", "logprob": -1.6, "bytes": [116]},
                        ],
                    }
                ]
            },
            "finish_reason": "length",
            "token_ids": [22],
        }
    ],
    "usage": {"prompt_tokens": 20},
    "prompt_token_ids": [730, 732],
}


def test_a_chat_answer_of_vllm() -> None:
    with server(answer(200, json.dumps(CHAT_ANSWER).encode())) as url:
        engine = vllm.VllmEngine(url, model="m")
        said = engine.generate(Conversation("x", ()), max_tokens=1, top_logprobs=2)
    assert (said.text, said.ids, said.prompt_ids, said.prompt_tokens) == ("7.", (22,), (730, 732), 20)
    assert said.tokens[0].text == b"7"
    assert [(c.id, c.logprob) for c in said.tokens[0].top] == [(22, -1.3), (452, -1.6)]


SCORED = {
    "choices": [
        {
            "prompt_logprobs": [
                None,
                {"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}},
                {
                    "9": {"logprob": -7.0, "rank": 30, "decoded_token": "z"},
                    "6": {"logprob": -0.1, "rank": 1, "decoded_token": "b"},
                },
            ]
        }
    ]
}


def test_teacher_forcing_reads_the_positions_of_the_continuation() -> None:
    with server(answer(200, json.dumps(SCORED).encode())) as url:
        scored = vllm.VllmEngine(url, model="m").score([1, 5], [9], top=1)
    assert len(scored) == 1
    assert (scored[0].id, scored[0].logprob, [c.id for c in scored[0].top]) == (9, -7.0, [6, 9])


@pytest.mark.parametrize("body", [{}, [], {"choices": []}, {"choices": [{"prompt_logprobs": [None, None]}]}, "x"])
def test_answers_of_another_shape_are_errors(body: object) -> None:
    with server(answer(200, json.dumps(body).encode())) as url:
        target, source = vllm.VllmEngine(url, model="m"), llamacpp.LlamaCppEngine(url)
        for ask in (
            lambda: target.score([1], [2], top=1),
            lambda: target.generate(Conversation("x", ()), max_tokens=1),
            lambda: target.generate([1], max_tokens=1),
            lambda: target.tokenize("x"),
            lambda: source.generate("x", max_tokens=1),
            lambda: source.tokenize("x"),
            lambda: OllamaEngine(url, model="m").render(Conversation("x", ())),
            lambda: OllamaEngine(url, model="m").generate(Conversation("x", ()), max_tokens=1),
        ):
            with pytest.raises(ServerError):
                ask()


def test_how_a_bundle_and_a_checkpoint_are_started(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="neither a bundle nor a checkpoint"):
        vllm.serve_command(tmp_path, "vllm", 8000, [])
    (tmp_path / "config.json").touch()
    assert vllm.serve_command(tmp_path, "v", 1, ["-x"])[:3] == ["v", "serve", str(tmp_path)]
    (tmp_path / "serve.yaml").touch()
    assert vllm.serve_command(tmp_path, "v", 1, ["-x"])[:3] == ["v", "serve", "--config"]
    (tmp_path / "serve.sh").touch()
    assert vllm.serve_command(tmp_path, "v", 1, ["-x"]) == ["bash", str(tmp_path / "serve.sh"), "--port", "1", "-x"]


def test_tokens_of_llama_cpp_that_only_begin_a_character() -> None:
    """As llama.cpp 2026.10 told `"x🎉` : the emoji is four tokens and has one entry, at the last of them."""
    from migrate.engines.llamacpp import _positions

    def entry(token: int, text: bytes) -> dict[str, Any]:
        top = [{"id": token, "bytes": list(text), "logprob": -0.1}]
        return {"id": token, "bytes": list(text), "logprob": -0.1, "top_logprobs": top}

    entries = [entry(1, b'"'), entry(87, b"x"), entry(231, "🎉".encode()), entry(733, b"")]
    found = _positions([1, 87, 172, 253, 236, 231, 733], entries)
    assert [position.id for position in found] == [1, 87, 172, 253, 236, 231, 733]
    assert [bool(position.top) for position in found] == [True, True, False, False, False, True, True]
    assert found[5].text == b"", "the bytes of its entry are those of the whole character"
    assert [position.id for position in _positions([], entries)] == [1, 87, 231, 733]
