"""The models behind the gateway, by the names Ollama's clients use, and what /api/tags, ps and show say of them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from migrate.bundle import format as bundle_format
from migrate.bundle.format import Source
from migrate.errors import BadInput, UsageError
from migrate.gateway.config import Config, Model
from migrate.gateway.prompts import Prompts
from migrate.gateway.tokens import Tokens, read_tokens
from migrate.gateway.types import ApiError
from migrate.gotemplate.strconv import format_float
from migrate.mapping.parameters import PLUGIN, Penalties
from migrate.ollama import options
from migrate.ollama.capabilities import DEFAULT_TEMPLATE
from migrate.ollama.names import ModelName, split_source
from migrate.ollama.template import parse_template, thinking_tags
from migrate.ollama.tool_tag import tool_tag

FOREVER = datetime.timedelta(days=365 * 292)
"""What Ollama adds to now for a model that is never unloaded (the largest Go duration)."""


@dataclass(frozen=True)
class ServedModel:
    """One model. `served_name` is its name at vLLM, `variant` what tells it apart inside a set.

    `num_ctx` is the context Ollama gave it, never more than the server's `max_model_len`.
    """

    name: ModelName
    served_name: str
    variant: str | None
    bundle: Path
    source: Source
    upstream: str
    ollama: str | None
    max_model_len: int
    num_ctx: int
    tokens: Tokens
    prompts: Prompts
    modified_at: str
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer of this model, but not of all that the server has."""
    penalties: Penalties = "none"
    """Whose: Ollama's where the bundle has the plugin."""

    @cached_property
    def capabilities(self) -> frozenset[str]:
        return frozenset(self.source.capabilities)

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """Every parameter in force, defaults included."""
        return {str(p["name"]): p["value"] for p in self.source.parameters}

    @cached_property
    def thinking_tags(self) -> tuple[str, str]:
        """Around the reasoning in answers; "" where the TEMPLATE shows none."""
        if self.source.template is None:
            return "", ""
        return thinking_tags(parse_template(self.source.template))

    @cached_property
    def tool_tag(self) -> str:
        """What stands before a tool call in answers."""
        return tool_tag(self.source.template or "")

    @property
    def context_length(self) -> int:
        """The model's own maximum in tokens."""
        return int(self.source.details.get("context_length") or self.max_model_len)

    @property
    def reads_with_vllm(self) -> bool:
        """Answers are read by a parser built into Ollama, or by llama.cpp's: vLLM has counterparts, not we."""
        return bool(self.source.parser) or self.source.prompt_path in ("parser", "gguf_jinja")

    @property
    def parses_thinking(self) -> bool:
        """A parser built into Ollama tells reasoning from the answer, also of /api/generate."""
        return bool(self.source.parser or self.is_harmony) and "thinking" in self.capabilities

    @cached_property
    def is_harmony(self) -> bool:
        """gpt-oss: vLLM writes and reads its prompts itself."""
        return self.source.architecture in ("gptoss", "gpt-oss") or self.source.parser == "harmony"

    @property
    def digest(self) -> str:
        return self.source.manifest_digest or self.source.digests.get("model", "").removeprefix("sha256:")

    @cached_property
    def shown(self) -> Mapping[str, Any]:
        """model_info and tensors of /api/show."""
        all_shown = bundle_format.read_show(self.bundle)
        return all_shown.get(self.served_name) or next(iter(all_shown.values()), {})


class Catalog:
    """All models by name. Names are matched as Ollama does: case aside, `:latest` and the registry implied."""

    def __init__(self, models: Iterable[ServedModel]) -> None:
        self.models = tuple(models)
        self._by_key: dict[str, ServedModel] = {}
        for model in self.models:
            if model.name.key in self._by_key:
                raise UsageError(
                    f"{model.name.short} is in two bundles: {self._by_key[model.name.key].bundle} and {model.bundle}",
                    hint="give one of them `names:` to serve in the configuration",
                )
            self._by_key[model.name.key] = model

    def find(self, name: str) -> ServedModel | None:
        """None for a name that is not served; a name that cannot be one is not served either."""
        base, where = split_source(name)
        if where == "cloud":
            return None
        try:
            return self._by_key.get(ModelName.parse(base).key)
        except UsageError:
            return None

    def require(self, name: str, *, empty: ApiError | None = None) -> ServedModel:
        """Raises ApiError 404 as Ollama says it, or `empty` for a name that is none."""
        found = self.find(name)
        if found is None:
            if empty is not None and not ModelName.valid(split_source(name)[0]):
                raise empty
            raise ApiError(404, f"model '{name}' not found")
        return found


