"""Parameters: what they are, what Ollama does with a value, which values are in force and who set them.

Types, defaults and the rules of `check` are Ollama's `api.Options`, `DefaultOptions` and `FormatParams` (read at 0.33);
what changed between versions is in `_DEFAULTS_BEFORE`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from migrate.errors import ModelfileError, StoreError
from migrate.findings import Finding, Status
from migrate.ollama.autodetect import built_in_stop_list, built_in_template, templates_with_stop_list
from migrate.ollama.model import OllamaModel, Parameter

CURRENT_VERSION = "0.33"
"""The Ollama these facts were read from, assumed when the version is not known."""

Kind = Literal["int", "float", "bool", "strings"]


@dataclass(frozen=True, slots=True)
class Option:
    """One PARAMETER. `acts` is when it takes effect: "load" changes how the model is loaded, "request" one answer.

    `default` None means unset: Ollama decides when it loads the model, as `meaning` says.
    """

    name: str
    kind: Kind
    default: Any
    acts: Literal["load", "request"]
    meaning: str


OPTIONS: Mapping[str, Option] = {
    o.name: o
    for o in (
        Option("temperature", "float", 0.8, "request", "0: always the likeliest token; applied after top_p, min_p"),
        Option("top_k", "int", 40, "request", "0 or less: the whole vocabulary"),
        Option("top_p", "float", 0.9, "request", ""),
        Option("min_p", "float", 0.0, "request", ""),
        Option("typical_p", "float", 1.0, "request", "1 switches it off"),
        Option("repeat_penalty", "float", 1.0, "request", "over the last repeat_last_n tokens, the prompt's included"),
        Option("repeat_last_n", "int", 64, "request", "window of the three penalties in tokens; -1: the context"),
        Option("presence_penalty", "float", 0.0, "request", "inside the repeat_last_n window"),
        Option("frequency_penalty", "float", 0.0, "request", "inside the repeat_last_n window"),
        Option("seed", "int", -1, "request", "-1: random; 0 is a fixed seed"),
        Option("stop", "strings", (), "request", "texts that end an answer, beside the model's own end tokens"),
        Option("num_predict", "int", -1, "request", "longest answer in tokens; negative: ten times num_ctx"),
        Option("num_keep", "int", 4, "request", "tokens at the head of the prompt that a context shift keeps"),
        Option("num_ctx", "int", None, "load", "OLLAMA_CONTEXT_LENGTH, else by total VRAM: 4096, from 23 GiB 32768, "
                                               "from 47 GiB 262144; never above the model's context length"),
        Option("num_batch", "int", 512, "load", "Ollama adjusts it between 256 and 2048"),
        Option("num_gpu", "int", -1, "load", "layers on the GPU; -1: as many as fit, 0: none"),
        Option("main_gpu", "int", None, "load", "all GPUs share the model"),
        Option("use_mmap", "bool", None, "load", "Ollama decides"),
        Option("num_thread", "int", 0, "load", "0: Ollama decides"),
        Option("draft_num_predict", "int", None, "load", "4 with a DRAFT model, 0 without"),
    )
}  # fmt: skip
"""Every parameter `ollama create` accepts, in the order reports list them."""

DEPRECATED = (
    "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline", "low_vram", "f16_kv", "logits_all", "vocab_only",
    "use_mlock",
)  # fmt: skip
"""Accepted with a warning and dropped by `ollama create`; ignored in old stores."""

GONE = (
    "tfs_z", "numa", "num_gqa", "rope_frequency_base", "rope_frequency_scale", "embedding_only",
)  # fmt: skip
"""Legal once; refused by `ollama create` today, ignored where an old store still has them."""

KNOWN_PARAMETERS = frozenset((*OPTIONS, *DEPRECATED, *GONE))

_DEFAULTS_BEFORE: tuple[tuple[tuple[int, int, int], str, Any], ...] = (((0, 32, 10), "repeat_penalty", 1.1),)
"""(first version with today's default, name, default before it)."""

_OTHER_SERVERS_NAMES = {
    "max_tokens": "num_predict",
    "max_new_tokens": "num_predict",
    "n_predict": "num_predict",
    "context_length": "num_ctx",
    "n_ctx": "num_ctx",
    "ctx_size": "num_ctx",
    "max_model_len": "num_ctx",
    "batch_size": "num_batch",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "repetition_penalty": "repeat_penalty",
    "threads": "num_thread",
    "num_threads": "num_thread",
    "gpu_layers": "num_gpu",
    "n_gpu_layers": "num_gpu",
    "temp": "temperature",
}
_NOT_A_PARAMETER = {
    "keep_alive": "keep_alive belongs to a request or to OLLAMA_KEEP_ALIVE.",
    "grammar": "Grammars belong to a request (`format`).",
    "quantization": "Quantization is an option of `ollama create` (--quantize).",
}

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE
)  # Go also takes 0x1p-2, which nobody writes in a Modelfile
_BOOLS = {"1": True, "t": True, "T": True, "true": True, "TRUE": True, "True": True,
          "0": False, "f": False, "F": False, "false": False, "FALSE": False, "False": False}  # fmt: skip
