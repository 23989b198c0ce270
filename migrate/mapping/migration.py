"""OllamaModel -> Migration: every decision and the ledger of what becomes of each element. No files are written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from migrate.architectures.base import ModelLayout
from migrate.architectures.variants import normalise
from migrate.errors import UsageError
from migrate.findings import Finding, Ledger, Status
from migrate.gguf import eog
from migrate.gguf.header import GGUFHeader
from migrate.gguf.vocab import adds_bos
from migrate.mapping.adapters import Adapter, map_adapter, model_names
from migrate.mapping.parameters import PLUGIN, Client, Penalties, Sampling, map_context, map_sampling
from migrate.mapping.prompt import ParserChoice, map_chat_template, map_parsers
from migrate.mapping.stops import Stops, map_stops
from migrate.mapping.weights import Way, choose_weights, map_given_tokenizer, map_tokenizer, map_weights
from migrate.ollama import options
from migrate.ollama.model import OllamaModel, Parameter
from migrate.ollama.modelfile import model_warnings
from migrate.ollama.prompt_path import PromptPathDecision, prompt_path
from migrate.ollama.refusal import refusal
from migrate.original.prove import Proof
from migrate.vllm import gpus, versions
from migrate.vllm.generation import GenerationConfig
from migrate.vllm.serve import Argument

MIDDLEWARE = "migrate_defaults.RequestDefaults"
PROCESSORS = "logits-processors"
PROCESSOR = "ollama_penalties:OllamaPenalties"


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user may decide; everything else follows from the model."""

    client: Client = "native"
    penalties: Penalties = "ollama"
    max_model_len: int | None = None
    loaded_context: int | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str | None = None
    vllm_version: str = versions.DEFAULT
    ollama_version: str | None = None
    go_template_env: str | None = None
    own_chat_template: bool = False
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    merge_adapter: bool = False
    tokenizer: str | None = None
    weights: Literal["dense", "repack", "requantize", "auto", "original"] | None = None
    target_gpu: str | None = None
    original: Proof | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """Everything a bundle is made of, except the weights. `refused` findings mean: no bundle."""

    model: OllamaModel
    choices: Choices
    ledger: Ledger
    prompt: PromptPathDecision
    parameters: Sequence[Parameter]
    layout: ModelLayout | None = None
    dtype: str = ""
    chat_template: str | None = None
    bos_in_template: bool = False
    generation: GenerationConfig | None = None
    served_names: Sequence[str] = ()
    max_model_len: int = 0
    arguments: Sequence[Argument] = ()
    request_defaults: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    adapter: Adapter | None = None
    tool_tag: str | None = None

    @property
    def pooling(self) -> bool:
        """Whether it is an embedding model."""
        return self.layout is not None and self.layout.architecture.pooling

    @property
    def way(self) -> Way | None:
        """How weights are stored, as decided."""
        asked = self.choices.weights
        return None if asked == "auto" or asked == "original" else asked

    @property
    def refused(self) -> list[Finding]:
        return self.ledger.refused


