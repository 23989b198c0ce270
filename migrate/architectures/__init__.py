"""Which architecture a GGUF is. One module per `model_type`, one line in `_MODULES`; standard library only."""

from __future__ import annotations

from importlib import import_module

from migrate.architectures.base import Architecture
from migrate.errors import Refused
from migrate.gguf.header import GGUFHeader

_MODULES: dict[str, tuple[str, ...]] = {
    # general.architecture: model_types it may be, named as their modules
    "llama": ("llama", "mistral"),
}


def for_header(header: GGUFHeader) -> Architecture:
    """The architecture of a model's GGUF.

    Raises:
        Refused: not a whole text model, or of an architecture nobody has described yet.
    """
    _check_whole_model(header)
    names = _MODULES.get(header.architecture)
    if names is None:
        known = ", ".join(sorted(_MODULES))
        raise Refused(
            f"{header.path.name}: architecture {header.architecture!r} is not supported (supported: {known})",
            hint="docs/adding-an-architecture.md shows how to add one: one file and one line.",
        )
    name = "mistral" if "mistral" in names and header.field("attention.sliding_window") else names[0]
    return for_model_type(name)


def for_model_type(model_type: str) -> Architecture:
    """The architecture of a checkpoint, by `model_type` of its config.json. Raises Refused when unknown."""
    if not any(model_type in names for names in _MODULES.values()):
        known = ", ".join(sorted({name for names in _MODULES.values() for name in names}))
        raise Refused(f"model_type {model_type!r} is not supported (supported: {known})")
    architecture = import_module(f"{__name__}.{model_type}").ARCHITECTURE
    assert isinstance(architecture, Architecture)
    return architecture


def _check_whole_model(header: GGUFHeader) -> None:
    if header.split_count > 1:
        raise Refused(
            f"{header.path.name}: one of {header.split_count} parts of a model; files in parts are not supported yet",
            hint="Join them: llama-gguf-split --merge FIRST-PART OUT.gguf",
        )
    if header.kind != "model":
        raise Refused(f"{header.path.name}: a GGUF of type {header.kind!r}, not a model")
