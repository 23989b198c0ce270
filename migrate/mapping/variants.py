"""Several models on the same weights -> one vLLM: what it is started with, and what each name's requests get.

What vLLM has once per server is the weights, the dtype, the tokenizer, the chat template, the parsers, the length of
the context and the defaults of generation_config.json. The template chooses by name (`chat_template.combine`), the
defaults that differ are filled in by the bundle's middleware. What cannot differ by name keeps models apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrate.chat_template.combine import KWARG, combine, prove_combined
from migrate.errors import Refused, UsageError
from migrate.findings import Finding, Ledger, Status
from migrate.mapping import adapters
from migrate.mapping.groups import BY_NAME, has_adapter, tool_parser
from migrate.mapping.migration import MIDDLEWARE, PROCESSORS, Migration
from migrate.ollama import capabilities
from migrate.vllm import versions
from migrate.vllm.generation import GenerationConfig
from migrate.vllm.serve import Argument

SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
"""Defaults of generation_config.json that a request can carry itself."""
ANTHROPIC = ("temperature", "top_k", "top_p", "stop", "max_tokens", "seed", "vllm_xargs")
"""Of what the middleware fills in, what /v1/messages has a field for, and the seed, which changes no distribution."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a set. `defaults`: what the middleware fills into its requests; `stop_token_ids`: ids that end its
    answers and not those of all; `directory`: of its adapter in the bundle."""

    name: str
    migration: Migration
    findings: tuple[Finding, ...]
    defaults: Mapping[str, Any]
    stop_token_ids: tuple[int, ...]
    directory: str | None

    @property
    def served_names(self) -> Sequence[str]:
        return self.migration.served_names

    @property
    def chat_template(self) -> str | None:
        """The file of its own template."""
        return f"variants/{path_name(self.name)}/chat_template.jinja" if self.migration.chat_template else None


@dataclass(frozen=True, slots=True)
class VariantSet:
    """`server` is the migration of the whole: the first model with the names, the template and the limits of all."""

    server: Migration
    variants: tuple[Variant, ...]

    @property
    def tool_tags(self) -> dict[str, str]:
        """Served name -> tag of its tool calls, where the bundle's own parser looks for different ones."""
        tags = {name: v.migration.tool_tag for v in self.variants for name in v.served_names if v.migration.tool_tag}
        return tags if len(set(tags.values())) > 1 else {}

    def refused(self) -> list[Finding]:
        return [finding for variant in self.variants for finding in variant.migration.refused]


# ---- the set --------------------------------------------------------------------------------------------------------