_INT64 = range(-(1 << 63), 1 << 63)
_FLOAT32_MAX = 3.4028235677973366e38
"""Anything above rounds to infinity."""


def check(name: str, value: str) -> Any:
    """The value `ollama create` would store for one PARAMETER line: int, float (rounded to float32), bool, or a text
    for `stop`; None when the parameter is deprecated and dropped.

    Raises ModelfileError for unknown names and values of the wrong type, as Ollama does.
    """
    if name in DEPRECATED:
        return None
    option = OPTIONS.get(name)
    if option is None:
        raise ModelfileError(f"unknown parameter {name!r}", hint=_unknown_hint(name, value))
    if option.kind == "strings":
        return value
    parsed = _PARSERS[option.kind](value)
    if parsed is None:
        what = {"int": "a whole number", "float": "a number", "bool": "true or false"}[option.kind]
        raise ModelfileError(f"PARAMETER {name} must be {what}, not {value!r}", hint=_value_hint(name, option, value))
    return parsed


def stored(name: str, value: Any) -> Any:
    """A value from a params layer or a server's JSON in its own type; None for null, unknown names unchanged.

    Raises StoreError where Ollama would refuse to run the model ("option ... must be of type ...").
    """
    option = OPTIONS.get(name)
    if option is None or value is None:
        return value
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else None
    if option.kind == "float" and number is not None and abs(number) <= _FLOAT32_MAX:
        return float32(float(number))
    if option.kind == "int" and number is not None and math.isfinite(number) and int(number) in _INT64:
        return int(number)
    if option.kind == "bool" and isinstance(value, bool):
        return value
    if option.kind == "strings" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    what = {"int": "a whole number", "float": "a number", "bool": "true or false", "strings": "a list of texts"}
    raise StoreError(
        f"PARAMETER {name} must be {what[option.kind]}, not {str(value)[:80]!r}: Ollama cannot run this model"
    )


def _parse_int(text: str) -> int | None:
    if not _INT.fullmatch(text) or len(text) > 40:
        return None
    number = int(text)
    return number if number in _INT64 else None


def _parse_float(text: str) -> float | None:
    if not _FLOAT.fullmatch(text):
        return None
    number = float(text)
    if not math.isfinite(number):
        return None  # Ollama takes "nan" here and fails later, when it writes the value as JSON
    try:
        return float32(number)
    except OverflowError:
        return None


def float32(number: float) -> float:
    """The shortest decimal that means the same float32, as Ollama prints and stores it: 0.1, not 0.10000000149."""
    if not math.isfinite(number):
        return number
    packed = struct.pack("<f", number)
    return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{number:.{digits}g}")) == packed)


def _parse_bool(text: str) -> bool | None:
    return _BOOLS.get(text)


_PARSERS = {"int": _parse_int, "float": _parse_float, "bool": _parse_bool}


