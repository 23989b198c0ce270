"""Which of vLLM's reasoning parsers separates thinking from answer as Ollama did (vllm/reasoning/ of 0.32).

vLLM's parsers take everything before `</think>` for reasoning, also where a model never began to think; Ollama wants
the opening tag first, or at the end of the prompt. Those chosen here give all to the content when thinking is off.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

BY_OLLAMA_PARSER: Mapping[str, str] = {
    "qwen3-thinking": "qwen3",
    "qwen3-vl-thinking": "qwen3",
    "qwen3.5": "qwen3",
    "ornith": "qwen3",
    "nemotron-3-nano": "nemotron_v3",
    "nemotron-3.5-nano": "nemotron_v3",
    "harmony": "openai_gptoss",
    "cogito": "deepseek_v3",
    "deepseek3": "deepseek_v3",
    "olmo3-think": "olmo3",
    "glm-4.7": "glm47",
    "gemma4": "gemma4",
    "lfm2-thinking": "qwen3",
    "laguna": "poolside_v1",
    "poolside-v1": "poolside_v1",
    "cohere": "cohere_command4",
    "glimmer": "muse_glimmer",
}
"""Ollama's PARSER, where it reads thinking -> the parser of vLLM 0.32 for the same tags."""

_TAGS: Mapping[tuple[str, str], str] = {
    ("<think>", "</think>"): "qwen3",
    ("<seed:think>", "</seed:think>"): "seed_oss",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """`name` is None where no parser fits; `reason` says why, or what differs."""

    name: str | None
    reason: str


def for_tags(opening: str, closing: str, vocabulary: Container[str]) -> Choice:
    """The parser for the tags a Go template shows. vLLM wants both to be tokens of the vocabulary."""
    name = _TAGS.get((opening, closing))
    if name is None:
        return Choice(None, f"no parser of vLLM's reads {opening} ... {closing}: thinking stays in the answer's text")
    if opening not in vocabulary or closing not in vocabulary:
        return Choice(None, f"{opening} is not one token of this vocabulary, which vLLM's parsers need")
    return Choice(name, "an answer without tags counts as thinking in vLLM, as text in Ollama, while thinking is on")