def plan_set(migrations: Sequence[Migration]) -> VariantSet:
    """The server for models of one group, two or more, in their order (`group`).

    Raises Refused when their chat templates cannot be put into one, UsageError when two would have the same name.
    """
    names = [name for migration in migrations for name in migration.served_names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two models would be served as {twice}", hint="Give each its own name.")
    first = migrations[0]
    template = _combined(migrations)
    generation = _shared_generation(migrations)
    directories = _directories(migrations)
    longest = max(migration.max_model_len for migration in migrations)
    dispatches = len(template) > 1
    variants = tuple(
        _variant(m, generation, longest, directories.get(m.served_names[0]), dispatches=dispatches) for m in migrations
    )
    defaults = {} if first.pooling else _defaults_file(variants, migrations, directories)
    server = replace(
        first,
        ledger=Ledger(list(variants[0].findings)),
        chat_template=template.get("", None),
        generation=generation,
        served_names=names,
        max_model_len=longest,
        arguments=_arguments(migrations, directories, longest, bool(defaults)),
        request_defaults=defaults,
        environment=_environment(migrations),
        adapter=first.adapter if first.adapter and first.adapter.merged else None,
        tool_tag=next((m.tool_tag for m in migrations if m.tool_tag is not None), None),
    )
    return VariantSet(server, variants)


def path_name(name: str) -> str:
    """A served name as a directory's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _combined(migrations: Sequence[Migration]) -> dict[str, str]:
    """{"": the combined template} and, where they differ, name -> template; {} for models without any."""
    templates = {m.served_names[0]: m.chat_template for m in migrations if m.chat_template is not None}
    if not templates:
        return {}
    combined = combine(templates)
    if len(set(templates.values())) == 1:
        return {"": combined}
    wrong = [
        f"{name}: {check.describe()}"
        for name, checks in prove_combined(templates, combined, tokens=_tokens(migrations[0])).items()
        for check in checks
        if check.got != check.expected
    ]
    if wrong:
        raise Refused(f"the chat templates do not stay what they are in one: {wrong[0]}")
    return {"": combined, **templates}


def _tokens(migration: Migration) -> dict[str, str]:
    header = migration.model.gguf
    if header is None:
        return {}
    tokens, found = header.get("tokenizer.ggml.tokens", ()), {}
    for name in ("bos", "eos"):
        index = header.get(f"tokenizer.ggml.{name}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            found[f"{name}_token"] = str(tokens[index])
    return found


def _shared_generation(migrations: Sequence[Migration]) -> GenerationConfig | None:
    """The first model's, with the end tokens of all, and a limit of the answer only if all have the same."""
    configs = [m.generation for m in migrations if m.generation is not None]
    if not configs:
        return None
    shared = [i for i in configs[0].eos_token_id if all(i in c.eos_token_id for c in configs)]
    limits = {c.max_new_tokens for c in configs}
    return replace(
        configs[0],
        eos_token_id=tuple(shared),
        max_new_tokens=configs[0].max_new_tokens if len(limits) == 1 else None,
    )


def _directories(migrations: Sequence[Migration]) -> dict[str, str]:
    """Served name -> directory of its adapter; the same adapter is written once."""
    found: dict[str, str] = {}
    known: dict[tuple[str, ...], str] = {}
    for migration in migrations:
        if migration.adapter is None or not has_adapter(migration):
            continue
        key = tuple(str(path.resolve()) for path in migration.adapter.files)
        name = migration.served_names[0]
        found[name] = known.setdefault(key, f"adapters/{path_name(name)}")
    return found


def _variant(
    migration: Migration, shared: GenerationConfig | None, longest: int, directory: str | None, *, dispatches: bool
) -> Variant:
    name, own = migration.served_names[0], migration.generation
    defaults: dict[str, Any] = {"chat_template_kwargs": {KWARG: name}} if dispatches else {}
    defaults |= migration.request_defaults
    extra: tuple[int, ...] = ()
    if own is not None and shared is not None:
        extra = tuple(i for i in own.eos_token_id if i not in shared.eos_token_id)
        if extra:
            defaults["stop_token_ids"] = list(extra)
        defaults |= {key: getattr(own, key) for key in SAMPLING if getattr(own, key) != getattr(shared, key)}
        if own.max_new_tokens is not None and own.max_new_tokens != shared.max_new_tokens:
            defaults["max_tokens"] = own.max_new_tokens
    findings = _findings(migration, defaults, extra, longest, directory)
    return Variant(name, migration, findings, defaults, extra, directory)


def _findings(
    migration: Migration, defaults: Mapping[str, Any], extra: Sequence[int], longest: int, directory: str | None
) -> tuple[Finding, ...]:
    """The model's own ledger, as it is in the set, and what the set adds to it."""
    ledger = Ledger([_in_set(finding, defaults, extra, directory) for finding in migration.ledger])
    if migration.max_model_len < longest:
        ledger.add("context", Status.APPROXIMATE, migration.max_model_len, f"max-model-len {longest}",
                   "the longest of the models on this server holds for all: over /v1 longer conversations are "
                   "answered, where Ollama drops old messages",
                   "`migrate gateway` applies this model's own num_ctx")  # fmt: skip
    lost = [key for key in defaults if key not in (*ANTHROPIC, "chat_template_kwargs")]
    if lost:
        ledger.add("/v1/messages", Status.APPROXIMATE, ", ".join(lost), "the server's own, for all",
                   "Anthropic's API has no field for them, so there they cannot be filled in by name",
                   "use /v1/chat/completions for this model, or serve it alone")  # fmt: skip
    if "chat_template_kwargs" in defaults and capabilities.uses_harmony(migration.model):
        ledger.add("name", Status.APPROXIMATE, ", ".join(migration.served_names), "parameters alone",
                   "vLLM writes the prompts of gpt-oss itself and reads no chat template, so the names of this server "
                   "get the same prompt", "send SYSTEM and MESSAGE with the requests, or use the gateway")  # fmt: skip
    elif "chat_template_kwargs" in defaults:
        ledger.add("name", Status.EQUIVALENT, ", ".join(migration.served_names), f"chat template kwarg {KWARG}",
                   "the middleware says it for every request to this name; answers carry the first name of the "
                   "server in `model`, except those of an adapter")  # fmt: skip
    return tuple(ledger)


def _in_set(finding: Finding, defaults: Mapping[str, Any], extra: Sequence[int], directory: str | None) -> Finding:
    """A finding whose value the middleware fills in instead of a file."""
    target = finding.target
    if (found := re.fullmatch(r"generation_config\.json (\w+) (.*)", target)) is not None:
        name, value = found.groups()
        if name in defaults or (name == "max_new_tokens" and "max_tokens" in defaults):
            name = "max_tokens" if name == "max_new_tokens" else name
            return replace(finding, target=f"request default {name} {value} (middleware)")
    if finding.item == "ADAPTER" and directory is not None and target.startswith(adapters.DIRECTORY):
        reason = "the same factors and alpha; the model's name selects the adapter"
        return replace(finding, target=target.replace(adapters.DIRECTORY, directory, 1), reason=reason)
    if (found := re.fullmatch(r"eos_token_id (\d+)", target)) is not None and int(found[1]) in extra:
        return replace(finding, target=f"request default stop_token_ids {found[1]} (middleware)")
    return finding


def _defaults_file(
    variants: Sequence[Variant], migrations: Sequence[Migration], directories: Mapping[str, str]
) -> dict[str, Any]:
    """request_defaults.json: `default` is the name of requests that name none, `without_tools` refuse them as alone."""
    by_name = {name: dict(v.defaults) for v in variants for name in v.served_names}
    base = base_names(migrations, directories)
    if base[0] not in by_name:
        by_name |= {name: dict(variants[0].defaults) for name in base}
    default = next((v for v in variants if v.name == base[0]), variants[0])
    takes_tools = any(tool_parser(m) for m in migrations)
    without = [name for m in migrations for name in m.served_names if takes_tools and not tool_parser(m)]
    if not any(by_name.values()) and not without:
        return {}
    return {"default": default.served_names[0], "without_tools": without, "variants": by_name}


def base_names(migrations: Sequence[Migration], directories: Mapping[str, str]) -> list[str]:
    """Names of the weights without an adapter: the models that have none, else NAME-base."""
    plain = [name for m in migrations if m.served_names[0] not in directories for name in m.served_names]
    return plain or [adapters.base_name(migrations[0].served_names)]


def _arguments(
    migrations: Sequence[Migration], directories: Mapping[str, str], longest: int, middleware: bool
) -> list[Argument]:
    first = migrations[0]
    longest_name = next(m.model.name for m in migrations if m.max_model_len == longest)
    made: dict[str, list[Argument]] = {
        "served-model-name": _names(migrations, directories),
        "max-model-len": [Argument("max-model-len", longest, f"the longest of all, {longest_name}'s")],
        "middleware": [],
        PROCESSORS: [],
    }
    kept = [a for a in first.arguments if a.name not in BY_NAME or a.name in ("model", "host", "port", *made)]
    arguments = [new for argument in kept for new in made.get(argument.name, [argument])]
    if processor := next((a for m in migrations for a in m.arguments if a.name == PROCESSORS), None):
        arguments.append(processor)
    if middleware:
        origin = "what each name's requests get: migrate_defaults.py, needs PYTHONPATH=."
        arguments.append(Argument("middleware", [MIDDLEWARE], origin))
    speaker = next((m for m in migrations if tool_parser(m)), None)
    if speaker is not None:
        tools = ("tool-parser-plugin", "enable-auto-tool-choice", "tool-call-parser")
        arguments += [a for a in speaker.arguments if a.name in tools]
    return arguments


def _names(migrations: Sequence[Migration], directories: Mapping[str, str]) -> list[Argument]:
    plain = [m.model.name for m in migrations if m.served_names[0] not in directories]
    origin = f"the names in Ollama of {', '.join(plain)}" if plain else "the model without any ADAPTER"
    names = [Argument("served-model-name", base_names(migrations, directories), origin)]
    if not directories:
        return names
    with_adapter = [m for m in migrations if m.served_names[0] in directories]
    modules = [f"{name}={directories[m.served_names[0]]}" for m in with_adapter for name in m.served_names]
    rank = max(m.adapter.max_rank for m in with_adapter if m.adapter)
    return [
        *names,
        Argument("enable-lora", True, "ADAPTER"),
        Argument("lora-modules", modules, f"the names in Ollama of {', '.join(m.model.name for m in with_adapter)}"),
        Argument("max-loras", len(set(directories.values())), "adapters that may run in one batch"),
        Argument("max-lora-rank", rank, "the largest of the adapters"),
    ]


def _environment(migrations: Sequence[Migration]) -> dict[str, str]:
    environment = dict(migrations[0].environment)
    longest = max(len(m.request_defaults.get("stop") or ()) for m in migrations)
    if longest > versions.MAX_STOP_STRINGS:
        environment["VLLM_MAX_STOP_STRINGS"] = str(longest)
    return environment
