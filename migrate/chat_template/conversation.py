"""A conversation as Ollama's /api/chat takes it -> as vLLM hands it to a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def arguments(conversation: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `render`: messages, tools, enable_thinking, reasoning_effort (the last two only if set)."""
    call: dict[str, Any] = {"messages": [message(m) for m in conversation["messages"]]}
    if conversation.get("tools"):
        call["tools"] = [tool(t) for t in conversation["tools"]]
    think = conversation.get("think")
    if isinstance(think, bool):
        call["enable_thinking"] = think
    elif isinstance(think, str):  # vLLM derives enable_thinking from the effort
        call |= {"reasoning_effort": think, "enable_thinking": think != "none"}
    return call


def message(ollama: Mapping[str, Any]) -> dict[str, Any]:
    """One message in OpenAI's shape, as vLLM's renderer leaves it (arguments a dict, reasoning under two names)."""
    openai: dict[str, Any] = {"role": ollama["role"], "content": ollama.get("content") or ""}
    if ollama.get("thinking"):
        openai |= {"reasoning": ollama["thinking"], "reasoning_content": ollama["thinking"]}
    if ollama.get("tool_calls"):
        openai["tool_calls"] = [_tool_call(call) for call in ollama["tool_calls"]]
    if ollama.get("tool_name"):
        openai["name"] = ollama["tool_name"]
    if ollama.get("tool_call_id"):
        openai["tool_call_id"] = ollama["tool_call_id"]
    return openai


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    named = {key: function[key] for key in ("name", "index") if key in function}
    return {
        **({"id": call["id"]} if call.get("id") else {}),
        "type": "function",
        "function": named | {"arguments": function.get("arguments") or {}},
    }


def tool(ollama: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as vLLM dumps it: description and parameters are null when absent."""
    function = ollama.get("function") or {}
    return {
        "type": ollama.get("type", "function"),
        "function": {"description": None, "parameters": None, **function},
    }
