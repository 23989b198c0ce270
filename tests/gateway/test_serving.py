"""Requests to answers, over what a real vLLM said: beside what a real Ollama answered to the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.gateway.catalog import Catalog
from migrate.gateway.prompts import Prompts
from migrate.gateway.serving import Clock, Serving
from migrate.gateway.types import ApiError, ChatRequest, GenerateRequest
from migrate.gateway.upstreams import Upstreams
from tests.gateway import bench
from tests.gateway.comparing import Answer, differences, is_greedy
from tests.ollama.replay import recordings

GREEDY: dict[str, dict[str, Any]] = {"support-bot": {"temperature": 0.2}, "renderer-bot": {"temperature": 0}}
NEAR_TIE = {"text"}
"""Orange for black: they lie 0.0008 apart in Ollama's own log-probabilities of this beginning (chat/support-bot/5)."""
JSON_TOOLS = {"prompt_eval_count"}
"""{{ .Function }} prints JSON, not the Go struct of Ollama since 0.14."""
ANSWERED: dict[str, set[str]] = {
    "chat/support-bot/0": set(),
    "chat/support-bot/6": set(),
    "chat/renderer-bot/0": set(),
    "chat-stream/support-bot": NEAR_TIE,
    "generate/support-bot": set(),
    "generate/renderer-bot": set(),
    "generate-raw": set(),
    "generate-system": set(),
    "generate-template": set(),
    "chat-stop-option": NEAR_TIE,
    "chat-num-predict": set(),
    "chat-format-json": set(),
    "chat-format-schema": set(),
    "chat-tools": JSON_TOOLS,
    "chat-tools-stream": JSON_TOOLS,
    "chat-long-prompt-truncated": set(),
    "v1-chat": set(),
    "v1-completions": set(),
    "v1-messages": set(),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_answers_are_ollamas(alone: Path, shared: Path, name: str) -> None:
    row = next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == name)
    request, wanted = row["request"], row["response"]
    with bench.vllm() as vllm:
        got = bench.ask(bench.config(alone, vllm.url), request["method"], request["path"], request["body"])

    mine = Answer.of(got.status_code, got.headers["content-type"], got.text)
    theirs = Answer.of(wanted["status"], wanted["content_type"], wanted["body"])
    found = differences(theirs, mine, greedy=is_greedy(request, GREEDY[request["body"]["model"]]))
    assert set(found) == ANSWERED[name], found
    asked = [body for path, body in vllm.asked if path.startswith("/v1/")]
    assert len(asked) == 1


# ---- requests that vLLM would not take as they are -------------------------------------------------------------------

EXTRA = json.loads((bench.FIXTURES / "vllm-requests.json").read_text())


def extra(alone: Path, name: str) -> Any:
    request = EXTRA[name]
    with bench.vllm() as vllm:
        return bench.ask(bench.config(alone, vllm.url), request["method"], request["path"], request["body"])


@pytest.mark.parametrize(
    ("name", "prompt_tokens", "answer_tokens", "reason"),
    [
        ("odd-numbers", 82, 4, "length"),
        ("odd-numbers-2", 82, 4, "length"),
        ("small-temperature", 82, 4, "length"),
        ("num-ctx-1", 3, 12, "stop"),
        ("num-predict-0", 87, 8, "stop"),
        ("empty-stop", 82, 3, "length"),
        ("renderer-tools", 759, 24, "length"),
        ("renderer-odd-tools", 755, 4, "stop"),
        ("renderer-odd-tools-2", 874, 4, "length"),
        ("renderer-tools-format", 668, 4, "length"),
        ("renderer-tool-roundtrip", 840, 4, "stop"),
        ("renderer-unknown-role", 670, 4, "length"),
        ("renderer-empty-role", 665, 4, "stop"),
        ("renderer-prefill", 679, 4, "length"),
    ],
)
def test_odd_requests_are_answered(alone: Path, name: str, prompt_tokens: int, answer_tokens: int, reason: str) -> None:
    got = extra(alone, name)

    assert got.status_code == 200, got.text
    answer = got.json()
    assert (answer["prompt_eval_count"], answer["eval_count"]) == (prompt_tokens, answer_tokens)
    assert answer["done_reason"] == reason


@pytest.mark.parametrize(
    ("name", "status", "error"),
    [
        ("vllm-bad-schema", 400, "Grammar error: Pointer '/$defs/missing' does not exist"),
        ("vllm-odd-schema", 400, "Grammar error: Invalid type: frobnicate"),
        ("image-without-vision", 400, "support-bot is not a multimodal model"),
        ("many-stops", 400, "List should have at most 4 items"),
    ],
)
def test_what_vllm_refuses_is_the_clients_error(alone: Path, name: str, status: int, error: str) -> None:
    got = extra(alone, name)

    assert got.status_code == status
    assert error in got.json()["error"]
    assert list(got.json()) == ["error"]