def _unknown_hint(name: str, value: str) -> str:
    if not name:
        first = value.split(maxsplit=1)[0] if value.split() else "name"
        return f'Exactly one blank goes between PARAMETER and the name: "PARAMETER {first} ...".'
    if name.lower() in OPTIONS:
        return f"Parameter names are lower-case: {name.lower()}."
    if name in GONE:
        return "Ollama had it once and refuses it today: remove the line."
    if name in _NOT_A_PARAMETER:
        return _NOT_A_PARAMETER[name]
    near = _OTHER_SERVERS_NAMES.get(name.lower())
    near = near or next(iter(get_close_matches(name.lower(), (*OPTIONS, *DEPRECATED), n=1)), None)
    if near in DEPRECATED:
        return f"Did you mean {near}? Ollama ignores that one too: remove the line."
    return f"Did you mean {near}?" if near else f"Ollama knows {', '.join(OPTIONS)}."


def _value_hint(name: str, option: Option, value: str) -> str | None:
    bare = value.split("#")[0].strip()
    if "#" in value and bare and _PARSERS[option.kind](bare) is not None:
        return f'A comment needs its own line: here "{value[len(bare) :].strip()}" is part of the value.'
    if option.kind == "int" and (number := _parse_float(value)) is not None and number.is_integer():
        return f'Write "PARAMETER {name} {int(number)}".'
    return None


def resolve(version: str | None) -> tuple[int, int, int]:
    """ "0.33.0-rc2" as (0, 33, 0); `CURRENT_VERSION` for None or anything unreadable."""
    numbers = re.match(r"v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?", version or CURRENT_VERSION)
    if numbers is None:
        return resolve(None)
    major, minor, patch = (int(n or 0) for n in numbers.groups())
    return major, minor, patch


def default(name: str, version: str | None = None) -> Any:
    """Ollama's default of one option in that version (`CURRENT_VERSION` if None); None when it is not a fixed value."""
    for since, changed, before in _DEFAULTS_BEFORE:
        if name == changed and resolve(version) < since:
            return before
    return OPTIONS[name].default


def effective(model: OllamaModel, *, version: str | None = None) -> list[Parameter]:
    """Every parameter in force, in the order of `OPTIONS`, with who set it.

    `version` is Ollama's; without it the version the model was read from, or `CURRENT_VERSION`. What a store has no
    trace of is said as it is: a stop list equal to the one that comes with a built-in template may be either's.
    """
    version = version or model.ollama_version
    shown = re.sub(r"^v?(\d+\.\d+)\.0\b.*", r"\1", version or CURRENT_VERSION)
    found = []
    for name, option in OPTIONS.items():
        if model.parameters.get(name) is not None:
            found.append(Parameter(name, model.parameters[name], _origin(model, name)))
        elif name == "draft_num_predict":
            found.append(Parameter(name, 4 if model.drafts else 0, f"Ollama default ({shown})"))
        else:
            value = list(option.default) if option.kind == "strings" else default(name, version)
            why = f": {option.meaning}" if value is None else ""
            found.append(Parameter(name, value, f"Ollama default ({shown}){why}"))
    return found


def _origin(model: OllamaModel, name: str) -> str:
    """Who set a parameter that the params layer or the Modelfile has."""
    value = model.parameters[name]
    if model.parent_parameters is not None and model.parent_parameters.get(name) == value:
        return f"parent {model.parent}"
    if model.kind == "modelfile" or name != "stop":
        return "Modelfile"
    if model.gguf is not None and model.gguf.architecture == "gemma4" and list(value) == ["<turn|>"]:
        return "ollama create, for every gemma4"
    if (named := built_in_template(model.template)) and list(value) == built_in_stop_list(named):
        return f"autodetected template ({named})"
    if templates_with_stop_list(value) and (model.gguf is None or model.gguf.chat_template):
        return "Modelfile or autodetected template"
    return "Modelfile"


def ignored(model: OllamaModel) -> tuple[Finding, ...]:
    """Parameters in the model that Ollama itself no longer looks at: old stores have them, nothing is lost."""
    findings = []
    for name, value in model.parameters.items():
        if name in OPTIONS:
            continue
        known = "no longer has it" if name in KNOWN_PARAMETERS else "does not know it"
        findings.append(
            Finding(
                f"PARAMETER {name}",
                Status.DROPPED,
                source=str(value),
                reason=f"Ollama {known} and ignores it with a log line",
            )
        )
    return tuple(findings)
