"""What vLLM does with the fields of Ollama's clients: every rule of migrate.parity.clients that says "tested".

`CASES` maps rules to a request and what its answer shows; tests/parity/test_clients.py holds the list complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from migrate.engines.vllm import VllmEngine

pytestmark = pytest.mark.live

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
QUESTION = {"role": "user", "content": "What is 3+4?"}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]
CONTEXT = 2048
"""Of the tinychat checkpoint."""

Check = Callable[[httpx.Response, httpx.Response], bool]
"""(answer, the answer to the same question alone) -> whether it shows what the rule says."""


@dataclass(frozen=True)
class Case:
    """One request. `rules` are "CLIENT/ID", or "*/ID" for both; `body` is merged into a greedy chat request."""

    name: str
    rules: tuple[str, ...]
    check: Check
    body: dict[str, Any] = field(default_factory=dict)
    path: str = CHAT
    method: str = "POST"


def content(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def ignored(answer: httpx.Response, plain: httpx.Response) -> bool:
    same = ("prompt_text", "usage")
    return content(answer) == content(plain) and all(answer.json()[key] == plain.json()[key] for key in same)


def refused(*words: str) -> Check:
    """400 with each of `words` in the message, in the form that vLLM's errors have."""

    def check(answer: httpx.Response, plain: httpx.Response) -> bool:
        error = answer.json()["error"]
        return answer.status_code == error["code"] == 400 and all(word in error["message"] for word in words)

    return check


def not_found(answer: httpx.Response, plain: httpx.Response) -> bool:
    return answer.status_code == 404


def tokens(count: int, reason: str = "length") -> Check:
    def check(answer: httpx.Response, plain: httpx.Response) -> bool:
        said = answer.json()
        return bool(said["usage"]["completion_tokens"] == count and said["choices"][0]["finish_reason"] == reason)

    return check


def prompt(wanted: str) -> Check:
    return lambda answer, plain: wanted in answer.json()["prompt_text"]


def history(**call: Any) -> dict[str, Any]:
    calls = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}} | call]
    messages = [QUESTION, {"role": "assistant", "content": "", "tool_calls": calls}]
    return {"messages": [*messages, {"role": "tool", "tool_call_id": "c1", "content": "7"}]}


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def streamed(answer: httpx.Response, plain: httpx.Response) -> bool:
    """Server-sent events, the first one empty, the counts in none."""
    parts = events(answer)
    text = "".join(part["choices"][0]["delta"].get("content") or "" for part in parts)
    first = parts[0]["choices"][0]["delta"]["content"]
    return text == content(plain) and first == "" and not any(part.get("usage") for part in parts)


LONG = {"messages": [{"role": "user", "content": "cat " * 2 * CONTEXT}]}
JSON_OBJECT = {"type": "json_object"}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [5]}}, "required": ["a"], "additionalProperties": False}

