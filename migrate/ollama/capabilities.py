"""What Ollama thinks a model can do, and a template says: rules of thumb of its own, repeated to the letter.

They decide more than a label: which template is live (`prompt_path`), whether `think` defaults to true, whether tools
are refused (server/images.go, thinking/template.go, template/template.go, read at 0.33).
"""

from __future__ import annotations

from migrate.errors import TemplateError
from migrate.ollama import template
from migrate.ollama.model import OllamaModel, PromptPath

Capabilities = frozenset[str]

DEFAULT_TEMPLATE = "{{ .Prompt }}"
"""What stands in for a TEMPLATE that is not there."""

_PARSERS: dict[str, tuple[bool, bool]] = {
    "qwen3": (True, False),
    "qwen3-thinking": (True, True),
    "qwen3.5": (True, True),
    "ornith": (True, True),
    "qwen3-coder": (True, False),
    "qwen3-vl-instruct": (True, False),
    "qwen3-vl-thinking": (True, True),
    "ministral": (True, False),
    "passthrough": (False, False),
    "harmony": (True, True),
    "cogito": (True, True),
    "deepseek3": (True, True),
    "olmo3": (True, False),
    "olmo3-think": (False, True),
    "nemotron-3-nano": (True, True),
    "nemotron-3.5-nano": (True, True),
    "functiongemma": (True, False),
    "glm-4.7": (True, True),
    "glm-ocr": (True, False),
    "gemma4": (True, True),
    "gemma4-no-thinking": (True, False),
    "lfm2": (True, False),
    "lfm2-thinking": (True, True),
    "laguna": (True, True),
    "poolside-v1": (True, True),
    "cohere": (True, True),
    "glimmer": (True, True),
}
"""PARSER -> (tools, thinking)."""


def family(model: OllamaModel) -> str:
    """The architecture, from the config, the GGUF or the server; "" when nothing says."""
    named = model.config.get("model_family") or (model.gguf.architecture if model.gguf else "")
    return str(named or model.model_info.get("general.architecture", ""))


def jinja_template(model: OllamaModel) -> str:
    """The GGUF's own chat template, "" for none; a server whose files are elsewhere may have told it."""
    own = model.gguf.chat_template if model.gguf else None
    return own or str(model.model_info.get("tokenizer.chat_template") or "")


def is_embedding(model: OllamaModel) -> bool:
    """Whether the GGUF has a pooling type: such a model has no chat."""
    architecture = model.gguf.architecture if model.gguf else family(model)
    key = f"{architecture}.pooling_type"
    return key in (model.gguf.metadata if model.gguf else model.model_info)


def capabilities(model: OllamaModel, path: PromptPath) -> Capabilities:
    """What `ollama show` lists, for the prompt path that is live (`prompt_path`)."""
    found = set(model.config.get("capabilities") or ())
    if path == "gguf_jinja":
        found |= of_jinja(jinja_template(model))
    if model.template is None or path != "gguf_jinja":
        found |= of_go(model.template if model.template is not None else DEFAULT_TEMPLATE)
    if model.gguf is not None or model.model_info:
        found.add("embedding" if is_embedding(model) else "completion")
        metadata = model.gguf.metadata if model.gguf else model.model_info
        found |= {c for c in ("vision", "audio") if f"{family(model)}.{c}.block_count" in metadata}
    if model.projectors:
        found.add("vision")
    tools, thinking = _PARSERS.get(model.parser or "", (False, False))
    found |= ({"tools"} if tools else set()) | ({"thinking"} if thinking or is_gpt_oss(model) else set())
    return frozenset(found)


def is_gpt_oss(model: OllamaModel) -> bool:
    return family(model) in ("gptoss", "gpt-oss")


def uses_harmony(model: OllamaModel) -> bool:
    """gpt-oss with the harmony tags in its Go template: Ollama renders and parses it itself."""
    text = model.template or ""
    return is_gpt_oss(model) and "<|start|>" in text and "<|end|>" in text


# Jinja: by substring


def of_jinja(text: str) -> Capabilities:
    found = {"tools"} if "tools" in text or "tool_call" in text else set()
    splits = "content.split('</think>')" in text or 'content.split("</think>")' in text
    if ("<think>" in text and "</think>" in text) or (
        splits and "reasoning_content" not in text and "<SPECIAL_12>" not in text
    ):
        found.add("thinking")
    return frozenset(found)


_JINJA_TOOL_RESULTS = (
    "tool_response", "tool_results", "role'] == 'tool'", "role'] == \"tool\"", "role\"] == 'tool'", 'role"] == "tool"',
    "message.role == 'tool'", 'message.role == "tool"', "ipython",
)  # fmt: skip


def jinja_has_tool_round_trip(text: str) -> bool:
    """Prints earlier tool calls and their results."""
    return ("tool_calls" in text or "assistant_tool_call" in text) and any(t in text for t in _JINJA_TOOL_RESULTS)


# Go: by the fields it reads


def of_go(text: str) -> Capabilities:
    """Nothing for a template that does not parse, as in Ollama."""
    try:
        return frozenset(template.capabilities(text))
    except TemplateError:
        return frozenset()


def go_has_tool_round_trip(text: str) -> bool:
    """Prints earlier tool calls and their results."""
    try:
        names = template.variables_used(template.parse_template(text))
    except TemplateError:
        return False
    results = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")
    return names >= {"tools", "toolcalls"} and any(mark in text for mark in results)
