"""Ollama's options as the body of a request to vLLM: by what they do, not by their names.

The rules are those of the migration itself (`migrate.mapping.parameters`), so a model answers alike through the gateway
and through its bundle. Whatever cannot be kept is told: `Sampling.notes` goes to the log and to a header of the answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from migrate.findings import Ledger, Status
from migrate.gateway.catalog import ServedModel
from migrate.gateway.types import Format
from migrate.mapping import parameters
from migrate.ollama import options as ollama_options
from migrate.ollama.model import Parameter

REQUEST = "the request"
MIN_NUM_CTX = 4
CACHED_CHARACTERS = 4096
"""Options longer than that, of stop strings, are not kept."""
OPEN_ENDED_CONTEXTS = 10
"""num_predict below 0, or beyond, means this many contexts (boundedNumPredict)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is sampled.

    `body`: fields of vLLM's completion requests, every one that generation_config.json could set included. `num_ctx`,
    `num_predict` and `num_keep` in tokens; `num_predict` is bounded, and 0 where the answer may go on as long as there
    is room. `notes`: option -> what became of it where that is not the same thing.
    """

    body: Mapping[str, Any]
    num_ctx: int
    num_predict: int
    num_keep: int
    notes: Mapping[str, str]


def sampling(model: ServedModel, options: Mapping[str, Any]) -> Sampling:
    """Of the model's parameters with a request's options on top. `options` are checked already (`check_options`)."""
    known = {name: value for name, value in options.items() if name in ollama_options.OPTIONS and value is not None}
    text = json.dumps(known, sort_keys=True)
    make = _sampling if len(text) <= CACHED_CHARACTERS else _sampling.__wrapped__
    return make(_Key(model), text)


class _Key:
    """A model as a key of the cache."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def __hash__(self) -> int:
        return id(self.model)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.model is self.model


@lru_cache(maxsize=512)
def _sampling(key: _Key, text: str) -> Sampling:
    model, asked = key.model, json.loads(text)
    origins = {str(p["name"]): str(p.get("origin", "")) for p in model.source.parameters}
    merged = {**model.parameters, **asked}
    effective = [
        Parameter(name, value, REQUEST if name in asked else origins.get(name, "Ollama default"))
        for name, value in merged.items()
        if value is not None
    ]
    ledger = Ledger()
    mapped = parameters.map_sampling(effective, ledger, penalties=model.penalties)
    notes = {
        finding.item.split()[-1]: finding.reason
        for finding in ledger
        if finding.item.startswith("PARAMETER ")
        and finding.status in (Status.APPROXIMATE, Status.DROPPED)
        and finding.item.split()[-1] not in _SILENT
    }
    num_ctx, note = _context(model, asked.get("num_ctx"))
    if note:
        notes["num_ctx"] = note
    body: dict[str, Any] = {
        "temperature": mapped.temperature,
        "top_k": mapped.top_k,
        "top_p": mapped.top_p,
        "min_p": mapped.min_p,
        "repetition_penalty": mapped.repetition_penalty,
        "presence_penalty": mapped.presence_penalty,
        "frequency_penalty": mapped.frequency_penalty,
    }
    if model.penalties == "ollama":  # also where there are none, or the bundle's middleware would fill in the model's
        body["vllm_xargs"] = mapped.penalties or dict(parameters.PENALTIES)
    if mapped.seed is not None:
        body["seed"] = mapped.seed
    body |= _stops(model, merged.get("stop") or [])
    predict = int(merged.get("num_predict", -1))
    limit = OPEN_ENDED_CONTEXTS * num_ctx
    predict = limit if predict < 0 or predict > limit else predict
    return Sampling(body, num_ctx, predict, int(merged.get("num_keep", 4)), notes)


_SILENT = ("num_predict", "seed", "repeat_last_n", *parameters.LOADING)
"""Told once in the docs, or with another: a length that is counted alike, a generator that differs, the window of
penalties, how a model is loaded."""


def _context(model: ServedModel, asked: Any) -> tuple[int, str]:
    """The context in force and a note where it is not what was asked for (llm/server.go, server/sched.go)."""
    if asked is None or int(asked) <= 0:
        return model.num_ctx, ""
    wanted = min(max(int(asked), MIN_NUM_CTX), model.context_length)
    if wanted > model.max_model_len:
        return model.max_model_len, f"the server was started with {model.max_model_len} tokens, not {asked}"
    return wanted, ""


def _stops(model: ServedModel, stop: list[str]) -> dict[str, Any]:
    """A control token is stopped on by its id: vLLM removes it from the text. An empty list is sent as well, or the
    bundle's middleware would fill in the model's."""
    special = model.tokens.special
    ids = [special[text] for text in stop if text in special]
    return {
        "stop": [text for text in dict.fromkeys(stop) if text and text not in special],
        "stop_token_ids": [*dict.fromkeys([*ids, *model.stop_token_ids])],
    }


# ---- structured output ----------------------------------------------------------------------------------------------

JSON_OBJECT = r"""
root ::= object
value ::= object | array | string | number | (("true" | "false" | "null") ws)
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? ws "}"
array ::= "[" ws (value ("," ws value)*)? ws "]"
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F]))* "\""
number ::= "-"? ([0-9] | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
ws ::= [ \t\n]*
"""
"""Ollama's `format: "json"`: an object, blanks after signs and literals only, and any number of them."""


def structured(wanted: Format) -> dict[str, Any]:
    """vLLM's `structured_outputs` for a `format`; {} for none."""
    if wanted is None:
        return {}
    if wanted == "json":
        return {"structured_outputs": {"grammar": JSON_OBJECT}}
    return {"structured_outputs": {"json": dict(wanted)}}
