"""migration.json: what a bundle is, where it came from, and every decision. Read by `plan`, `parity` and people.

Nothing in it depends on the machine or the moment it was written: same input and flags, same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrate.errors import BadInput, NotFound

SCHEMA_VERSION = 1
FILE_NAME = "migration.json"
SHOW_FILE = "ollama_show.json"
"""Beside it: {served name: {"model_info": ..., "tensors": ...}}, what /api/show says of the weights."""
MAX_BYTES = 64 << 20


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Model):
    """The model as Ollama had it; enough to render its prompts again without the store."""

    name: str
    kind: Literal["store", "modelfile", "gguf", "host", "checkpoint"]
    architecture: str
    quantization: str
    parameter_count: int
    digests: dict[str, str]
    prompt_path: Literal["renderer", "parser", "go_template", "gguf_jinja"]
    prompt_path_reason: str
    template: str | None = Field(description="Go TEMPLATE, as stored")
    chat_template: str | None = Field(description="the GGUF's own Jinja")
    system: str | None
    messages: list[dict[str, Any]]
    parameters: list[dict[str, Any]] = Field(description="name, value, origin; defaults included")
    adds_bos: bool = Field(description="llama.cpp puts BOS before the prompt")
    ollama_version: str = Field(description="whose behaviour was assumed")
    renderer: str | None = None
    parser: str | None = None
    capabilities: list[str] = Field(default=[], description="in the order of /api/tags")
    licenses: list[str] = []
    parent: str | None = Field(default=None, description="the model it was made FROM")
    size: int = Field(default=0, description="bytes of all layers, as /api/tags counts them")
    manifest_digest: str | None = Field(default=None, description="hexadecimal, the `digest` of /api/tags")
    details: dict[str, Any] = Field(default={}, description="as /api/tags shows them")
    adapter_digests: list[str] = []
    blobs: dict[str, str] = Field(default={}, description="role -> file in Ollama's store, sha256-...")


class Target(_Model):
    """What the files were written for."""

    vllm_version: str
    image: str
    served_model_name: list[str]
    dtype: str
    max_model_len: int
    host: str
    port: int
    client: Literal["native", "openai"]
    eos_token_id: list[int]
    request_defaults: dict[str, Any]


class FileEntry(_Model):
    size: int
    sha256: str


class FindingEntry(_Model):
    item: str
    status: Literal["exact", "equivalent", "approximate", "dropped", "refused"]
    source: str = ""
    target: str = ""
    reason: str = ""
    action: str = ""


class Original(_Model):
    """The checkpoint whose weights the bundle has, and what proved that the GGUF was made from it."""

    repository: str
    revision: str = Field(description="commit; empty for a directory")
    reason: str
    full: bool = Field(description="every weight was compared, not a sample")
    bytes_compared: int
    judgements: dict[str, int] = Field(description="tensors remade byte for byte, within their codes")


class Variant(_Model):
    """One of several models on the same weights, served by one vLLM under names of its own.

    `request_defaults` is what the middleware fills into requests for it, as they stand in request_defaults.json.
    """

    name: str
    served_model_name: list[str]
    source: Source
    findings: list[FindingEntry]
    max_model_len: int = Field(description="tokens it was decided to have alone; the server has the largest of all")
    eos_token_id: list[int] = Field(description="every id that ends an answer of it")
    stop_token_ids: list[int] = Field(description="those of them that the server does not stop on for all variants")
    request_defaults: dict[str, Any]
    adapter: str | None = Field(default=None, description="directory of its LoRA")
    chat_template: str | None = Field(default=None, description="file with its own template")


class Manifest(_Model):
    """The whole of migration.json. Of a set, `source` and `target` are the first variant's; one model has none."""

    schema_version: Literal[1] = 1
    generator: str
    model_dir: str = "model"
    source: Source
    target: Target
    original: Original | None = None
    findings: list[FindingEntry]
    files: dict[str, FileEntry]
    variants: list[Variant] = []

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    def variant(self, name: str) -> Variant | None:
        """The variant served under `name`; None where there is none, and in a bundle of one model."""
        return next((v for v in self.variants if name == v.name or name in v.served_model_name), None)


def read_show(bundle: Path) -> dict[str, dict[str, Any]]:
    """ollama_show.json: served name -> model_info and tensors; {} for a bundle written before there was one.

    Raises BadInput for a damaged file.
    """
    path = bundle / SHOW_FILE
    if not path.is_file():
        return {}
    content = _json(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise BadInput(f"{path}: not an object of objects", hint="convert the model again")
    return content


def read(bundle: Path) -> Manifest:
    """The manifest of a bundle directory.

    Raises:
        NotFound: the directory or its migration.json does not exist.
        BadInput: the file is damaged, too large, or of another schema.
    """
    path = bundle / FILE_NAME
    if not bundle.is_dir():
        raise NotFound(f"{bundle}: no such directory", hint="a bundle is what `migrate convert MODEL -o DIR` writes")
    if not path.is_file():
        raise NotFound(f"{bundle}: not a bundle: it has no {FILE_NAME}", hint="write one with `migrate convert`")
    content = _json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{path}: schema_version is {version!r}, this program reads {SCHEMA_VERSION}",
            hint="convert the model again with this version",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where}: {first['msg']}", hint="convert the model again") from None


def _json(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB: not a file of ours")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}", hint="convert the model again") from None
