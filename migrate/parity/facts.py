"""What parity needs to know of a bundle, read from its migration.json and its model directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrate.errors import BadInput, NotFound

FILE_NAME = "migration.json"
DEFAULTS_FILE = "request_defaults.json"
MAX_BYTES = 64 << 20


class _Facts(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SourceFacts(_Facts):
    """The Ollama model. `parameters` are {name, value, origin}; `adds_bos`: llama.cpp puts BOS before the prompt."""

    name: str
    prompt_path: Literal["renderer", "parser", "go_template", "gguf_jinja"]
    architecture: str = ""
    template: str | None = None
    chat_template: str | None = None
    system: str | None = None
    messages: list[dict[str, Any]] = Field(default_factory=list)
    parameters: list[dict[str, Any]] = Field(default_factory=list)
    digests: dict[str, str] = Field(default_factory=dict)
    adds_bos: bool | None = None
    quantization: str = ""
    ollama_version: str = ""

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings of the model, from whoever set them."""
        for parameter in self.parameters:
            if parameter.get("name") == "stop" and isinstance(parameter.get("value"), list):
                return tuple(str(value) for value in parameter["value"])
        return ()

    @property
    def limit(self) -> int | None:
        """PARAMETER num_predict, where it limits anything."""
        found = next((p.get("value") for p in self.parameters if p.get("name") == "num_predict"), None)
        return int(found) if isinstance(found, int | float) and found > 0 else None

    @property
    def sampling(self) -> dict[str, float]:
        """The model's own sampling parameters, as llama.cpp's server takes them."""
        names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "repeat_last_n")
        found = {str(p.get("name")): p.get("value") for p in self.parameters}
        return {name: float(value) for name in names if isinstance(value := found.get(name), int | float)}

    @property
    def has_tools(self) -> bool:
        """The template that is live prints tools."""
        if self.prompt_path == "renderer":
            return True
        live = self.chat_template if self.prompt_path == "gguf_jinja" else self.template
        return (bool(live) and ".Tools" in str(live)) or (self.prompt_path == "gguf_jinja" and "tools" in str(live))


class FileFacts(_Facts):
    size: int
    sha256: str


class TargetFacts(_Facts):
    client: Literal["native", "openai"] = "native"
    served_model_name: list[str] = Field(default_factory=list)
    max_model_len: int | None = None
    eos_token_id: list[int] = Field(default_factory=list)


class VariantFacts(_Facts):
    """One of several models that the bundle serves, each under names of its own."""

    name: str
    served_model_name: list[str]
    source: SourceFacts
    eos_token_id: list[int] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list)
    request_defaults: dict[str, Any] = Field(default_factory=dict)
    findings: list[dict[str, Any]] = Field(default_factory=list)


class BundleFacts(_Facts):
    """The keys of migration.json that are read here; all others are ignored. Of a set, `source`, `target` and
    `findings` are those of the variant that is looked at."""

    schema_version: Literal[1] = 1
    source: SourceFacts
    target: TargetFacts = Field(default_factory=TargetFacts)
    model_dir: str = "model"
    files: dict[str, FileFacts] = Field(default_factory=dict)
    original: dict[str, Any] | None = None
    findings: list[dict[str, Any]] = Field(default_factory=list)
    variants: list[VariantFacts] = Field(default_factory=list)

    def of_variant(self, variant: VariantFacts) -> BundleFacts:
        served = {"served_model_name": variant.served_model_name, "eos_token_id": variant.eos_token_id}
        target = self.target.model_copy(update=served)
        return self.model_copy(update={"source": variant.source, "target": target, "findings": variant.findings})


class Bundle:
    """A bundle on disk: its facts and where its model lies. `variant`: the one of a set that `facts` are about."""

    def __init__(self, root: Path, facts: BundleFacts, variant: VariantFacts | None = None) -> None:
        self.root = root
        self.facts = facts if variant is None else facts.of_variant(variant)
        self.variant = variant
        self.model = (root / facts.model_dir).resolve()
        if not self.model.is_relative_to(root.resolve()):
            raise BadInput(f"{root / FILE_NAME}: model_dir {facts.model_dir!r} points outside the bundle")

    def model_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the model directory, {} when it is not there. Raises BadInput when it is damaged."""
        return _object(self.model / name)

    def root_json(self, name: str) -> dict[str, Any]:
        """The same beside the model directory; of the request defaults of a set, those of the variant."""
        content = _object(self.root / name)
        if self.variant is not None and name == DEFAULTS_FILE:
            own = (content.get("variants") or {}).get(self.variant.name)
            return own if isinstance(own, dict) else {}
        return content

    @property
    def is_embedding(self) -> bool:
        """It is served with `--runner pooling`."""
        return bool(self._serve_setting("runner") == "pooling")

    @property
    def parses_tools(self) -> bool:
        """Requests may leave it to the model whether it calls a tool: the bundle has a parser for its calls."""
        if self.variant is not None and self.variant.name in (
            _object(self.root / DEFAULTS_FILE).get("without_tools") or ()
        ):
            return False
        return self._serve_setting("enable-auto-tool-choice") is True

    def _serve_setting(self, name: str) -> Any:
        """Of serve.yaml; None when it is not there."""
        import yaml

        try:
            settings = yaml.safe_load((self.root / "serve.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return None
        return settings.get(name) if isinstance(settings, dict) else None

    @property
    def bos_text(self) -> str | None:
        """Text of the BOS token."""
        return _token_text(self.model_json("tokenizer_config.json").get("bos_token"))

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end generation in vLLM: generation_config.json's and config.json's (vllm.md section 3.2), and those
        that the middleware gives to requests."""
        ids: list[Any] = []
        for name in ("generation_config.json", "config.json"):
            value = self.model_json(name).get("eos_token_id")
            ids += value if isinstance(value, list) else [value]
        ids += self.root_json(DEFAULTS_FILE).get("stop_token_ids") or []
        return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))


def read_bundle(root: Path, variant: str | None = None) -> Bundle:
    """The bundle; of a set, as the model served under `variant` (by default the first) has it.

    Raises NotFound when there is no bundle or no such variant, BadInput when its migration.json cannot be read.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise NotFound(f"{root} is not a bundle: it has no {FILE_NAME}", hint="write one with `migrate convert`")
    try:
        facts = BundleFacts.model_validate(_read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {where}: {first['msg']}", hint="convert the model again") from None
    if not facts.variants:
        if variant is not None and variant not in facts.target.served_model_name:
            raise NotFound(f"{root} has one model, and it is not {variant}", hint="leave --variant out")
        return Bundle(root, facts)
    wanted = variant or facts.variants[0].name
    chosen = next((v for v in facts.variants if wanted == v.name or wanted in v.served_model_name), None)
    if chosen is None:
        names = ", ".join(v.name for v in facts.variants)
        raise NotFound(f"{root} serves no {wanted}", hint=f"it serves {names}")
    return Bundle(root, facts, chosen)


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = _read_json(path)
    if not isinstance(value, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return value


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {error}") from None


def _token_text(value: Any) -> str | None:
    """A special token in tokenizer_config.json is a string or an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