def short_name(name: str) -> str:
    """A name with its tag, as Ollama repeats it; what cannot be a name stays as it is."""
    try:
        return ModelName.parse(split_source(name)[0]).short
    except UsageError:
        return name


def read_catalog(config: Config) -> Catalog:
    """Reads every bundle. Raises what reading a bundle raises, and UsageError for names that clash or are not there."""
    return Catalog(model for entry in config.models for model in _of_bundle(config, entry))


def _of_bundle(config: Config, entry: Model) -> list[ServedModel]:
    path = config.bundle_of(entry)
    manifest = bundle_format.read(path)
    if manifest.source.details == {}:
        raise BadInput(
            f"{path}: written before there was a gateway: it lacks what /api/show tells",
            hint="convert the model again with this version",
        )
    tokens = read_tokens(path / manifest.model_dir)
    found: list[ServedModel] = []
    penalties: Penalties = "ollama" if PLUGIN in manifest.files else "vllm" if config.keep_penalty else "none"
    target = manifest.target
    parts: list[tuple[Source, str, int, str | None, list[int]]] = [
        (v.source, v.served_model_name[0], v.max_model_len, v.name, v.stop_token_ids) for v in manifest.variants
    ] or [(manifest.source, target.served_model_name[0], target.max_model_len, None, [])]
    for source, served, wanted, variant, stop_ids in parts:
        name = _name(source, served)
        if entry.names is not None and not any(ModelName.parse(n).key == name.key for n in entry.names):
            continue
        prompts = Prompts(
            source,
            bos=tokens.bos,
            eos=tokens.eos,
            json_tools=config.tools == "json",
        )
        written = (path / bundle_format.FILE_NAME).stat().st_mtime
        found.append(
            ServedModel(
                name=name,
                served_name=served,
                variant=variant,
                bundle=path,
                source=source,
                upstream=entry.upstream,
                ollama=entry.source,
                max_model_len=manifest.target.max_model_len,
                num_ctx=min(wanted, manifest.target.max_model_len),
                tokens=tokens,
                prompts=prompts,
                modified_at=go_time(datetime.datetime.fromtimestamp(written, datetime.UTC)),
                stop_token_ids=tuple(stop_ids),
                penalties=penalties,
            )
        )
    if entry.names is not None and len(found) < len(entry.names):
        raise UsageError(f"{path} has not all of {', '.join(entry.names)}", hint="see `names:` in the configuration")
    return found


def _name(source: Source, served: str) -> ModelName:
    """The model's name where it has one; a bundle made of a file is called as vLLM serves it."""
    for text in (source.name, served):
        if ModelName.valid(text):
            return ModelName.parse(text)
    raise BadInput(f"{source.name!r} is no name for Ollama's clients", hint="convert it with --served-name")


# ---- as Ollama shows them --------------------------------------------------------------------------------------------

_DETAILS = ("parent_model", "format", "family", "families", "parameter_size", "quantization_level")


def details(model: ServedModel, *, lengths: bool = False) -> dict[str, Any]:
    """`details`; /api/tags adds the lengths of context and embedding."""
    shown = model.source.details
    found = {key: shown.get(key, [] if key == "families" else "") for key in _DETAILS}
    if lengths:
        found |= {key: shown[key] for key in ("context_length", "embedding_length") if shown.get(key)}
    return found


def tags(catalog: Catalog) -> dict[str, Any]:
    """GET /api/tags, the youngest first."""
    ordered = sorted(catalog.models, key=lambda m: m.modified_at, reverse=True)
    return {
        "models": [
            {
                "name": model.name.short,
                "model": model.name.short,
                "modified_at": model.modified_at,
                "size": model.source.size,
                "digest": model.digest,
                "details": details(model, lengths=True),
                "capabilities": list(model.source.capabilities),
            }
            for model in ordered
        ]
    }


def ps(models: Iterable[ServedModel], now: datetime.datetime) -> dict[str, Any]:
    """GET /api/ps: vLLM keeps its models loaded, so all that a running server has, and for ever."""
    expires = go_time(now + FOREVER)
    return {
        "models": [
            {
                "name": model.name.short,
                "model": model.name.short,
                "size": model.source.size,
                "digest": model.digest,
                "details": details(model),
                "expires_at": expires,
                "size_vram": model.source.size,
                "context_length": model.num_ctx,
            }
            for model in models
        ]
    }


