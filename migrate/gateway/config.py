"""gateway.yaml: which models are served under Ollama's names, and by which servers. No secret stands in it.

Paths are relative to the file. Keys are read from environment variables that the file names (`api_key_env`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from migrate.bundle import format as bundle_format
from migrate.errors import BadInput, NotFound, UsageError
from migrate.gateway.routing import RoutingPolicy
from migrate.gateway.shadow import ShadowPolicy
from migrate.gateway.watch import ReturnPolicy

FILE_NAME = "gateway.yaml"
MAX_BYTES = 1 << 20
DEFAULT_LISTEN = "127.0.0.1:11434"
_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]*):[0-9]{1,5}")

Kind = Literal["vllm", "ollama"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Upstream(_Section):
    """A server, or several that serve the same. `url` is one address or a list."""

    kind: Kind = "vllm"
    urls: tuple[str, ...] = Field(alias="url", min_length=1)
    api_key_env: str | None = Field(None, description="environment variable with the key this server asks for")

    @field_validator("urls", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("urls")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not re.fullmatch(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?", url):
                shown = "an address with a password" if "@" in url else repr(url)  # which is not for logs
                raise ValueError(f"{shown} is no address: write http://HOST:PORT")
        return tuple(url.rstrip("/") for url in value)

    @property
    def api_key(self) -> str | None:
        """Raises UsageError when the variable is not set."""
        return _secret(self.api_key_env)


_NONE = Upstream.model_validate({"url": "http://nowhere"})


class Model(_Section):
    """The models of one bundle. `upstream` serves them; `source` is the Ollama that does, or did."""

    bundle: Path
    upstream: str
    source: str | None = None
    names: tuple[str, ...] | None = Field(None, description="of the bundle's models, these only")


class Limits(_Section):
    """What one client may take. Times in seconds."""

    max_body_mb: int = Field(default=64, ge=1, le=4096, description="largest request, in MiB")
    max_in_flight: int = Field(
        default=512, ge=1, le=100_000, description="requests at a time; more get 503, as in Ollama"
    )
    connect_timeout: float = Field(default=5.0, gt=0, le=86_400)
    silence: float = Field(
        default=600.0, gt=0, le=86_400, description="longest wait for a piece of an answer, the first included"
    )
    body_timeout: float = Field(
        default=60.0, gt=0, le=86_400, description="longest pause while a client sends its request"
    )
    write_timeout: float = Field(default=120.0, gt=0, le=86_400, description="longest time a client may not read")


class Config(_Section):
    """The whole file. `openai`: routes under /v1 behave as Ollama's do, or go to vLLM as they are."""

    listen: str = DEFAULT_LISTEN
    state: Path = Path("gateway-state.json")
    upstreams: dict[str, Upstream] = Field(min_length=1)
    models: tuple[Model, ...] = Field(min_length=1)
    openai: Literal["ollama", "vllm"] = "ollama"
    ollama_version: str | None = Field(None, description="told at /api/version; default: the bundles' Ollama")
    tools: Literal["json", "go"] = Field(
        "json",
        description="how {{ .Function }} prints: as JSON, or as the Go struct of Ollama since 0.14",
    )
    fallback: str | None = Field(None, description="an Ollama upstream for models that are not listed")
    keep_penalty: bool = Field(False, description="hand repeat_penalty to vLLM, where it means more")
    api_keys_env: str | None = Field(None, description="environment variable with the keys clients may use")
    origins: tuple[str, ...] = Field((), description="web pages that may ask, beside those on this machine")
    metrics: bool = True
    limits: Limits = Field(default_factory=Limits)
    returning: ReturnPolicy = Field(default_factory=ReturnPolicy, alias="return")
    routing: RoutingPolicy = Field(default_factory=RoutingPolicy)
    shadow: ShadowPolicy = Field(default_factory=ShadowPolicy)
    root: Path = Field(Path(), exclude=True)

    @field_validator("listen")
    @classmethod
    def _address(cls, value: str) -> str:
        value = value.removeprefix("http://").rstrip("/")
        if not _LISTEN.fullmatch(value) or int(value.rpartition(":")[2]) > 65535:
            raise ValueError(f"{value!r} is no address: write HOST:PORT")
        return value

    @model_validator(mode="after")
    def _known(self) -> Config:
        for model in self.models:
            for name, kind, what in ((model.upstream, "vllm", "upstream"), (model.source, "ollama", "source")):
                if name is None:
                    continue
                if name not in self.upstreams:
                    raise ValueError(f"{model.bundle}: {what} {name!r} is not among the upstreams")
                if self.upstreams[name].kind != kind:
                    raise ValueError(f"{model.bundle}: {what} {name!r} has to be of kind {kind}")
        if self.fallback is not None and self.upstreams.get(self.fallback, _NONE).kind != "ollama":
            raise ValueError(f"fallback {self.fallback!r} has to be an upstream of kind ollama")
        return self

    @property
    def state_path(self) -> Path:
        return self.root / self.state

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]") or "127.0.0.1"

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def client_keys(self) -> frozenset[str]:
        """Keys a client may use; empty: anybody may ask. Raises UsageError when the variable is not set."""
        found = _secret(self.api_keys_env)
        keys = frozenset(key.strip() for key in (found or "").split(",") if key.strip())
        if found and not keys:
            raise UsageError(f"the environment variable {self.api_keys_env} has no key in it", hint="one, or a,b,c")
        return keys

    def bundle_of(self, model: Model) -> Path:
        return self.root / model.bundle


class _Loader(yaml.SafeLoader):
    """A SafeLoader to which a key that stands twice is a mistake, not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.MarkedYAMLError(problem=f"{twice!r} stands there twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Config:
    """Of a file, or of a directory: its gateway.yaml, or a bundle, whose server is where its serve.yaml says.

    Raises NotFound, or BadInput that names the key.
    """
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            return _of_bundle(path)
        path = path / FILE_NAME
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="`migrate convert --all` writes a gateway.yaml")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB: not a configuration of ours")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: a configuration is a mapping with upstreams and models")
    if "root" in content:
        raise BadInput(f"{path}: root: paths are relative to the file", hint="docs/gateway.md lists every key")
    return _validated(path, {**content, "root": path.resolve().parent})


def _of_bundle(path: Path) -> Config:
    target = bundle_format.read(path).target
    host = f"[{target.host}]" if ":" in target.host else target.host
    upstreams = {"vllm": {"url": f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{target.port}"}}
    models = [{"bundle": ".", "upstream": "vllm"}]
    return _validated(path, {"upstreams": upstreams, "models": models, "root": path.resolve()})


def _validated(path: Path, content: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "configuration"
        message = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{path}: {where}: {message}", hint="docs/gateway.md lists every key") from None


def _secret(variable: str | None) -> str | None:
    if variable is None:
        return None
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UsageError(
            f"the environment variable {variable} is not set", hint="the configuration takes a key from it"
        )
    return value