def plan(model: OllamaModel, choices: Choices = Choices()) -> Migration:
    """Decides everything. Raises nothing for what cannot move: that is in the ledger as `refused`.

    Errors: UsageError for choices that cannot be meant.
    """
    version = versions.find(choices.vllm_version)
    ledger = Ledger()
    path = prompt_path(model, go_template_env=choices.go_template_env, version=choices.ollama_version)
    parameters = options.effective(model, version=choices.ollama_version or model.ollama_version)
    if stub := refusal(model):
        ledger.extend([stub])
        return Migration(model, choices, ledger, path, parameters)

    model = _mended(model, ledger)
    choices = _for_target(model, choices, ledger)
    way = Migration(model, choices, ledger, path, parameters).way
    layout, dtype = map_weights(model, choices.dtype, ledger, way=way, original=choices.original)
    _attachments(model, ledger)
    if layout is not None and layout.architecture.pooling:
        return _embedding_model(Migration(model, choices, ledger, path, parameters, layout=layout, dtype=dtype))
    adapter = map_adapter(model, ledger, merge=choices.merge_adapter)
    bos = _map_tokenizer(model, choices, ledger)
    jinja = map_chat_template(model, path, ledger, bos=bos, own_template=choices.own_chat_template)

    values = {p.name: p for p in parameters}
    header = model.gguf
    end_ids = eog.end_token_ids(header) if header else []
    special = eog.special_tokens(header) if header else {}
    sampling = map_sampling(parameters, ledger, client=choices.client, penalties=choices.penalties)
    stops = map_stops(values.get("stop"), special, end_ids, ledger)
    context_length = _context_length(model)
    max_model_len, context_origin = map_context(
        values.get("num_ctx"),
        context_length,
        ledger,
        max_model_len=choices.max_model_len,
        loaded_context=choices.loaded_context,
    )
    _end_of_generation(header, end_ids, stops, ledger)
    generation = _generation(sampling, [*end_ids, *stops.token_ids], header)
    defaults = _request_defaults(sampling, stops)
    names = served_names(choices.served_name or model.name)
    parsers = map_parsers(model, path, ledger, ParserChoice(choices.tool_call_parser, choices.reasoning_parser))
    arguments = [
        *_arguments(choices, dtype, names, adapter, max_model_len, context_origin, jinja is not None, defaults),
        *_own_code(layout),
        *parsers.arguments,
    ]
    _rest(model, ledger)
    ledger.extend(options.ignored(model))
    ledger.extend(model_warnings(model))
    ledger.add("server address", Status.EQUIVALENT, "127.0.0.1:11434", f"{choices.host}:{choices.port}",
               f"clients talk OpenAI's API to vLLM {version.version}; Ollama's /api routes answer 404",
               "`migrate gateway serve` answers them, and clients change nothing")  # fmt: skip
    return Migration(
        model,
        choices,
        ledger,
        path,
        parameters,
        layout=layout,
        dtype=dtype,
        chat_template=jinja,
        bos_in_template=bos,
        generation=generation,
        served_names=names,
        max_model_len=max_model_len,
        arguments=arguments,
        request_defaults=defaults,
        environment=_environment(stops),
        adapter=adapter,
        tool_tag=parsers.tool_tag,
    )


def _for_target(model: OllamaModel, choices: Choices, ledger: Ledger) -> Choices:
    """The choices with `--weights auto` decided, and a dtype that the GPU named with `--target-gpu` runs."""
    if choices.target_gpu is None:
        if choices.weights == "auto":
            raise UsageError("--weights auto needs --target-gpu", hint="Such as --target-gpu 8.9, or cpu.")
        return choices
    target, asked = gpus.parse(choices.target_gpu), choices.weights
    if asked == "original" or model.gguf is None or model.checkpoint is not None:
        return replace(choices, weights=None) if asked == "auto" else choices
    way, dtype = choose_weights(
        model.gguf,
        target,
        None if asked == "auto" else asked,
        ledger,
        auto=choices.weights == "auto",
        dtype=choices.dtype,
        merged=choices.merge_adapter,
    )
    return replace(choices, weights=way, dtype=dtype)