CASES = (
    Case("/api/chat", ("native/chat",), not_found, path="/api/chat"),
    Case("/api/generate", ("native/generate",), not_found, path="/api/generate"),
    Case("/api/embed", ("native/embed", "native/not-embeddings"), not_found, path="/api/embed"),
    Case("/v1/embeddings", ("*/not-embeddings",), not_found, {"input": "x"}, "/v1/embeddings"),
    Case("/api/tags", ("native/management",), not_found, path="/api/tags", method="GET"),
    Case("/v1/models", ("native/management",), lambda a, p: a.status_code == 200, path="/v1/models", method="GET"),
    Case("one model", ("openai/one-model",), not_found, path="/v1/models/tinychat", method="GET"),
    Case("audio", ("openai/audio",), not_found, path="/v1/audio/transcriptions"),
    Case("no messages", ("native/load",), refused("empty conversation"), {"messages": []}),
    Case("no prompt", ("native/load",), refused("prompt"), {"prompt": ""}, COMPLETIONS),
    Case("the answer", ("native/answer", "native/counts", "native/done-reason", "native/thinking", "openai/reasoning",
                        "openai/usage", "native/stream"),
         lambda a, p: set(a.json()["usage"]) >= {"prompt_tokens", "completion_tokens"}
         and a.json()["choices"][0]["finish_reason"] == "stop" and "reasoning" in a.json()["choices"][0]["message"]
         and a.headers["content-type"] == "application/json"),
    Case("a stream", ("native/ndjson", "native/counts", "openai/usage"), streamed, {"stream": True}),
    Case("a stream with counts", ("native/counts",), lambda a, p: bool(events(a)[-1]["usage"]["prompt_tokens"]),
         {"stream": True, "stream_options": {"include_usage": True}}),
    Case("options", ("native/options", "native/num-predict", "native/num-ctx", "native/no-counterpart",
                     "native/load-options", "openai/ollamas-fields"), ignored,
         {"options": {"num_predict": 2, "num_ctx": 8, "temperature": 9, "stop": ["7"], "typical_p": 0.1,
                      "num_gpu": 0}}),
    Case("Ollama's names", ("openai/ollamas-fields", "native/repeat-penalty", "native/keep-alive", "native/format-json",
                            "native/think", "native/truncate"), ignored,
         {"num_predict": 2, "num_ctx": 8, "repeat_penalty": 2.0, "keep_alive": 0, "format": "json", "think": False,
          "truncate": False, "shift": False, "raw": True}),
    Case("a schema as format", ("native/format-schema",), ignored, {"format": SCHEMA}),
    Case("fields of /api/generate", ("native/system", "native/template", "native/context"), ignored,
         {"system": "Say no.", "template": "{{ .Prompt }}", "context": [1, 2]}),
    Case("chat_template", ("native/template",), refused("--trust-request-chat-template"), {"chat_template": "x"}),
    Case("images", ("native/images",), ignored, {"messages": [QUESTION | {"images": ["aGk="]}]}),
    Case("image_url", ("openai/images",), refused("not a multimodal model"),
         {"messages": [{"role": "user", "content": [
             {"type": "text", "text": "x"},
             {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}]}]}),
    Case("max_tokens -1", ("native/num-predict-unlimited", "openai/max-tokens-small"), refused("at least 1"),
         {"max_tokens": -1}),
    Case("max_tokens 0", ("native/num-predict-unlimited", "openai/max-tokens-small"), refused("at least 1"),
         {"max_tokens": 0}),
    Case("max_tokens of the context", ("*/max-tokens-large",), lambda a, p: content(a) == content(p),
         {"max_tokens": CONTEXT}),
    Case("max_tokens above the context", ("*/max-tokens-large",), refused("max_model_len"),
         {"max_tokens": CONTEXT + 1}),
    Case("max_completion_tokens", ("openai/completion-tokens",), tokens(3), {"max_completion_tokens": 3}),
    Case("too long", ("*/long-prompt",), refused("maximum context length"), LONG),
    Case("too long and cut", ("*/long-prompt",), lambda a, p: a.status_code == 200,
         LONG | {"truncate_prompt_tokens": CONTEXT // 2}),
    Case("raw prompt", ("native/raw", "openai/completions"),
         lambda a, p: tokens(16)(a, p) and a.json()["usage"]["prompt_tokens"] < 8,
         {"prompt": "Once upon a time", "max_tokens": None, "stop": None}, COMPLETIONS),
    Case("suffix", ("*/suffix",), refused("FIM"), {"prompt": "a", "suffix": "b"}, COMPLETIONS),
    Case("logprobs", ("native/logprobs",),
         lambda a, p: set(a.json()["choices"][0]["logprobs"]["content"][0]) == {"token", "logprob", "bytes",
                                                                               "top_logprobs"},
         {"logprobs": True, "top_logprobs": 20}),
    Case("top_logprobs alone", ("*/top-logprobs",), refused("`logprobs` must be set"), {"top_logprobs": 2}),
    Case("_debug_render_only", ("native/debug-render",), ignored, {"_debug_render_only": True}),
    Case("thinking", ("native/thinking-history",),
         lambda a, p: "hm" not in a.json()["prompt_text"] and a.json()["prompt_text"].count("3+4") == 2,
         {"messages": [QUESTION, {"role": "assistant", "content": "x", "thinking": "hm"}, QUESTION]}),
    Case("tool_name", ("native/tool-name",), prompt("7"),
         {"messages": [*history()["messages"][:2], {"role": "tool", "content": "7", "tool_name": "get_weather"}]}),
    Case("a call in the history", ("*/tool-history",), prompt("7"), history()),
    Case("arguments as an object", ("*/tool-history",), refused("string"),
         history(function={"name": "get_weather", "arguments": {"city": "Oslo"}})),
    Case("a call without type", ("*/tool-history",), refused("type"), history(type=None)),
    Case("a call without id", ("*/tool-history",), refused("id"), history(id=None)),
    Case("another case", ("*/model",), not_found, {"model": "TinyChat"}),
    Case("temperature 2", ("*/temperature",), lambda a, p: a.status_code == 200, {"temperature": 2, "seed": 1}),
    Case("temperature 2.5", ("*/temperature",), refused("[0, 2]"), {"temperature": 2.5}),
    Case("temperature -1", ("*/temperature",), refused("non-negative"), {"temperature": -1}),
    Case("top_p 0", ("*/top-p",), refused("(0, 1]"), {"temperature": 1, "top_p": 0}),
    Case("top_p 1.5", ("*/top-p",), refused("(0, 1]"), {"temperature": 1, "top_p": 1.5}),
    Case("top_k -1", ("*/top-k",), lambda a, p: a.status_code == 200, {"temperature": 1, "top_k": -1, "seed": 1}),
    Case("top_k -2", ("*/top-k",), refused("top_k"), {"temperature": 1, "top_k": -2}),
    Case("min_p 2", ("*/top-k",), refused("[0, 1]"), {"temperature": 1, "min_p": 2}),
    Case("presence_penalty 3", ("*/penalties-range",), refused("[-2, 2]"), {"presence_penalty": 3}),
    Case("frequency_penalty -3", ("*/penalties-range",), refused("[-2, 2]"), {"frequency_penalty": -3}),
    Case("four stops", ("*/stop-many",), lambda a, p: content(a) == "3+4 is ", {"stop": ["a", "b", "c", "7"]}),
    Case("five stops", ("*/stop-many",), refused("at most 4"), {"stop": ["a", "b", "c", "d", "7"]}),
    Case("an empty stop", ("*/stop-empty",), refused("empty string"), {"stop": [""]}),
    Case("tools: []", ("*/tools-empty",), refused("empty array"), {"tools": []}),
    Case("tools without a parser", ("*/tools-parser",), refused("--tool-call-parser"), {"tools": TOOLS}),
    Case("tool_choice", ("openai/tool-choice",), refused("required", "--tool-call-parser"),
         {"tools": TOOLS, "tool_choice": "required"}),
    Case("tool_choice alone", ("openai/tool-choice-alone",), refused("`tools` must be set"), {"tool_choice": "auto"}),
    Case("a begun answer", ("*/prefill",), prompt("3+4 is<|im_end|>"),
         {"messages": [QUESTION, {"role": "assistant", "content": "3+4 is"}]}),
    Case("a begun answer goes on", ("*/prefill",), lambda a, p: a.json()["prompt_text"].endswith("3+4 is"),
         {"messages": [QUESTION, {"role": "assistant", "content": "3+4 is"}], "continue_final_message": True,
          "add_generation_prompt": False}),
    Case("ignore_eos", ("openai/sampling",), tokens(12), {"ignore_eos": True}),
    Case("bad_words", ("openai/sampling",), lambda a, p: "7" not in content(a), {"bad_words": ["7"]}),
    Case("n", ("openai/n",), lambda a, p: len(a.json()["choices"]) == 2, {"n": 2, "temperature": 1}),
    Case("n, greedy", ("openai/n",), refused("n must be 1"), {"n": 2}),
    Case("logit_bias", ("openai/logit-bias",), lambda a, p: content(a) == "X" * 12, {"logit_bias": {"55": 100}}),
    Case("json_object", ("openai/response-format",), lambda a, p: content(a).startswith("{"),
         {"response_format": JSON_OBJECT}),
    Case("json_schema", ("openai/response-format",), lambda a, p: content(a).startswith('{"a":'),
         {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}),
    Case("json_schema without a name", ("openai/schema-name",), refused("json_schema.name"),
         {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}),
    Case("stream_options alone", ("openai/stream-options",), refused("stream=True"),
         {"stream_options": {"include_usage": True}}),
    Case("ultra", ("openai/effort-unknown",), refused("reasoning_effort"), {"reasoning_effort": "ultra"}),
    Case("reasoning", ("openai/reasoning-object",), ignored, {"reasoning": {"effort": "low"}}),
    Case("text parts", ("openai/content-parts",), prompt("What is\n3+4?"),
         {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("What is", "3+4?")]}]}),
    Case("user", ("openai/user",), ignored, {"user": "x"}),
    Case("/v1/responses", ("openai/other-routes",), lambda a, p: a.status_code == 200,
         {"input": "What is 3+4?", "max_output_tokens": 4}, "/v1/responses"),
    Case("/v1/messages", ("openai/other-routes",), lambda a, p: a.json()["content"][0]["text"] == content(p),
         path="/v1/messages"),
    Case("an unknown path", ("*/errors",), lambda a, p: a.json() == {"detail": "Not Found"}, path="/v1/nothing"),
    Case("a wrong value", ("*/errors",),
         lambda a, p: set(a.json()["error"]) == {"message", "type", "param", "code"}
         and a.json()["error"]["code"] == a.status_code == 404,
         {"model": "nope"}),
)  # fmt: skip

