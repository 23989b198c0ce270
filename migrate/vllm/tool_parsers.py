"""Which of vLLM's tool-call parsers reads what a model was taught to write.

Without `--enable-auto-tool-choice --tool-call-parser NAME` vLLM answers a request with tools with 400. Each parser
expects one syntax (vllm/tool_parsers/ of 0.32): told by Ollama's PARSER, or by the marks the chat template writes
around past calls. Where none fits, the bundle brings a parser of its own that searches as Ollama does (`PLUGIN`).
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass

PLUGIN = "ollama"
"""The name under which the bundle's own parser, tool_parser.py, registers itself."""


@dataclass(frozen=True, slots=True)
class ToolParser:
    """`marks`: regular expressions all found in the template. `needs`: tokens that the vocabulary must have."""

    name: str
    marks: tuple[str, ...]
    syntax: str
    needs: tuple[str, ...] = ()


PARSERS = (
    ToolParser("qwen3_coder", (r"<tool_call>", r"<function="), "<tool_call><function=NAME>...</tool_call>"),
    ToolParser("hermes", (r"<tool_call>", r'"name"', r'"arguments"'), '<tool_call>{"name", "arguments"}</tool_call>'),
    ToolParser("mistral", (r"\[TOOL_CALLS\]",), "[TOOL_CALLS] [...]", needs=("[TOOL_CALLS]",)),
    ToolParser("llama3_json", (r"<\|python_tag\|>|<\|start_header_id\|>", r'"parameters"'), '{"name", "parameters"}'),
)


def choose(template: str, vocabulary: Container[str] = ()) -> ToolParser | None:
    """The parser for a template's own tool syntax; None when no mark is known or the vocabulary lacks its tokens."""
    for parser in PARSERS:
        if all(re.search(mark, template) for mark in parser.marks):
            return parser if all(token in vocabulary for token in parser.needs) else None
    return None


BY_OLLAMA_PARSER: Mapping[str, str] = {
    "qwen3": "hermes",
    "qwen3-thinking": "hermes",
    "qwen3-vl-instruct": "hermes",
    "qwen3-vl-thinking": "hermes",
    "qwen3-coder": "qwen3_coder",
    "qwen3.5": "qwen3_coder",
    "ornith": "qwen3_coder",
    "nemotron-3-nano": "qwen3_coder",
    "nemotron-3.5-nano": "qwen3_coder",
    "ministral": "mistral",
    "harmony": "openai",
    "cogito": "deepseek_v3",
    "deepseek3": "deepseek_v31",
    "olmo3": "olmo3",
    "functiongemma": "functiongemma",
    "glm-4.7": "glm47",
    "glm-ocr": "glm47",
    "gemma4": "gemma4",
    "gemma4-no-thinking": "gemma4",
    "lfm2": "lfm2",
    "lfm2-thinking": "lfm2",
    "laguna": "poolside_v1",
    "poolside-v1": "poolside_v1",
    "cohere": "cohere_command4",
    "glimmer": "muse_glimmer",
}
"""Ollama's PARSER -> the parser of vLLM 0.32 that reads the same syntax; olmo3-think and passthrough read no calls."""

DIFFERENCES: Mapping[str, str] = {
    "functiongemma": "vLLM's parser loses arguments that are not text (vLLM 0.32)",
    "cohere_command4": "vLLM reads it only together with the reasoning parser of the same name",
    "mistral": "vLLM wants the token [TOOL_CALLS] in the vocabulary",
}
