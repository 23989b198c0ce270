"""Why the GPU idles while requests queue: what a running Ollama does with its machine, from what can be seen of it.

Facts come from `observe` (migrate/ollama/server_process.py); here they are only judged. Defaults and meanings are those
of Ollama 0.33 (envconfig/config.go, server/sched.go, llm/llama_server.go); where an older version differs it is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from migrate.ollama.options import resolve

Severity = Literal["problem", "note", "fine", "unknown"]
Topic = Literal["parallel", "context", "cpu", "swapping", "queue", "cache", "gpu", "environment"]

SINGLE = ("bert", "nomic-bert", "mllama", "qwen3vl", "qwen35", "qwen3next", "lfm2", "nemotron_h")
"""Families (and those whose names go on: qwen3vlmoe) for which num_parallel is forced to 1; the first two embed."""
MODELS_PER_GPU = 3
MAX_QUEUE = 512
KEEP_ALIVE = "5m"
TIERS = (4096, 32768, 262144)
"""The default context by the memory of all GPUs: below 23 GiB, below 47 GiB, more. Since 0.15.5."""
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable of the server, and where it was read."""

    value: str
    origin: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A row of /api/ps. Sizes in bytes: all of the model with its cache, and the part of it on GPUs."""

    name: str
    family: str
    size: int
    size_vram: int
    context_length: int | None = None
    forever: bool = False


@dataclass(frozen=True, slots=True)
class Runner:
    """The process that computes for one loaded model, by its command line. `context` is that of all slots together."""

    pid: int
    parallel: int | None = None
    context: int | None = None
    cache_type: str | None = None
    flash_attention: str | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """As NVML tells it: percent of the last moment (at most a second) in which it computed, and bytes."""

    name: str
    busy_percent: int
    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What could be seen. None and "not known" are not the same as empty: `loaded` None means the server did not tell,
    `environment_known` False that what is not in `environment` may be set all the same, `gpus` None that NVML is not
    there."""

    server: str
    version: str | None = None
    loaded: Sequence[Loaded] | None = None
    environment: Mapping[str, Setting] = field(default_factory=dict)
    environment_known: bool = False
    runners: Sequence[Runner] = ()
    gpus: Sequence[Gpu] | None = None
    notes: Sequence[str] = ()
    """What could not be read, and why."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Symptom:
    """One judgement: what was seen and what it means for the load on this machine."""

    topic: Topic
    severity: Severity
    evidence: str
    meaning: str


def diagnose(facts: Facts, kv_bytes_per_token: Mapping[str, int] | None = None) -> list[Symptom]:
    """Judges the facts, what matters most first.

    `kv_bytes_per_token` has the key/value cache of one token (2-byte elements) for models whose header was read.
    """
    found = [
        *_parallel(facts),
        *_cpu(facts),
        *_swapping(facts),
        *_context(facts, kv_bytes_per_token or {}),
        *_queue(facts),
        *_cache(facts),
        *_gpus(facts),
        *_environment(facts),
    ]
    order: tuple[Severity, ...] = ("problem", "unknown", "note", "fine")
    return sorted(found, key=lambda symptom: order.index(symptom.severity))


# ---- what is set ----------------------------------------------------------------------------------------------------


def _setting(facts: Facts, name: str, default: str) -> Setting | None:
    """The value in force; None when it cannot be known."""
    if (given := facts.environment.get(name)) is not None:
        return given
    if facts.environment_known:
        return Setting(default, "not set")
    return None


def _number(setting: Setting | None, default: int) -> int | None:
    """Ollama takes its default for what is no number; blanks and quotes around a value go."""
    if setting is None:
        return None
    text = setting.value.strip().strip("'\"").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _off(text: str) -> bool:
    """Whether Go reads it as false; whatever it cannot read counts as true in Ollama."""
    return text.strip() in ("0", "f", "F", "false", "FALSE", "False")


def _shown(name: str, setting: Setting) -> str:
    if setting.origin == "not set":
        return f"{name} is not set (default {setting.value})"
    return f"{name}={setting.value} ({setting.origin})"


def slots(facts: Facts) -> tuple[int, str] | None:
    """Requests that one model answers at a time, and the evidence; None when it cannot be known."""
    seen = [runner for runner in facts.runners if runner.parallel]
    if seen:
        most = max(seen, key=lambda runner: runner.parallel or 0)
        return most.parallel or 1, f"its runner (process {most.pid}) was started with {most.parallel} slot(s)"
    setting = _setting(facts, "OLLAMA_NUM_PARALLEL", "1")
    if setting is None:
        return None
    if facts.version and resolve(facts.version) < (0, 10, 0) and setting.origin == "not set":
        return None  # 4 or 1, by the free memory (github.com/ollama/ollama/pull/11330)
    return max(_number(setting, 1) or 1, 1), _shown("OLLAMA_NUM_PARALLEL", setting)


# ---- the judgements -------------------------------------------------------------------------------------------------


def _parallel(facts: Facts) -> Iterator[Symptom]:
    single = [model for model in facts.loaded or () if model.family.startswith(SINGLE)]
    if single:
        what = ", ".join(f"{model.name} ({model.family})" for model in single[:SHOWN])
        yield Symptom(
            "parallel",
            "problem",
            f"{what}: Ollama answers one request at a time for this architecture, whatever is set",
            "all others wait in the queue, and the GPU computes for one sequence",
        )
    if facts.loaded and len(single) == len(facts.loaded):
        return
    known = slots(facts)
    if known is None:
        yield Symptom(
            "parallel",
            "unknown",
            "OLLAMA_NUM_PARALLEL could not be read",
            "unless it is set, one request is answered at a time (Ollama before 0.10: 1 or 4, by the free memory)",
        )
    elif known[0] == 1:
        yield Symptom(
            "parallel",
            "problem",
            known[1],
            "one request at a time per model: all others wait in the queue, while the GPU reads all weights for each "
            "single token. That is limited by its memory, and most of its arithmetic idles",
        )
    else:
        yield Symptom(
            "parallel",
            "note",
            known[1],
            f"at most {known[0]} requests per model at a time, the next one waits; the context is reserved "
            f"{known[0]} times over",
        )


def _cpu(facts: Facts) -> Iterator[Symptom]:
    models = [model for model in facts.loaded or () if model.size > 0]
    on_cpu = [model for model in models if model.size_vram < model.size]
    shares = [f"{model.name}: {_percent(model.size - model.size_vram, model.size)} on the CPU" for model in on_cpu]
    if on_cpu and all(model.size_vram == 0 for model in on_cpu):
        yield Symptom(
            "cpu",
            "problem",
            "; ".join(shares[:SHOWN]),
            "no GPU computes for it: there is none that Ollama can use, its memory was taken, or num_gpu is 0",
        )
    elif on_cpu:
        yield Symptom(
            "cpu",
            "problem",
            "; ".join(shares[:SHOWN]),
            "some layers did not fit: for each token the GPU waits until the processor has computed them. A smaller "
            "context, fewer slots or fewer models at a time would make room",
        )
    elif models:
        yield Symptom("cpu", "fine", f"{len(models)} loaded, all of it on the GPU", "no layer waits for the processor")


def _swapping(facts: Facts) -> Iterator[Symptom]:
    keep = _setting(facts, "OLLAMA_KEEP_ALIVE", KEEP_ALIVE)
    text = keep.value.strip().strip("'\"") if keep else ""
    limit = _limit(facts)
    if facts.loaded is None:
        yield Symptom("swapping", "unknown", "the server did not tell what is loaded (/api/ps)", "")
    elif not facts.loaded:
        evidence = "no model is loaded" + (f"; {_shown('OLLAMA_KEEP_ALIVE', keep)}" if keep else "")
        yield Symptom("swapping", "note", evidence, "the next request waits until the weights are read again")
    elif limit is not None and len(facts.loaded) >= max(limit, 2):
        yield Symptom(
            "swapping",
            "problem",
            f"{len(facts.loaded)} models are loaded, as many as may be ({limit})",
            "a request for another model throws one out, and the one thrown out has to be read again",
        )
    elif len(facts.loaded) > 1:
        names = ", ".join(model.name for model in facts.loaded[:SHOWN])
        yield Symptom(
            "swapping",
            "note",
            f"{len(facts.loaded)} models share the machine: {names}",
            "each keeps its weights and its whole cache; when one more does not fit, an idle one is thrown out",
        )
    if keep is not None and text in ("0", "0s"):
        yield Symptom("swapping", "problem", _shown("OLLAMA_KEEP_ALIVE", keep), "every request reads the weights again")
    elif keep is not None and not text.startswith("-") and not _all_forever(facts) and facts.loaded:
        yield Symptom(
            "swapping",
            "note",
            _shown("OLLAMA_KEEP_ALIVE", keep),
            "after that long without a request the model is unloaded, and the first request then waits for the load. A "
            "request with other load options (num_ctx, num_gpu ...) loads it again at once",
        )


def _limit(facts: Facts) -> int | None:
    """Models at a time: OLLAMA_MAX_LOADED_MODELS, or three per GPU."""
    number = _number(_setting(facts, "OLLAMA_MAX_LOADED_MODELS", "0"), 0)
    if number:
        return number
    return None if number is None else MODELS_PER_GPU * max(1, len(facts.gpus or ()))


def _all_forever(facts: Facts) -> bool:
    return bool(facts.loaded) and all(model.forever for model in facts.loaded or ())


def _context(facts: Facts, kv: Mapping[str, int]) -> Iterator[Symptom]:
    rows = [model for model in facts.loaded or () if model.context_length]
    if not rows:
        return
    known = slots(facts)
    count = known[0] if known else 1
    evidence = "; ".join(_context_of(model, count, known is not None, kv.get(model.name)) for model in rows[:SHOWN])
    meaning = (
        "the cache for the whole context of every slot is taken when the model is loaded, whether requests are long "
        "or not; more slots or more context push layers to the processor"
    )
    if any(model.context_length in TIERS for model in rows) and _unset(facts, "OLLAMA_CONTEXT_LENGTH"):
        meaning += ". Without num_ctx the context follows from the memory of the GPUs: another machine, another context"
    yield Symptom("context", "note", evidence, meaning)


def _context_of(model: Loaded, count: int, sure: bool, kv: int | None) -> str:
    context = model.context_length or 0
    text = f"{model.name}: {context:,} tokens"
    if sure and count > 1:
        text += f" x {count} slots = {context * count:,}"
    return text + (f", {context * count * kv / 1e9:.2f} GB of cache at 2 bytes a value" if kv and sure else "")


def _unset(facts: Facts, name: str) -> bool:
    setting = _setting(facts, name, "")
    return setting is not None and not setting.value.strip()


def _queue(facts: Facts) -> Iterator[Symptom]:
    setting = _setting(facts, "OLLAMA_MAX_QUEUE", str(MAX_QUEUE))
    if setting is None:
        return
    yield Symptom(
        "queue",
        "note",
        _shown("OLLAMA_MAX_QUEUE", setting),
        "so many requests wait, the next one is answered with 503; Ollama does not tell how many wait, so users see "
        "long times to the first token and nothing else does",
    )


def _cache(facts: Facts) -> Iterator[Symptom]:
    setting = facts.environment.get("OLLAMA_KV_CACHE_TYPE")
    kind = (setting.value.strip().strip("'\"") if setting else "") or next(
        (runner.cache_type for runner in facts.runners if runner.cache_type), ""
    )
    if kind and kind not in ("f16", "f32", "bf16"):
        evidence = _shown("OLLAMA_KV_CACHE_TYPE", setting) if setting else f"the runner was started with {kind}"
        yield Symptom(
            "cache",
            "note",
            evidence,
            "keys and values are rounded: answers were made with it, and parity compares with them",
        )
    flash = facts.environment.get("OLLAMA_FLASH_ATTENTION")
    if flash is not None and flash.value.strip() and _off(flash.value):
        yield Symptom(
            "cache",
            "problem",
            _shown("OLLAMA_FLASH_ATTENTION", flash),
            "attention without it is slower and takes more memory as prompts grow; a quantized cache needs it",
        )


def _gpus(facts: Facts) -> Iterator[Symptom]:
    if facts.gpus is None:
        return
    if not facts.gpus:
        yield Symptom("gpu", "note", "NVML finds no GPU on this machine", "")
    for number, gpu in enumerate(facts.gpus):
        free = 1 - gpu.used_bytes / gpu.total_bytes if gpu.total_bytes else 0.0
        room = "; much of its memory is free, which more requests at a time could use" if free > 0.5 else ""
        yield Symptom(
            "gpu",
            "note",
            f"GPU {number} ({gpu.name}): {gpu.busy_percent}% busy, {gpu.used_bytes / 1e9:.1f} of "
            f"{gpu.total_bytes / 1e9:.1f} GB in use",
            "at this moment: look again under load. Busy means that something ran, not that the GPU was full: one "
            f"sequence at a time can show 90%{room}",
        )
    spread = facts.environment.get("OLLAMA_SCHED_SPREAD")
    if len(facts.gpus) > 1 and facts.loaded and (spread is None or not spread.value.strip() or _off(spread.value)):
        yield Symptom(
            "gpu", "note", f"{len(facts.gpus)} GPUs", "a model that fits on one is loaded on one; the others idle"
        )


def _environment(facts: Facts) -> Iterator[Symptom]:
    """Settings that act behind the back of a Modelfile."""
    hidden = [_shown(name, setting) for name, setting in facts.environment.items() if name.startswith("LLAMA_ARG_")]
    if hidden:
        yield Symptom(
            "environment",
            "note",
            "; ".join(hidden[:SHOWN]),
            "llama.cpp's server takes these as options of its own: they can change answers as well as speed",
        )
    overhead = facts.environment.get("OLLAMA_GPU_OVERHEAD")
    if overhead is not None and _number(overhead, 0):
        yield Symptom(
            "environment", "note", _shown("OLLAMA_GPU_OVERHEAD", overhead), "bytes of each GPU that Ollama leaves free"
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%"