IN_HEADERS = ("*/content-type", "*/browser")
"""Rules that the last two tests of this file show."""


@pytest.fixture(scope="module")
def client(vllm_tinychat: VllmEngine) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=vllm_tinychat.url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def base(vllm_tinychat: VllmEngine) -> dict[str, Any]:
    return {"model": vllm_tinychat.model, "temperature": 0, "max_tokens": 12, "return_prompt_text": True}


@pytest.fixture(scope="module")
def plain(client: httpx.Client, base: dict[str, Any]) -> httpx.Response:
    """The answer to the question alone."""
    answer = client.post(CHAT, json=base | {"messages": [QUESTION]})
    assert content(answer) == "3+4 is 7."
    return answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_vllm_does(case: Case, client: httpx.Client, base: dict[str, Any], plain: httpx.Response) -> None:
    messages = {} if case.path in (COMPLETIONS, "/v1/responses", "/v1/embeddings") else {"messages": [QUESTION]}
    body = {key: value for key, value in (base | messages | case.body).items() if value is not None}
    for call in (c for m in body.get("messages", ()) for c in m.get("tool_calls", ())):
        for key in [key for key in call if call[key] is None]:
            del call[key]
    answer = client.request(case.method, case.path, json=body if case.method == "POST" else None)
    assert case.check(answer, plain), (answer.status_code, answer.text)


def test_a_body_without_its_content_type(client: httpx.Client, base: dict[str, Any], plain: httpx.Response) -> None:
    body = json.dumps(base | {"messages": [QUESTION]})
    answer = client.post(CHAT, content=body)
    assert refused("application/json")(answer, plain)
    answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert content(answer) == content(plain)


def test_a_web_page_is_not_let_in(client: httpx.Client) -> None:
    page = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = client.options(CHAT, headers=page)
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers
