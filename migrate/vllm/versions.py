"""What differs between the vLLM releases we emit for. The installed source wins over this table."""

from __future__ import annotations

from dataclasses import dataclass

from migrate.errors import UsageError


@dataclass(frozen=True, slots=True)
class VLLMVersion:
    """`image` is the container tag; `tested` says that our own tests run this release."""

    version: str
    image: str
    tested: bool = False


VERSIONS = {
    v.version: v
    for v in (
        VLLMVersion("0.24.0", "vllm/vllm-openai:v0.24.0"),
        VLLMVersion("0.32.0", "vllm/vllm-openai:v0.32.0", tested=True),
        VLLMVersion("0.33.0", "vllm/vllm-openai:v0.33.0"),
    )
}
DEFAULT = "0.32.0"

MAX_TEMPERATURE = 2.0
"""Requests above it are answered with 400 (vllm/sampling_params.py)."""
DEFAULT_MAX_STOP_STRINGS = 4
"""VLLM_MAX_STOP_STRINGS: more stop strings than this are answered with 400."""

MAX_STOP_STRINGS = 16
"""What a bundle sets instead, if its own are not more: Ollama's clients may send any number."""


def find(version: str) -> VLLMVersion:
    try:
        return VERSIONS[version]
    except KeyError:
        raise UsageError(
            f"vLLM {version} is not in our table of releases", hint=f"known: {', '.join(VERSIONS)}"
        ) from None
