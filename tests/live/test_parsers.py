"""Every row of our parser tables in real vLLM: what our chat template of that family prints for a call is read back."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.bundle import write
from migrate.chat_template import render, renderer
from migrate.engines import vllm
from migrate.engines.provision import EnginesEnv
from migrate.mapping.migration import Choices, plan
from migrate.ollama.store import Store
from migrate.vllm import reasoning_parsers, tool_parsers
from migrate.vllm.installed import parser_names

pytestmark = pytest.mark.live

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
ARGUMENTS = {"city": "Paris", "days": 3}
USER = {"role": "user", "content": "Weather?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
ASSISTANT = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "22 degrees", "name": "get_weather", "tool_call_id": "c1"}

FAMILIES = {
    "qwen3": "qwen3-vl-instruct",
    "qwen3-thinking": "qwen3-vl-instruct",
    "qwen3-vl-instruct": "qwen3-vl-instruct",
    "qwen3-vl-thinking": "qwen3-vl-instruct",
    "qwen3-coder": "qwen3-coder",
    "qwen3.5": "qwen3.5",
    "ornith": "ornith",
    "nemotron-3-nano": "nemotron-3-nano",
    "nemotron-3.5-nano": "nemotron-3.5-nano",
    "cogito": "cogito",
    "deepseek3": "deepseek3.1",
    "olmo3": "olmo3",
    "functiongemma": "functiongemma",
    "glm-4.7": "glm-4.7",
    "glm-ocr": "glm-ocr",
    "gemma4": "gemma4-small",
    "gemma4-no-thinking": "gemma4-small",
    "lfm2": "lfm2",
    "lfm2-thinking": "lfm2-thinking",
    "laguna": "laguna",
    "poolside-v1": "poolside-v1",
    "glimmer": "glimmer",
}
"""PARSER -> the RENDERER that prints its syntax."""

NOT_PROVED = {"ministral", "harmony", "cohere"}
"""No renderer prints the first two; vLLM reads cohere with a parser of another kind."""

LOSES_NUMBERS = {"functiongemma"}

END = re.compile(
    r"<\|im_end\|>|<｜end▁of▁sentence｜>|<end_of_turn>|<turn\|>|<\|eot\|>|</assistant>|<\|user\|>|<\|observation\|>"
    r"|<start_function_response>|<\|tool_response>"
)

Probe = Callable[[list[dict[str, Any]]], list[Any]]


@pytest.fixture(scope="module")
def probe(engines: EnginesEnv) -> Probe:
    def run(tasks: list[dict[str, Any]]) -> list[Any]:
        script = Path(__file__).with_name("parser_probe.py")
        done = subprocess.run(
            [engines.python, script], input=json.dumps(tasks), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
        answers: list[Any] = json.loads(done.stdout.partition("ANSWERS ")[2])
        return answers

    return run


def printed_call(name: str) -> tuple[str, list[str]]:
    """What a model of this family writes to call a tool, by its own template; and the tokens of that text."""
    jinja = renderer(name).jinja
    start = render(jinja, [USER], tools=[TOOL])
    whole = render(jinja, [USER, ASSISTANT, RESULT], tools=[TOOL])
    same = next(i for i, (a, b) in enumerate(zip(start + "\0", whole, strict=False)) if a != b)
    same = whole.rfind("<", 0, same + 1) if whole[same] != "<" and "<" in whole[same - 12 : same] else same
    end = END.search(whole, same + 1)
    text = whole[same : end.start() if end else None]
    tokens = {*re.findall(r"</?[^<>\s=]{1,40}>", whole), "<think>", "</think>", "<|channel>", "<channel|>"}
    return text, sorted(tokens)


def test_tool_parsers_read_what_our_templates_write(probe: Probe) -> None:
    assert set(FAMILIES) | NOT_PROVED == set(tool_parsers.BY_OLLAMA_PARSER)
    tasks = []
    for parser, family in FAMILIES.items():
        text, tokens = printed_call(family)
        name = tool_parsers.BY_OLLAMA_PARSER[parser]
        tasks.append({"kind": "tools", "parser": name, "tools": [TOOL], "text": text, "tokens": tokens})
    answers = dict(zip(FAMILIES, probe(tasks), strict=True))
    for parser, answer in answers.items():
        arguments = {"city": "Paris"} if parser in LOSES_NUMBERS else ARGUMENTS
        assert answer["calls"] == [["get_weather", arguments]], (parser, answer)
        assert answer["streamed"] == [["get_weather", arguments]], (parser, answer)


@pytest.mark.parametrize("think", [True, False])
def test_reasoning_parsers_split_answers(probe: Probe, think: bool) -> None:
    """With thinking on the prompt ends in the opening tag, or the model writes it; off, all is answer."""
    names = sorted({"qwen3", "nemotron_v3", "deepseek_v3", "glm47", "poolside_v1"})
    tokens = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>",
              "</arg_value>", "<assistant>", "</assistant>", "<user>", "</user>"]  # fmt: skip
    texts = ["plan</think>answer", "<think>plan</think>answer"] if think else ["answer"]
    tasks = [
        {"kind": "reasoning", "parser": n, "text": t, "tokens": tokens, "think": think} for n in names for t in texts
    ]
    expected = ["plan", "answer"] if think else [None, "answer"]
    for task, answer in zip(tasks, probe(tasks), strict=True):
        assert answer == expected, task


def test_every_name_is_registered(probe: Probe, engines: EnginesEnv) -> None:
    (registered,) = probe([{"kind": "names"}])
    tools, thinking = map(frozenset, registered)
    assert {*tool_parsers.BY_OLLAMA_PARSER.values(), *(p.name for p in tool_parsers.PARSERS)} <= tools
    assert set(reasoning_parsers.BY_OLLAMA_PARSER.values()) <= thinking
    package = next(engines.python.parent.parent.glob("lib/python*/site-packages/vllm"))
    assert parser_names("tool", package) == tools
    assert parser_names("reasoning", package) == thinking


PLUGIN_TEXTS = [
    ("<tool_call>", 'Let me see. <tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n'),
    ("[TOOL_CALLS] [", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}]'),
    ("Action: ```json\n[", 'Action: ```json\n[{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}]```'),
    ("{", '{"get_weather": {"city": "Paris", "days": 3}}'),
]


@pytest.mark.parametrize(("tag", "text"), PLUGIN_TEXTS)
def test_the_plugin_in_vllm(probe: Probe, tmp_path: Path, tag: str, text: str) -> None:
    path = tmp_path / "tool_parser.py"
    path.write_text(write.tool_parser(tag), encoding="utf-8")
    task = {"kind": "tools", "parser": "ollama", "tools": [TOOL], "text": text, "tokens": ["<tool_call>"]}
    _, answer = probe([{"kind": "plugin", "path": str(path)}, task])
    assert answer["calls"] == answer["streamed"] == [["get_weather", ARGUMENTS]]


def test_a_served_bundle_with_the_plugin_calls_tools(
    shared: Path, engines: EnginesEnv, logs: Path, tmp_path: Path
) -> None:
    """The small model is made to write a call (structured outputs); vLLM hands it out as one, at once and streamed."""
    bundle = tmp_path / "bundle"
    write.write(plan(Store(shared / "ollama/store").load("support-bot"), Choices(tool_call_parser="ollama")), bundle)
    written = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    request = {
        "model": "support-bot",
        "messages": [USER],
        "tools": [TOOL],
        "max_tokens": 200,
        "temperature": 0,
        "structured_outputs": {"regex": re.escape(written)},
    }
    with vllm.serve(
        bundle, vllm=str(engines.vllm), args=vllm.COMPARE_ARGS, env=vllm.CPU_ENV, log=logs / "plugin.log"
    ) as server:
        url = f"{server.url}/v1/chat/completions"
        whole = httpx.post(url, json=request, timeout=120).json()
        stream = httpx.post(url, json=request | {"stream": True}, timeout=120).text
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls", json.dumps(choice)
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Paris"})
    chunks = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
    deltas = [d for chunk in chunks for c in chunk["choices"] for d in c["delta"].get("tool_calls") or ()]
    assert [d["function"]["name"] for d in deltas if d["function"].get("name")] == ["get_weather"]
    assert json.loads("".join(d["function"].get("arguments") or "" for d in deltas)) == {"city": "Paris"}
    assert [c["finish_reason"] for chunk in chunks for c in chunk["choices"]][-1] == "tool_calls"
