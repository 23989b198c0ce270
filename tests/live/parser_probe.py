"""Runs in vLLM's Python: JSON tasks on stdin, what vLLM's own tool and reasoning parsers make of texts on stdout."""

# mypy: ignore-errors

from __future__ import annotations

import json
import sys
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager


def tokenizer(tokens: list[str]) -> PreTrainedTokenizerFast:
    """Bytes, and `tokens` as tokens of their own."""
    vocabulary = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core)
    fast.add_tokens(tokens)
    return fast


def tool_calls(task: dict[str, Any], request: ChatCompletionRequest) -> dict[str, Any]:
    parser_class = ToolParserManager.get_tool_parser(task["parser"])
    whole = parser_class(tokenizer(task["tokens"]), request.tools).extract_tool_calls(task["text"], request)
    calls = [[call.function.name, json.loads(call.function.arguments)] for call in whole.tool_calls]
    return {"calls": calls, "content": whole.content, "streamed": streamed(parser_class, task, request)}


def streamed(parser_class: Any, task: dict[str, Any], request: ChatCompletionRequest) -> list[Any]:
    """The calls that arrive when the text comes token by token."""
    known = tokenizer(task["tokens"])
    parser = parser_class(known, request.tools)
    ids = known.encode(task["text"], add_special_tokens=False)
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    before = ""
    for end in range(1, len(ids) + 1):
        now = known.decode(ids[:end])
        if now.endswith("\N{REPLACEMENT CHARACTER}"):
            continue
        delta = parser.extract_tool_calls_streaming(
            before, now, now[len(before) :], ids[: end - 1], ids[:end], ids[end - 1 : end], request
        )
        for call in delta.tool_calls if delta else ():
            names.setdefault(call.index, call.function.name or "")
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        before = now
    return [[names[i], json.loads(arguments[i])] for i in sorted(names)]


def reasoning(task: dict[str, Any], request: ChatCompletionRequest) -> list[str | None]:
    parser = ReasoningParserManager.get_reasoning_parser(task["parser"])(
        tokenizer(task["tokens"]), chat_template_kwargs={"enable_thinking": task["think"]}
    )
    return list(parser.extract_reasoning(task["text"], request))


def main() -> None:
    answers: list[Any] = []
    for task in json.load(sys.stdin):
        request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "?"}], tools=task.get("tools"))
        if task["kind"] == "plugin":
            ToolParserManager.import_tool_parser(task["path"])
            answers.append(None)
        elif task["kind"] == "names":
            answers.append([ToolParserManager.list_registered(), ReasoningParserManager.list_registered()])
        else:
            answers.append((tool_calls if task["kind"] == "tools" else reasoning)(task, request))
    print("ANSWERS " + json.dumps(answers))


if __name__ == "__main__":
    main()