def show(model: ServedModel, *, verbose: bool = False) -> dict[str, Any]:
    """POST /api/show, keys in Ollama's order, empty ones left out."""
    source = model.source
    template = source.chat_template if source.prompt_path == "gguf_jinja" else source.template
    shown: dict[str, Any] = {
        "license": "\n".join(source.licenses),
        "modelfile": modelfile(model),
        "parameters": parameters_text(_own(source)),
        "template": template if template is not None else DEFAULT_TEMPLATE,
        "system": source.system,
        "details": details(model),
        "messages": [dict(message) for message in source.messages],
        "model_info": dict(model.shown.get("model_info") or {}),
        "tensors": model.shown.get("tensors"),
        "capabilities": list(source.capabilities),
        "modified_at": model.modified_at,
    }
    if verbose:
        shown["model_info"] |= _arrays(model)
    always = ("modelfile", "details", "model_info", "modified_at")
    return {key: value for key, value in shown.items() if value or key in always}


def _arrays(model: ServedModel) -> dict[str, Any]:
    """The tokenizer's lists, which only a verbose answer has; as far as the bundle's tokenizer.json tells them."""
    info = model.shown.get("model_info") or {}
    if "tokenizer.ggml.tokens" not in info:
        return {}
    names = model.tokens.vocabulary.names
    found: dict[str, Any] = {"tokenizer.ggml.tokens": [names.get(i, "") for i in range(max(names, default=-1) + 1)]}
    merges = _merges(model.tokens.path)
    if merges and "tokenizer.ggml.merges" in info:
        found["tokenizer.ggml.merges"] = merges
    return found


def _merges(path: Path) -> list[str]:
    content = json.loads(path.read_bytes())
    merges = content.get("model", {}).get("merges") or []
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _own(source: Source) -> list[tuple[str, Any]]:
    """Parameters somebody set: what the params layer holds."""
    return [
        (str(p["name"]), p["value"])
        for p in source.parameters
        if not str(p.get("origin", "")).startswith("Ollama default")
    ]


def parameters_text(parameters: Sequence[tuple[str, Any]]) -> str:
    """`parameters` of /api/show: a name in 30 columns, a value as Go prints it, strings quoted."""
    lines = []
    for name, value in parameters:
        for one in value if isinstance(value, list) else [value]:
            lines.append(f"{name:<30} {_go_value(one)}")
    return "\n".join(lines)


def _go_value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value)


def _number(value: Any) -> str:
    """Numbers are float64 when Ollama has read the params layer, so that 2000000 is printed as 2e+06."""
    return format_float(options.float32(value) if isinstance(value, float) else float(value), "g", -1)


def modelfile(model: ServedModel) -> str:
    """The text `ollama show --modelfile` prints: every line of the model, FROM with the blob's name."""
    source = model.source
    lines = [
        '# Modelfile generated by "ollama show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name.short}",
        "",
        f"FROM {source.blobs.get('model', source.digests.get('model', source.name))}",
    ]
    lines += [f"ADAPTER {digest.replace(':', '-')}" for digest in source.adapter_digests]
    template = source.template if source.template is not None else DEFAULT_TEMPLATE
    lines.append(f"TEMPLATE {_quoted(template)}")
    if source.system:
        lines.append(f"SYSTEM {_quoted(source.system)}")
    lines += [
        f"{command} {value}" for command, value in (("RENDERER", source.renderer), ("PARSER", source.parser)) if value
    ]
    for name, value in _own(source):
        for one in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {name} {_quoted(one) if isinstance(one, str) else _number(one)}")
    lines += [f"LICENSE {_quoted(text)}" for text in source.licenses]
    lines += [f"MESSAGE {m['role']} {_quoted(str(m.get('content', '')))}" for m in source.messages]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As Ollama quotes: only text with a line break or a blank at an end, in as many quotes as it takes."""
    if "\n" not in text and text == text.strip(" "):
        return text
    return f'"""{text}"""' if '"' in text else f'"{text}"'


_TRAILING_ZEROS = re.compile(r"\.?0+$")


def go_time(when: datetime.datetime) -> str:
    """RFC 3339 with as many fractional digits as there are, as Go writes a time."""
    text = when.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return _TRAILING_ZEROS.sub("", text) + "Z"
