"""Which architecture a GGUF is. One module per `model_type`, one line in `_MODULES`; standard library only."""

from __future__ import annotations

from importlib import import_module

from migrate.architectures.base import Architecture, ModelLayout
from migrate.architectures.variants import normalise
from migrate.errors import Refused
from migrate.gguf.header import GGUFHeader

_MODULES: dict[str, tuple[str, ...]] = {
    # general.architecture: modules of the model_types it may be; the first whose `matches` says yes is taken
    "bert": ("bert",),
    "cohere2": ("cohere2",),
    "command-r": ("cohere",),
    "deepseek2": ("deepseek_v3", "deepseek_v2"),
    "ernie4_5": ("ernie4_5",),
    "exaone4": ("exaone4",),
    "falcon": ("falcon",),
    "gemma": ("gemma",),
    "gemma2": ("gemma2",),
    "gemma3": ("gemma3",),
    "gemma4": ("gemma4",),
    "glm4": ("glm4",),
    "gpt-oss": ("gpt_oss",),
    "granite": ("granite",),
    "granitemoe": ("granitemoeshared", "granitemoe"),
    "internlm2": ("internlm2",),
    "lfm2": ("lfm2",),
    "llama": ("mixtral", "mistral", "llama"),
    "mistral3": ("ministral3", "mistral"),
    "nemotron": ("nemotron",),
    "nomic-bert": ("nomic_bert",),
    "olmo": ("olmo",),
    "olmo2": ("olmo3", "olmo2"),
    "olmo3": ("olmo3", "olmo2"),
    "phi3": ("phi3",),
    "qwen2": ("qwen2",),
    "qwen2moe": ("qwen2_moe",),
    "qwen2vl": ("qwen2",),
    "qwen3": ("qwen3",),
    "qwen35": ("qwen3_5",),
    "qwen35moe": ("qwen3_5_moe",),
    "qwen3moe": ("qwen3_moe",),
    "qwen3next": ("qwen3_next",),
    "qwen3vl": ("qwen3",),
    "qwen3vlmoe": ("qwen3_moe",),
    "seed_oss": ("seed_oss",),
    "smollm3": ("smollm3",),
    "stablelm": ("stablelm",),
    "starcoder2": ("starcoder2",),
}


def read(header: GGUFHeader) -> ModelLayout:
    """Everything a GGUF says about its model, with what Ollama's own files do differently mended first.

    Raises:
        GGUFError: metadata is missing or malformed; a tensor is unknown, missing or of the wrong shape.
        Refused: not a whole text model, of an architecture nobody has described yet, or beyond its class's words.
    """
    header, findings = normalise(header)
    return for_header(header).read(header, findings)


def for_header(header: GGUFHeader) -> Architecture:
    """The architecture of a model's GGUF.

    Raises:
        Refused: not a whole text model, or of an architecture nobody has described yet.
    """
    _check_whole_model(header)
    for name in _MODULES.get(header.architecture, ()):
        architecture = _load(name)
        if architecture.matches(header):
            return architecture
    known = ", ".join(sorted(_MODULES))
    raise Refused(
        f"{header.path.name}: architecture {header.architecture!r} is not supported (supported: {known})",
        hint="docs/adding-an-architecture.md shows how to add one: one file and one line.",
    )


def for_model_type(model_type: str) -> Architecture:
    """The architecture of a checkpoint, by `model_type` of its config.json. Raises Refused when unknown."""
    names = model_types()
    for name in names:
        if name == model_type.removesuffix("_text") or name == model_type:
            return _load(name)
    raise Refused(f"model_type {model_type!r} is not supported (supported: {', '.join(names)})")


def model_types() -> list[str]:
    """The names of all modules: every `model_type` that can be made."""
    return sorted({name for names in _MODULES.values() for name in names})


def _load(name: str) -> Architecture:
    architecture = import_module(f"{__name__}.{name}").ARCHITECTURE
    assert isinstance(architecture, Architecture)
    return architecture


def _check_whole_model(header: GGUFHeader) -> None:
    if not header.is_complete:
        raise Refused(
            f"{header.path.name}: one of {header.split_count} parts of a model, and not named as parts are",
            hint="Name them NAME-00001-of-0000N.gguf, or join them: llama-gguf-split --merge FIRST-PART OUT.gguf",
        )
    if header.kind != "model":
        raise Refused(f"{header.path.name}: a GGUF of type {header.kind!r}, not a model")
