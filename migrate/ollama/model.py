"""Everything known of one Ollama model. Plain data: filled by `store`, `modelfile` or `api`, read by everybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from migrate.gguf.header import GGUFHeader
    from migrate.ollama.checkpoint import Checkpoint

Message = Mapping[str, Any]
"""One chat message as Ollama's API has it: role, content, tool_calls, tool_name, thinking, images."""

PromptPath = Literal["renderer", "parser", "go_template", "gguf_jinja"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a manifest. `path` is the blob's file, None when it is not on this machine."""

    media_type: str
    digest: str
    size: int
    path: Path | None = None
    name: str | None = None
    from_: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One effective parameter: its value and who set it.

    `origin` is "Modelfile", "parent NAME", "autodetected template (NAME)", "Modelfile or autodetected template" where
    the store cannot tell, "ollama create, for every gemma4", or "Ollama default (0.33)", which ": ..." may explain.
    """

    name: str
    value: Any
    origin: str

    @property
    def is_default(self) -> bool:
        return self.origin.startswith("Ollama default")


@dataclass(frozen=True, slots=True)
class OllamaModel:
    """A model as Ollama has it.

    `name` is what a person calls it ("support-bot:latest", or the file's name); `kind` says where it was read.
    `template` is None when there is no TEMPLATE layer, which is not the same as an empty one. `parameters` holds
    only what somebody set (params layer, Modelfile); `migrate.ollama.options` adds the defaults. `digests` maps a
    role ("manifest", "model", "template", ...) to "sha256:...".
    """

    name: str
    kind: Literal["store", "modelfile", "gguf", "host", "checkpoint"]
    gguf: GGUFHeader | None = None
    gguf_path: Path | None = None
    template: str | None = None
    system: str | None = None
    messages: Sequence[Message] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    licenses: Sequence[str] = ()
    adapters: Sequence[Layer] = ()
    projectors: Sequence[Layer] = ()
    drafts: Sequence[Layer] = ()
    layers: Sequence[Layer] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    parent_parameters: Mapping[str, Any] | None = None
    """The parent's params layer, when the parent is in the same store: tells inherited from own."""
    ollama_version: str | None = None
    """Version of the live server it was read from; None offline."""
    model_info: Mapping[str, Any] = field(default_factory=dict)
    """`model_info` of /api/show, when the GGUF itself is not on this machine."""
    selected_template: str | None = None
    """`template` of /api/show: what a live server would use, be it Go or Jinja. None offline."""
    capabilities: Sequence[str] = ()
    checkpoint: Checkpoint | None = None
    """Weights as a Hugging Face checkpoint (FROM directory, tensor layers); `gguf` is then a header without a file."""
