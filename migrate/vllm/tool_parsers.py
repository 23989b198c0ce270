"""Which of vLLM's tool-call parsers reads what a model was taught to write.

Without `--enable-auto-tool-choice --tool-call-parser NAME` vLLM answers a request with tools with 400. Each parser
expects one syntax (vllm/tool_parsers/), told here by the marks the chat template writes around past calls.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolParser:
    """`marks` are regular expressions that must all be found in the template."""

    name: str
    marks: tuple[str, ...]
    syntax: str


PARSERS = (
    ToolParser("qwen3_coder", (r"<tool_call>", r"<function="), "<tool_call><function=NAME>...</tool_call>"),
    ToolParser("hermes", (r"<tool_call>", r'"name"', r'"arguments"'), '<tool_call>{"name", "arguments"}</tool_call>'),
    ToolParser("mistral", (r"\[TOOL_CALLS\]",), "[TOOL_CALLS] [...]"),
    ToolParser("llama3_json", (r"<\|python_tag\|>|<\|start_header_id\|>", r'"parameters"'), '{"name", "parameters"}'),
)


def choose(template: str) -> ToolParser | None:
    """The parser for a template's own tool syntax; None when no mark is known."""
    return next((p for p in PARSERS if all(re.search(mark, template) for mark in p.marks)), None)