def test_an_error_instead_of_a_stream_has_its_own_status(alone: Path) -> None:
    request = EXTRA["vllm-bad-schema"]
    body = {**request["body"], "stream": True}
    with bench.vllm() as vllm:
        got = bench.ask(bench.config(alone, vllm.url), "POST", request["path"], body)

    assert (got.status_code, got.headers["content-type"]) == (400, "application/json; charset=utf-8")


# ---- checks, in Ollama's order ---------------------------------------------------------------------------------------

USER = [{"role": "user", "content": "hi"}]
TOOL = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize(
    ("path", "body", "status", "answer"),
    [
        ("chat", {"messages": [], "keep_alive": 0}, 200, "unload"),
        ("chat", {"messages": [], "keep_alive": "0s", "think": True, "options": {"temperature": "x"}}, 200, "unload"),
        ("chat", {"messages": [], "keep_alive": -1}, 200, "load"),
        ("chat", {}, 200, "load"),
        ("chat", {"format": 3}, 200, "load"),
        ("chat", {"think": True}, 400, '"support-bot" does not support thinking'),
        ("chat", {"think": "high"}, 400, '"support-bot" does not support thinking'),
        ("chat", {"options": {"temperature": "x"}}, 500, 'option "temperature" must be of type float32'),
        ("chat", {"model": "legacy-bot", "tools": TOOL, "options": {"stop": 1}}, 400,
         "registry.ollama.ai/library/legacy-bot:latest does not support tools"),
        ("chat", {"messages": USER, "format": "xml"}, 500,
         'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
        ("chat", {"messages": USER, "format": "xml", "think": True}, 400, '"support-bot" does not support thinking'),
        ("chat", {"messages": USER, "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ("chat", {"messages": USER, "truncate": False, "options": {"num_ctx": 5}}, 400,
         "exceeds the available context size (5 tokens)"),
        ("chat", {"messages": USER, "shift": False, "options": {"num_ctx": 5}}, 400, "the prompt is longer than the"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGVsbG8="]}]}, 400,
         "an image is neither JPEG, PNG, WebP nor GIF"),
        ("generate", {"keep_alive": 0}, 200, "unload"),
        ("generate", {"keep_alive": 0, "raw": True, "system": "x"}, 200, "unload"),
        ("generate", {}, 200, "load"),
        ("generate", {"raw": True, "system": "x"}, 400, "raw mode does not support template, system, or context"),
        ("generate", {"raw": True, "template": "x", "think": True}, 400, "raw mode does not support"),
        ("generate", {"raw": True, "context": [1]}, 400, "raw mode does not support"),
        ("generate", {"prompt": "a", "suffix": "b"}, 400,
         "registry.ollama.ai/library/support-bot:latest does not support insert"),
        ("generate", {"prompt": "a", "suffix": "b", "raw": True}, 400, "does not support insert"),
        ("generate", {"suffix": "b", "think": True}, 400, '"support-bot" does not support thinking'),
        ("generate", {"prompt": "a", "options": {"stop": "x"}}, 500, 'option "stop" must be of type array'),
        ("generate", {"prompt": "a", "template": "{{ .Prompt"}, 500, "unclosed action"),
        ("generate", {"prompt": "a", "template": "{{ range $i := .Messages }}{{ $i.Nope }}{{ end }}"}, 500, "Nope"),
        ("generate", {"prompt": "a", "template": "x" * 70_000}, 400, "the template is longer than 65536 characters"),
        ("generate", {"prompt": "a", "context": [99999]}, 400, "a number of the context is no token of the model"),
        ("generate", {"prompt": "a", "context": [-1]}, 400, "a number of the context is no token of the model"),
        ("generate", {"prompt": "a", "format": 3}, 500, "invalid format: \"3\""),
        ("generate", {"prompt": "a", "images": ["aGk="], "raw": True}, 400,
         "images with raw, suffix, template or context cannot be sent to vLLM"),
        ("generate", {"prompt": "a", "images": ["aGk="], "context": [1]}, 400, "images with raw, suffix"),
        ("generate", {"prompt": "a", "images": ["aGk="]}, 400, "an image is neither"),
        ("chat", {"model": ""}, 400, "model is required"),
        ("chat", {"model": "a/b/c/d"}, 400, "model is required"),
        ("generate", {"model": ""}, 404, "model '' not found"),
        ("generate", {"model": "nope", "top_logprobs": -1}, 400, "top_logprobs must be between 0 and 20"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_checks(alone: Path, path: str, body: dict[str, Any], status: int, answer: str, stream: bool) -> None:
    """No server is asked for any of it."""
    got = bench.ask(
        bench.config(alone, bench.NOWHERE), "POST", f"/api/{path}", {"model": "support-bot", "stream": stream, **body}
    )

    assert got.status_code == status, got.text
    assert got.headers["content-type"] == "application/json; charset=utf-8"
    if status == 200:
        assert (got.json()["done"], got.json()["done_reason"]) == (True, answer)
        assert "total_duration" not in got.json()
    else:
        assert answer in got.json()["error"]


def test_a_prompt_is_shown_before_its_format_is_looked_at(alone: Path) -> None:
    """Ollama looks at `format` when it asks the model."""
    body = {"model": "support-bot", "messages": USER, "format": "xml", "_debug_render_only": True}
    got = bench.ask(bench.config(alone, bench.NOWHERE), "POST", "/api/chat", body)

    assert (got.status_code, list(got.json())) == (200, ["model", "created_at", "message", "done", "_debug_info"])


def test_no_server_is_503(alone: Path) -> None:
    for stream in (True, False):
        body = {"model": "support-bot", "messages": USER, "stream": stream}
        got = bench.ask(bench.config(alone, bench.NOWHERE), "POST", "/api/chat", body)
        assert (got.status_code, got.headers["retry-after"]) == (503, "1")
        assert got.json() == {"error": "no model server answers"}, "addresses are for the log"


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("closed", 500, "model runner has unexpectedly stopped"),
        ("status", 500, "an error was encountered while running the model: the engine is dead"),
        ("cut", 500, "an error was encountered while running the model: "),
        ("silent", 504, "an error was encountered while running the model: the model server fell silent"),
    ],
)
def test_a_server_that_breaks_off(alone: Path, shared: Path, fault: str, status: int, words: str) -> None:
    row = next(r for r in recordings(shared / "ollama" / "recordings.jsonl") if r["name"] == "generate-raw")
    body = row["request"]["body"]
    with bench.vllm() as vllm:
        vllm.fault = fault
        config = bench.config(alone, vllm.url, limits={"silence": 0.5})
        whole = bench.ask(config, "POST", "/api/generate", {**body, "stream": False})
        streamed = bench.ask(config, "POST", "/api/generate", {**body, "stream": True})

    assert (whole.status_code, list(whole.json())) == (status, ["error"])
    assert whole.json()["error"].startswith(words)
    if fault in ("cut", "silent"):  # something was sent before: the error is a line of its own
        assert streamed.status_code == 200
        *said, last = bench.lines(streamed)
        assert "".join(line["response"] for line in said).startswith("3+4")
        assert list(last) == ["error"]
        assert last["error"].startswith(words)
    else:
        assert streamed.status_code == status


# ---- chats by vLLM's own template ------------------------------------------------------------------------------------


def asked_of(bundles: Path, path: str, body: dict[str, Any], name: str = "renderer-bot") -> dict[str, Any]:
    """What vLLM is asked. Nothing is recorded for it, so that there is no answer."""
    with bench.vllm() as vllm:
        got = bench.ask(bench.config(bundles, vllm.url, only=[name]), "POST", path, {"model": name, **body})
        found = [asked for to, asked in vllm.asked if to == "/v1/chat/completions"]
    assert got.status_code == 500, got.text
    (only_one,) = found
    return dict(only_one)


def test_system_messages_of_a_long_chat_stay(bundles: Path) -> None:
    """What goes first are whole messages from the front, but not those of the system (chatPrompt)."""
    messages = [{"role": "system", "content": "Be brief."}]
    messages += [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"{i} " + "cat dog " * 40} for i in range(31)
    ]
    sent = asked_of(bundles, "/api/chat", {"messages": messages, "tools": TOOL})["messages"]

    assert sent[0] == {"role": "system", "content": "Be brief."}
    assert 2 < len(sent) < len(messages)
    assert sent[1:] == messages[len(messages) - len(sent) + 1 :]


def test_a_chat_that_fits_is_sent_as_it_is(bundles: Path) -> None:
    assert asked_of(bundles, "/api/chat", {"messages": USER, "tools": TOOL})["messages"] == USER


def test_one_message_that_is_too_long_is_refused(bundles: Path) -> None:
    body = {"model": "renderer-bot", "messages": [{"role": "user", "content": "cat dog " * 2200}], "tools": TOOL}
    got = bench.ask(bench.config(bundles, only=["renderer-bot"]), "POST", "/api/chat", body)

    assert got.status_code == 400
    assert "exceeds the available context size (2048 tokens)" in got.json()["error"]


@pytest.mark.parametrize("path", ["go_template", "gguf_jinja"])
def test_tokens_of_a_chat_by_the_ggufs_template_are_not_cut(alone: Path, path: str) -> None:
    """handleNativeChat leaves that to llama-server, which refuses; GenerateHandler does not."""
    model = bench.catalog(alone, only=["support-bot"]).models[0]
    more = {"prompt_path": path, "chat_template": "{{ messages[-1].content }}", "template": "{{ .Prompt }}"}
    source = model.source.model_copy(update=more)
    model = replace(model, source=source, prompts=Prompts(source))
    config = bench.config(alone, bench.NOWHERE)
    text = "cat dog " * 2200

    async def asked() -> str:
        serving = Serving(config, Upstreams(config))
        await serving.generate(model, GenerateRequest("support-bot", text))
        try:
            await serving.chat(model, ChatRequest("support-bot", [{"role": "user", "content": text}]))
        except ApiError as error:
            return error.message
        return ""

    assert ("exceeds the available context size (1024 tokens)" in bench.run(asked())) is (path == "gguf_jinja")


def test_reasoning_of_a_parser_is_read_in_generate_too(modern_bundles: Path) -> None:
    """GenerateHandler uses the model's PARSER unless the request is raw."""
    sent = asked_of(modern_bundles, "/api/generate", {"prompt": "why?", "system": "Be brief."}, "qwen35-bot")

    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "why?"}]
    assert sent["chat_template_kwargs"] == {"enable_thinking": True}