def _embedding_model(migration: Migration) -> Migration:
    """The rest of an embedding model: it renders nothing and samples nothing."""
    model, choices, ledger, layout = migration.model, migration.choices, migration.ledger, migration.layout
    assert layout is not None
    _map_tokenizer(model, choices, ledger)
    given = {"TEMPLATE": model.template, "SYSTEM": model.system, "MESSAGE": model.messages, "ADAPTER": model.adapters}
    for item, value in given.items():
        if value:
            reason = "an embedding model gets its texts as they are; Ollama does not use this for it either"
            status = Status.REFUSED if item == "ADAPTER" else Status.DROPPED
            ledger.add(item, status, _short(str(value)), "", reason)
    for name, value in model.parameters.items():
        if name != "num_ctx":
            ledger.add(f"PARAMETER {name}", Status.DROPPED, value, "", "embeddings are not sampled")
    length = layout.config["max_position_embeddings"]
    wanted = choices.max_model_len or model.parameters.get("num_ctx") or length
    limit = min(int(wanted), int(length))
    ledger.add("context", Status.EQUIVALENT, wanted, f"max-model-len {limit}",
               "a longer text is answered with 400; Ollama cuts it off unless truncate is false")  # fmt: skip
    ledger.add("embedding", Status.EQUIVALENT, "/api/embed", "/v1/embeddings, /pooling",
               "pooled as the file says and scaled to length 1, by modules.json")  # fmt: skip
    _rest(replace(model, system=None, messages=()), ledger)
    names = served_names(choices.served_name or model.name)
    arguments = [
        Argument("model", "./model", "this bundle"),
        *model_names(names, None),
        Argument("host", choices.host, "Ollama's default; vLLM alone would listen on every interface"),
        Argument("port", choices.port, "taking over Ollama's 11434 is a step of the cut-over"),
        Argument("runner", "pooling", "an embedding model"),
        Argument("dtype", migration.dtype, "dtype of the written weights"),
        Argument("max-model-len", limit, "PARAMETER num_ctx, or what the model was trained for"),
    ]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return replace(migration, served_names=names, max_model_len=limit, arguments=arguments, environment=environment)


def _map_tokenizer(model: OllamaModel, choices: Choices, ledger: Ledger) -> bool:
    """Whether prompts begin with BOS."""
    if choices.tokenizer is not None:
        return map_given_tokenizer(model, choices.tokenizer, ledger)
    vocabulary = map_tokenizer(model, ledger)
    return vocabulary.add_bos if vocabulary else bool(model.checkpoint and model.gguf and adds_bos(model.gguf))


def _mended(model: OllamaModel, ledger: Ledger) -> OllamaModel:
    """The model with its GGUF's header as llama.cpp's converter would have written it."""
    if model.gguf is None:
        return model
    header, findings = normalise(model.gguf)
    ledger.extend(findings)
    return replace(model, gguf=header)


def _attachments(model: OllamaModel, ledger: Ledger) -> None:
    if model.projectors:
        ledger.add(
            "FROM (projector)",
            Status.DROPPED,
            ", ".join(p.digest or str(p.path) for p in model.projectors),
            "",
            "the vision projector has no GGUF route into vLLM: the bundle is text only",
            "for images serve the original Hugging Face checkpoint",
        )
    if model.drafts:
        ledger.add("DRAFT", Status.DROPPED, "", "", "speculative decoding changes speed, not answers",
                   "see `--speculative-config` of vllm serve")  # fmt: skip


# ---- the rest ------------------------------------------------------------------------------------------------------


def _rest(model: OllamaModel, ledger: Ledger) -> None:
    if model.system:
        ledger.add("SYSTEM", Status.EXACT, _short(model.system), "chat_template.jinja",
                   "used when a request's first message is not a system message, as in Ollama")  # fmt: skip
    if model.messages:
        ledger.add("MESSAGE", Status.EXACT, f"{len(model.messages)} messages", "chat_template.jinja",
                   "put before the request's messages, as in Ollama")  # fmt: skip
    if model.licenses:
        ledger.add("LICENSE", Status.EXACT, f"{len(model.licenses)} text(s)", "LICENSE", "copied")
    if model.requires:
        ledger.add("REQUIRES", Status.DROPPED, model.requires, "", "a version of Ollama")
    ledger.add("keep_alive", Status.DROPPED, "5m", "", "vLLM keeps its one model in memory until it is stopped")


def _short(text: str, length: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


# ---- generation and serving -----------------------------------------------------------------------------------------


def _end_of_generation(header: GGUFHeader | None, end_ids: Sequence[int], stops: Stops, ledger: Ledger) -> None:
    if header is None:
        return
    tokens = header.get("tokenizer.ggml.tokens", ())
    named = ", ".join(f"{tokens[i]} ({i})" for i in end_ids if i < len(tokens))
    ledger.add("end of generation", Status.EXACT, named, f"eos_token_id {sorted({*end_ids, *stops.token_ids})}",
               "every token on which llama.cpp ends an answer")  # fmt: skip


def _generation(s: Sampling, eos: Sequence[int], header: GGUFHeader | None) -> GenerationConfig:
    def token(key: str) -> int | None:
        value = header.get(f"tokenizer.ggml.{key}") if header else None
        return value if isinstance(value, int) else None

    return GenerationConfig(
        temperature=s.temperature,
        top_k=s.top_k,
        top_p=s.top_p,
        min_p=s.min_p,
        repetition_penalty=s.repetition_penalty,
        presence_penalty=s.presence_penalty,
        frequency_penalty=s.frequency_penalty,
        max_new_tokens=s.max_new_tokens,
        eos_token_id=tuple(dict.fromkeys(eos)),
        bos_token_id=token("bos_token_id"),
        pad_token_id=token("padding_token_id"),
    )


def _request_defaults(sampling: Sampling, stops: Stops) -> dict[str, Any]:
    defaults: dict[str, Any] = {}
    if stops.strings:
        defaults["stop"] = list(stops.strings)
    if sampling.seed is not None:
        defaults["seed"] = sampling.seed
    if sampling.penalties:
        defaults["vllm_xargs"] = dict(sampling.penalties)
    return defaults


def _environment(stops: Stops) -> dict[str, str]:
    longest = max(versions.MAX_STOP_STRINGS, len(stops.strings))
    return {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_MAX_STOP_STRINGS": str(longest)}


def served_names(name: str) -> list[str]:
    """`mymodel` and `mymodel:latest`, or `mymodel:tag` alone: what clients of Ollama put into `model`.

    Characters that are special to a shell, to YAML or in JSON cannot get through: a file may be called anything.
    """
    safe = re.sub(r"[^A-Za-z0-9._:/-]+", "-", name.removesuffix(".gguf")).strip("-./:") or "model"
    base, colon, tag = safe.rpartition(":")
    if colon and "/" not in tag:
        return [base, safe] if tag == "latest" else [safe]
    return [safe, f"{safe}:latest"]


def _arguments(
    choices: Choices,
    dtype: str,
    names: list[str],
    adapter: Adapter | None,
    max_model_len: int,
    context_origin: str,
    has_template: bool,
    defaults: Mapping[str, Any],
) -> list[Argument]:
    arguments = [
        Argument("model", "./model", "this bundle"),
        *model_names(names, adapter),
        Argument("host", choices.host, "Ollama's default; vLLM alone would listen on every interface"),
        Argument("port", choices.port, "taking over Ollama's 11434 is a step of the cut-over"),
        Argument("dtype", dtype or "auto", "dtype of the written weights"),
        Argument("max-model-len", max_model_len, context_origin),
        Argument("generation-config", "auto", "read model/generation_config.json (the PARAMETERs)"),
    ]
    if has_template:
        arguments += [
            Argument("chat-template", "./model/chat_template.jinja", "TEMPLATE, SYSTEM and MESSAGE"),
            Argument("chat-template-content-format", "string", "the template prints message.content"),
        ]
    if "vllm_xargs" in defaults or choices.penalties == "always":
        arguments.append(
            Argument(PROCESSORS, [PROCESSOR], f"penalties as Ollama has them: {PLUGIN}, needs PYTHONPATH=.")
        )
    if defaults:
        what = ", ".join("penalties" if key == "vllm_xargs" else f"PARAMETER {key}" for key in defaults)
        arguments.append(Argument("middleware", [MIDDLEWARE], f"{what}: migrate_defaults.py, needs PYTHONPATH=."))
    return arguments


def _own_code(layout: ModelLayout | None) -> list[Argument]:
    """What lets vLLM read a config.json that transformers has no class for."""
    if layout is None or "auto_map" not in layout.config:
        return []
    origin = "config.json needs the class in model/configuration_*.py, which migrate wrote"
    return [Argument("trust-remote-code", True, origin)]


def _context_length(model: OllamaModel) -> int:
    if model.gguf is not None:
        value = model.gguf.field("context_length", 0)
    else:
        arch = model.model_info.get("general.architecture", "")
        value = model.model_info.get(f"{arch}.context_length", 0)
    return value if isinstance(value, int) else 0
