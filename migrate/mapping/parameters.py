"""PARAMETER by PARAMETER: what each one becomes in vLLM. Pure functions, one row of the table each.

Facts: Ollama's api/types.go and llm/llama_server.go for the meaning on its side, vLLM's sampling_params.py and
config/model.py for the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from migrate.errors import UsageError
from migrate.findings import Ledger, Status
from migrate.ollama.model import Parameter
from migrate.vllm import versions

Client = Literal["native", "openai"]
Penalties = Literal["ollama", "always", "vllm", "none"]
"""Ollama's rule, by the plugin in the bundle; the plugin also for a model without penalties, whose requests may have
some; vLLM's own, with the same numbers; the same without repeat_penalty."""

PLUGIN = "ollama_penalties.py"
PENALTIES: Mapping[str, float] = {
    "repeat_penalty": 1.0,
    "repeat_last_n": 64,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""What the plugin takes, under Ollama's names, and what means nothing is penalised."""


@dataclass(slots=True)
class Sampling:
    """Server-side defaults as they are collected; starts at vLLM's neutral values."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_new_tokens: int | None = None
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    penalties: dict[str, float] = field(default_factory=dict)
    """For the plugin, all four of `PENALTIES`; {} where nothing is penalised, or the plugin is not wanted."""


def map_sampling(
    parameters: Sequence[Parameter], ledger: Ledger, *, client: Client = "native", penalties: Penalties = "ollama"
) -> Sampling:
    """All parameters but num_ctx and stop, which need the model (see `context` and `stops`)."""
    sampling = Sampling()
    values = {p.name: p.value for p in parameters}
    if penalties in ("ollama", "always") and is_penalised(values):
        sampling.penalties = {name: values.get(name, off) for name, off in PENALTIES.items()}
    for p in parameters:
        if p.name in ("num_ctx", "stop"):
            continue
        if rule := _RULES.get(p.name):
            rule(_Row(p, values, ledger, sampling, client, penalties))
        elif not p.is_default:
            _without_counterpart(p, ledger)
    return sampling


def is_penalised(values: Mapping[str, Any]) -> bool:
    """Whether any of Ollama's penalties does anything.

    A repeat_penalty of 0 or less is none of llama.cpp's, and a window below -1 is empty (its init_penalties).
    """
    window = int(values.get("repeat_last_n", 64))
    if window == 0 or window < -1 or float(values.get("repeat_penalty", 1.0)) <= 0:
        return False
    return any(float(values.get(name, off)) != off for name, off in PENALTIES.items() if name != "repeat_last_n")


@dataclass(frozen=True, slots=True)
class _Row:
    parameter: Parameter
    values: Mapping[str, Any]
    ledger: Ledger
    out: Sampling
    client: Client
    penalties: Penalties

    def note(self, status: Status, target: object, reason: str = "", action: str = "") -> None:
        p = self.parameter
        label = f"PARAMETER {p.name}" if not p.is_default else f"default {p.name}"
        self.ledger.add(label, status, f"{_show(p.value)} ({p.origin})", target, reason, action)


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


ORDER_REASON = (
    "llama.cpp applies temperature after top_k/top_p/min_p, vLLM before them: with a temperature other than 1 the "
    "two keep slightly different sets of tokens; greedy decoding is not affected"
)


def _temperature(row: _Row) -> None:
    value = float(row.parameter.value)
    if row.client == "openai":
        row.out.temperature = 1.0
        row.note(
            Status.EQUIVALENT,
            "temperature 1.0",
            "Ollama's OpenAI route sets 1.0 when the request has none, whatever the Modelfile says",
        )
        return
    row.out.temperature = min(max(value, 0.0), versions.MAX_TEMPERATURE)
    if value < 0:
        row.note(Status.EQUIVALENT, "temperature 0", "greedy in llama.cpp; vLLM refuses negative temperatures")
    elif value > versions.MAX_TEMPERATURE:
        row.note(Status.APPROXIMATE, "temperature 2.0", "vLLM refuses temperatures above 2")
    elif value in (0.0, 1.0):
        row.note(Status.EXACT, f"generation_config.json temperature {_show(value)}")
    else:
        row.note(Status.APPROXIMATE, f"generation_config.json temperature {_show(value)}", ORDER_REASON)


def _top_k(row: _Row) -> None:
    row.out.top_k = max(int(row.parameter.value), 0)
    row.note(Status.EXACT, f"generation_config.json top_k {row.out.top_k}")


def _top_p(row: _Row) -> None:
    value = float(row.parameter.value)
    if row.client == "openai":
        row.note(Status.EQUIVALENT, "top_p 1.0", "Ollama's OpenAI route sets 1.0 when the request has none")
    elif value <= 0:
        row.out.top_k = 1
        row.note(Status.EQUIVALENT, "top_k 1", "top_p 0 keeps only the most likely token; vLLM refuses 0")
    else:
        row.out.top_p = min(value, 1.0)
        row.note(Status.EXACT, f"generation_config.json top_p {_show(row.out.top_p)}")


def _min_p(row: _Row) -> None:
    value = float(row.parameter.value)
    row.out.min_p = min(max(value, 0.0), 1.0)
    status = Status.EXACT if row.out.min_p == value else Status.EQUIVALENT
    row.note(status, f"generation_config.json min_p {_show(row.out.min_p)}",
             "" if status is Status.EXACT else "vLLM takes 0 to 1; beyond that nothing changes")  # fmt: skip


def _repeat_penalty(row: _Row) -> None:
    value = float(row.parameter.value)
    window = int(row.values.get("repeat_last_n", 64))
    if value == 1.0 or window == 0:
        row.note(Status.EXACT, "repetition_penalty 1.0", "" if value == 1.0 else "repeat_last_n 0 switches it off")
    elif value <= 0:
        row.note(Status.DROPPED, "repetition_penalty 1.0", "vLLM refuses a penalty of 0 or less")
    elif row.out.penalties:
        row.note(Status.EXACT, f"vllm_xargs repeat_penalty {_show(value)}", f"{BY_PLUGIN} {_window(window)}")
    elif row.penalties == "vllm":
        row.out.repetition_penalty = value
        row.note(
            Status.APPROXIMATE,
            f"repetition_penalty {_show(value)}",
            f"kept as asked: Ollama penalises {_window(window)}, vLLM the whole prompt and answer, which is "
            "much stronger on long contexts",
        )
    else:
        row.note(
            Status.APPROXIMATE,
            "repetition_penalty 1.0",
            f"Ollama penalises {_window(window)}, vLLM the whole prompt and answer: the same number would "
            "penalise most words in use",
            "convert with --penalties ollama to have Ollama's rule",
        )


BY_PLUGIN = "Ollama's own rule, by the logits processor in ollama_penalties.py, over"


def _window(tokens: int) -> str:
    return f"the last {tokens} tokens" if tokens > 0 else "its whole context"


def _counted_penalty(row: _Row) -> None:
    name, value = row.parameter.name, float(row.parameter.value)
    window = int(row.values.get("repeat_last_n", 64))
    bounded = min(max(value, -2.0), 2.0)
    if value == 0 or window == 0:
        row.note(Status.EXACT, f"{name} 0", "" if value == 0 else "repeat_last_n 0 switches it off")
    elif row.out.penalties:
        row.note(Status.EXACT, f"vllm_xargs {name} {_show(value)}", f"{BY_PLUGIN} {_window(window)}")
    else:
        setattr(row.out, name, bounded)
        reason = f"Ollama counts {_window(window)} including the prompt, vLLM all generated tokens"
        if bounded != value:
            reason += "; vLLM refuses values outside -2..2"
        row.note(Status.APPROXIMATE, f"{name} {_show(bounded)}", reason)


def _num_predict(row: _Row) -> None:
    value = int(row.parameter.value)
    if value > 0:
        row.out.max_new_tokens = value
        row.note(
            Status.EQUIVALENT,
            f"generation_config.json max_new_tokens {value}",
            "a default for chat, as in Ollama; a request's max_tokens wins. /v1/completions has vLLM's own default "
            "of 16",
        )
    else:
        row.note(
            Status.APPROXIMATE,
            "rest of the context",
            "Ollama goes on up to 10 x num_ctx tokens by shifting the context; vLLM stops when the context is full",
        )


def _seed(row: _Row) -> None:
    value = int(row.parameter.value)
    if value < 0:
        row.note(Status.EXACT, "none", "random in both")
        return
    row.out.seed = value
    row.note(
        Status.APPROXIMATE,
        f"seed {value} added to requests that bring none (middleware)",
        "the same seed gives the same vLLM answer again, never Ollama's: the generators differ",
    )


def _typical_p(row: _Row) -> None:
    value = float(row.parameter.value)
    if value in (0.0, 1.0):
        row.note(Status.EXACT, "off", "1.0 is off in Ollama")
    else:
        row.note(Status.DROPPED, "", "vLLM has no typical sampling: sampled answers will vary more")


def _repeat_last_n(row: _Row) -> None:
    if row.out.penalties:
        row.note(Status.EXACT, f"vllm_xargs repeat_last_n {row.parameter.value}", "the window of the penalties")
    elif row.parameter.is_default:
        return
    elif not is_penalised(row.values):
        row.note(Status.EXACT, "", "nothing is penalised")
    else:
        row.note(Status.DROPPED, "", "the window of the penalties; vLLM's own have none (see repeat_penalty)")


_RULES: dict[str, Callable[[_Row], None]] = {
    "temperature": _temperature,
    "top_k": _top_k,
    "top_p": _top_p,
    "min_p": _min_p,
    "typical_p": _typical_p,
    "repeat_penalty": _repeat_penalty,
    "repeat_last_n": _repeat_last_n,
    "presence_penalty": _counted_penalty,
    "frequency_penalty": _counted_penalty,
    "num_predict": _num_predict,
    "seed": _seed,
}

LOADING = {
    "num_gpu": "layers on the GPU; vLLM puts the whole model there",
    "main_gpu": "choice of the GPU; use CUDA_VISIBLE_DEVICES",
    "num_thread": "CPU threads of llama.cpp",
    "num_batch": "batch size of llama.cpp; vLLM schedules its own batches",
    "num_keep": "tokens kept when the context is shifted; vLLM never shifts",
    "use_mmap": "how llama.cpp reads the file",
    "draft_num_predict": "speculative decoding of llama.cpp; changes speed, not answers",
}


def _without_counterpart(p: Parameter, ledger: Ledger) -> None:
    ledger.add(f"PARAMETER {p.name}", Status.DROPPED, f"{_show(p.value)} ({p.origin})", "", LOADING.get(p.name, ""))


# ---- num_ctx --------------------------------------------------------------------------------------------------------

DEFAULT_CONTEXT_CAP = 32768


def map_context(
    num_ctx: Parameter | None,
    context_length: int,
    ledger: Ledger,
    *,
    max_model_len: int | None = None,
    loaded_context: int | None = None,
) -> tuple[int, str]:
    """`--max-model-len` in tokens and where it comes from.

    `context_length` is the model's own maximum (0: unknown), `loaded_context` what a running Ollama uses
    (/api/ps), `max_model_len` the user's explicit choice. Ollama caps num_ctx at the model's maximum and raises
    anything below 4; unset it means 4k, 32k or 256k by the VRAM of the machine it happens to run on.
    """
    maximum = context_length or DEFAULT_CONTEXT_CAP
    written = None if num_ctx is None or num_ctx.is_default else num_ctx
    if written is not None and int(written.value) <= 0:
        ledger.add("PARAMETER num_ctx", Status.DROPPED, str(written.value), "", "not positive: as if it were not there")
        written = None
    overflow = "a longer prompt is answered with 400, where Ollama drops old messages or shifts the context"
    source = f"{written.value} ({written.origin})" if written else "unset"
    if max_model_len is not None:
        if context_length and max_model_len > context_length:
            raise UsageError(
                f"--max-model-len {max_model_len}: the model's maximum is {context_length}",
                hint="vLLM does not start above it; a longer context takes rope scaling, which makes another model",
            )
        ledger.add(
            "PARAMETER num_ctx", Status.APPROXIMATE, source, f"max-model-len {max_model_len}", f"as asked; {overflow}"
        )
        return max_model_len, "--max-model-len"
    if written is not None:
        length = min(max(int(written.value), 4), maximum)
        bound = f"the model's maximum of {maximum}" if int(written.value) > maximum else "Ollama's minimum of 4"
        reason = overflow if length == int(written.value) else f"{bound} holds; {overflow}"
        ledger.add("PARAMETER num_ctx", Status.APPROXIMATE, source, f"max-model-len {length}", reason)
        return length, f"PARAMETER num_ctx {written.value}"
    if loaded_context:
        length = min(loaded_context, maximum)
        ledger.add("default num_ctx", Status.APPROXIMATE, f"{loaded_context} (running server)",
                   f"max-model-len {length}", overflow)  # fmt: skip
        return length, f"context of the running Ollama ({loaded_context})"
    length = min(maximum, DEFAULT_CONTEXT_CAP)
    ledger.add(
        "default num_ctx",
        Status.APPROXIMATE,
        "unset: 4096, 32768 or 262144 by the host's VRAM",
        f"max-model-len {length}",
        f"Ollama's choice depends on a machine we cannot see; {overflow}",
        "check /api/ps on the old host and pass --max-model-len if it differs",
    )
    return length, f"no num_ctx: model maximum {maximum}, at most {DEFAULT_CONTEXT_CAP}"