def test_templates_of_requests_do_not_hold_up_others(alone: Path) -> None:
    """A template that runs into the interpreter's limit, for more than a second, while another request is answered."""
    import asyncio
    import time

    slow = "{{ range $i := .Prompt | printf `%1000s` | js | slice }}{{ end }}"
    many = "{{ range .Messages }}{{ range $.Messages }}{{ end }}{{ end }}"
    template = "".join("{{ $a" + str(i) + " := 1 }}" for i in range(3000)) + slow[:0] + many

    async def both() -> float:
        async with bench.gateway(bench.config(alone, bench.NOWHERE)) as client:
            body = {"model": "support-bot", "prompt": "x", "template": template, "_debug_render_only": True}
            one = asyncio.create_task(client.post("/api/generate", json=body))
            longest = 0.0
            while not one.done():
                started = time.perf_counter()
                await client.get("/api/version")
                longest = max(longest, time.perf_counter() - started)
            assert (await one).status_code in (200, 500)
            return longest

    assert bench.run(both()) < 1.0


# ---- times -----------------------------------------------------------------------------------------------------------


def test_times_are_those_that_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.gateway.serving.time.perf_counter_ns", lambda: 1000)
    found = Clock(100, sent=150, first=400).metrics(3, 4)

    assert (found.total_duration, found.load_duration) == (900, 50)
    assert (found.prompt_eval_duration, found.eval_duration) == (250, 600)
    assert (found.prompt_eval_count, found.eval_count) == (3, 4)
    assert Clock(100, sent=100).metrics(3, 0).eval_duration == 1


def test_catalogs_are_what_is_served(catalog: Catalog) -> None:
    assert {model.upstream for model in catalog.models} == {"vllm"}


@pytest.mark.parametrize(
    "name",
    [
        "renderer-tools",
        "renderer-odd-tools",
        "renderer-odd-tools-2",
        "renderer-tools-format",
        "renderer-tool-roundtrip",
        "renderer-unknown-role",
        "renderer-empty-role",
        "renderer-prefill",
    ],
)
def test_vllms_template_writes_the_prompt_that_ollama_would(alone: Path, name: str) -> None:
    """As many tokens: what is cut by a count of ours fits at vLLM, too."""
    request = EXTRA[name]
    shown = bench.ask(
        bench.config(alone, bench.NOWHERE), "POST", request["path"], request["body"] | {"_debug_render_only": True}
    )
    model = bench.catalog(alone, only=["renderer-bot"]).models[0]
    prompt = model.prompts.with_bos(shown.json()["_debug_info"]["rendered_template"])
    (row,) = bench.recorded(name)
    usage = json.loads(row["reply"].split("\n\n")[-3].removeprefix("data: "))["usage"]

    assert len(model.tokens.encode(prompt)) == usage["prompt_tokens"]
