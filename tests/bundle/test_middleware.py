"""The middleware in a bundle, called as an ASGI server calls it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from migrate import resources

DEFAULTS = {"stop": ["User:"], "seed": 42}
Call = Callable[..., tuple[Any, Any]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    return middleware(tmp_path, DEFAULTS)


def middleware(directory: Path, defaults: dict[str, Any]) -> Call:
    """Sends a request through the middleware; returns the body and headers that arrive behind it, or what it answers
    itself: the body and the status."""
    tmp_path = directory
    (tmp_path / "migrate_defaults.py").write_text(resources.text("bundle/migrate_defaults.py"))
    (tmp_path / "request_defaults.json").write_text(json.dumps(defaults))
    spec = importlib.util.spec_from_file_location("migrate_defaults", tmp_path / "migrate_defaults.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def send(*chunks: bytes, path: str = "/v1/chat/completions", method: str = "POST", lost: bool = False) -> Any:
        seen: list[Any] = []
        messages = [{"type": "http.request", "body": c, "more_body": True} for c in chunks]
        messages[-1]["more_body"] = lost
        messages += [{"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
            seen.append((body, dict(scope["headers"])))

        answered: list[dict[str, Any]] = []

        async def answer(message: dict[str, Any]) -> None:
            answered.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", str(sum(map(len, chunks))).encode())]
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        asyncio.run(module.RequestDefaults(app)(scope, receive, answer))
        if answered:
            assert not seen, "a refused request goes no further"
            return answered[1]["body"], answered[0]["status"]
        return seen[0] if seen else (None, None)

    return send


def test_what_is_missing_is_filled_in(call: Call) -> None:
    body, headers = call(b'{"model": "m", ', b'"messages": []}')
    assert json.loads(body) == {"model": "m", "messages": [], **DEFAULTS}
    assert headers[b"content-length"] == str(len(body)).encode()
    assert headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize("stop", ["x", ["a", "b"], []])
def test_a_requests_own_list_replaces_it(call: Call, stop: Any) -> None:
    body, _ = call(json.dumps({"stop": stop, "seed": 0}).encode())
    assert json.loads(body) == {"stop": stop, "seed": 0}


def test_null_is_not_a_value(call: Call) -> None:
    body, _ = call(b'{"stop": null, "seed": null}')
    assert json.loads(body) == DEFAULTS


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"3"])
def test_what_is_no_request_passes_unchanged(call: Call, body: bytes) -> None:
    assert call(body)[0] == body


@pytest.mark.parametrize(
    ("path", "method"), [("/tokenize", "POST"), ("/v1/embeddings", "POST"), ("/v1/chat/completions", "GET")]
)
def test_other_routes_are_left_alone(call: Call, path: str, method: str) -> None:
    assert call(b'{"a": 1}', path=path, method=method)[0] == b'{"a": 1}'


def test_a_client_that_leaves_never_reaches_the_model(call: Call) -> None:
    assert call(b'{"a"', lost=True) == (None, None)


# ---- several models -------------------------------------------------------------------------------------------------

SET = {
    "default": "a",
    "without_tools": ["b", "b:latest"],
    "variants": {
        "a": {"chat_template_kwargs": {"migrate_variant": "a"}, "stop": ["User:"], "seed": 42, "stop_token_ids": [7]},
        "b": {
            "chat_template_kwargs": {"migrate_variant": "b"},
            "stop": ["."],
            "temperature": 0.7,
            "top_k": 0,
            "min_p": 0.1,
            "max_tokens": 16,
        },
    },
}
SET["variants"]["b:latest"] = SET["variants"]["b"]  # type: ignore[index]
A, B = ({"chat_template_kwargs": {"migrate_variant": name}} for name in "ab")
CHAT, MESSAGES = "/v1/chat/completions", [{"role": "user", "content": "hi"}]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """What is added to a request, or (status, message) of a refusal."""
    call = middleware(tmp_path, SET)

    def added(request: dict[str, Any], path: str = CHAT) -> Any:
        body, headers = call(json.dumps(request).encode(), path=path)
        if isinstance(headers, int):
            return headers, json.loads(body)["error"]["message"]
        found = json.loads(body)
        assert request.items() <= (found | request).items()
        return {key: value for key, value in found.items() if key not in request or request[key] != value}

    return added


@pytest.mark.parametrize(
    ("path", "request_", "added"),
    [
        (CHAT, {"model": "a"}, {**A, "stop": ["User:"], "seed": 42, "stop_token_ids": [7]}),
        (CHAT, {}, {**A, "stop": ["User:"], "seed": 42, "stop_token_ids": [7]}),
        (
            CHAT,
            {"model": "b:latest"},
            {**B, "stop": ["."], "temperature": 0.7, "top_k": 0, "min_p": 0.1, "max_tokens": 16},
        ),
        (
            f"{CHAT}/render",
            {"model": "b", "stop": [], "top_k": 5},
            {**B, "temperature": 0.7, "min_p": 0.1, "max_tokens": 16},
        ),
        (f"{CHAT}/batch", {"model": "a", "stop": "x", "seed": 0}, {**A, "stop_token_ids": [7]}),
        (CHAT, {"model": "a", "stop": "x", "seed": 0, "stop_token_ids": [9, 7]}, {**A}),
        (CHAT, {"model": "a", "stop": "x", "seed": 0, "stop_token_ids": [9]}, {**A, "stop_token_ids": [9, 7]}),
        (CHAT, {"model": "a", "stop": "x", "seed": 0, "ignore_eos": True}, A),
        (CHAT, {"model": "b", "stop": "x", "temperature": 0, "top_k": 1, "min_p": 0, "max_completion_tokens": 3}, B),
        (CHAT, {"model": "nobody"}, {}),
        (CHAT, {"model": ["a"]}, {}),
        ("/v1/completions", {"model": "b"}, {"stop": ["."], "temperature": 0.7, "top_k": 0, "min_p": 0.1}),
        ("/v1/completions", {"model": "a"}, {"stop": ["User:"], "seed": 42, "stop_token_ids": [7]}),
        (
            "/v1/responses",
            {"model": "b"},
            {**B, "stop": ["."], "temperature": 0.7, "top_k": 0, "min_p": 0.1, "max_output_tokens": 16},
        ),
        ("/v1/messages", {"model": "b"}, {**B, "stop_sequences": ["."], "temperature": 0.7, "top_k": 0}),
        ("/v1/messages", {"model": "a", "stop_sequences": ["x"]}, A),
        ("/v1/messages/count_tokens", {"model": "b", "messages": MESSAGES}, B),
        ("/tokenize", {"model": "b", "messages": MESSAGES}, B),
        ("/tokenize", {"model": "b", "prompt": "hi"}, {}),
        ("/detokenize", {"model": "b", "tokens": []}, {}),
        ("/v1/embeddings", {"model": "b"}, {}),
        ("/invocations", {"model": "a", "messages": MESSAGES}, {}),
    ],
)
def test_defaults_by_name(ask: Any, path: str, request_: dict[str, Any], added: dict[str, Any]) -> None:
    assert ask(request_, path) == added


@pytest.mark.parametrize("given", ["a", "b", "c", None])
def test_no_client_chooses_another_models_template(ask: Any, given: str | None) -> None:
    kwargs = {"migrate_variant": given, "enable_thinking": True}
    found = ask({"model": "b", "chat_template_kwargs": kwargs})
    assert found.get("chat_template_kwargs", kwargs) == {"migrate_variant": "b", "enable_thinking": True}


def test_kwargs_that_are_none_are_vllms_to_refuse(ask: Any) -> None:
    assert "chat_template_kwargs" not in ask({"model": "b", "chat_template_kwargs": "x"})


@pytest.mark.parametrize(
    ("extra", "refused"),
    [
        ({}, True),
        ({"tool_choice": "auto"}, True),
        ({"tool_choice": {"type": "auto"}}, True),
        ({"tool_choice": "none"}, False),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, False),
        ({"tools": []}, False),
    ],
)
def test_tools_of_a_model_that_has_none(ask: Any, extra: dict[str, Any], refused: bool) -> None:
    asked = {"tools": [{"type": "function"}], **extra}
    found = ask({"model": "b", **asked})
    assert (found == (400, "b does not support tools")) == refused
    assert isinstance(ask({"model": "a", **asked}), dict)


@pytest.mark.parametrize("path", ["/invocations", "/cohere/v2/chat", "/v1/systemone", "/generative_scoring"])
def test_routes_that_cannot_choose_a_template(ask: Any, path: str) -> None:
    status, message = ask({"model": "b", "messages": MESSAGES}, path)
    assert status == 400
    assert "b: this route cannot be told" in message


def test_an_error_on_anthropics_route_has_its_form(tmp_path: Path) -> None:
    body, status = middleware(tmp_path, SET)(b'{"model": "b", "tools": [1]}', path="/v1/messages")
    assert (status, json.loads(body)["type"], json.loads(body)["error"]["type"]) == (
        400,
        "error",
        "invalid_request_error",
    )


PENALTIES = {"repeat_penalty": 1.1, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.3}


@pytest.mark.parametrize(
    ("asked", "arrives"),
    [
        ({}, PENALTIES),
        ({"vllm_xargs": {"other": 1}}, PENALTIES | {"other": 1}),
        ({"vllm_xargs": {"repeat_penalty": 1.0}}, PENALTIES | {"repeat_penalty": 1.0}),
        # of one kind a request's own, which vLLM applies, and not the model's as well
        ({"frequency_penalty": 1.0}, {k: v for k, v in PENALTIES.items() if k != "frequency_penalty"}),
        ({"repetition_penalty": 1.2}, {k: v for k, v in PENALTIES.items() if k != "repeat_penalty"}),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_penalties(tmp_path: Path, asked: dict[str, Any], arrives: dict[str, Any], named: bool) -> None:
    own = {"vllm_xargs": PENALTIES}
    by_name = {"default": "bot", "without_tools": [], "variants": {"bot": own}}
    call = middleware(tmp_path, by_name if named else own)
    body, _ = call(json.dumps({"model": "bot", **asked}).encode())
    assert json.loads(body)["vllm_xargs"] == arrives
