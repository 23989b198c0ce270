"""Efficiencies from a measurement instead of an assumption: one short run against a running vLLM, or a parity report.

The run asks /v1/completions with random token ids, so that no prefix cache helps: prompts of two lengths for the
prefill, and answers of a fixed length, one at a time and several at a time, for decoding. It is bounded in requests and
in time, and nothing is installed or changed.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from migrate.engines.http import JsonClient
from migrate.errors import BadInput, EngineError, ServerError, UsageError
from migrate.plan.throughput import ASSUMED, Efficiency, Instance, Load

SECONDS = 90.0
"""No request is sent after this."""
BATCHES = (1, 4, 16)
ANSWER = 48
"""Tokens of an answer; the first one is the prefill's."""
PROMPTS = (32, 1024)
REPEATS = 3
HOST_BOUND_MBU = 0.3
"""A single request that reaches less of the bandwidth than this is held up by the host, not by memory."""
HIGHEST_MBU = 0.95
UNCERTAINTY = 0.1
"""A calibrated range is so much to both sides."""


@dataclass(frozen=True, slots=True)
class Decode:
    """`batch` requests at a time, `context` tokens each; `itl` seconds between tokens, mean."""

    batch: int
    context: float
    itl: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """Seconds to the first token of a prompt of so many tokens, alone."""

    tokens: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Samples:
    decode: tuple[Decode, ...]
    prefill: tuple[Prefill, ...]
    origin: str


Ask = Callable[[Sequence[int], int], float]
"""(token ids, tokens to answer) -> seconds."""


def run(url: str, *, vocab: int, model: str | None = None, api_key: str | None = None, seed: int = 1) -> Samples:
    """Measures a running vLLM within `SECONDS`. `api_key` defaults to VLLM_API_KEY.

    Raises ServerUnreachable, ServerError and EngineError.
    """
    deadline = time.monotonic() + SECONDS
    key = api_key or os.environ.get("VLLM_API_KEY") or None
    client = JsonClient(url, label="vLLM", timeout=SECONDS, api_key=key)
    try:
        name, context = _served(client, model)
        chance = random.Random(seed)

        def ask(prompt: Sequence[int], tokens: int) -> float:
            left = deadline - time.monotonic()
            if left <= 0:
                raise EngineError(f"calibration of {url} was not done within {SECONDS:g} s", hint="is it busy?")
            body = {
                "model": name,
                "prompt": list(prompt),
                "max_tokens": tokens,
                "min_tokens": tokens,
                "ignore_eos": True,
                "temperature": 0,
            }
            started = time.monotonic()
            answer = client.request("POST", "/v1/completions", body, timeout=left)
            seconds = time.monotonic() - started
            _check_length(answer, tokens, url)
            return seconds

        return measure(ask, vocab=vocab, context=context, chance=chance, origin=f"{name} at {client.address}")
    finally:
        client.close()


def measure(ask: Ask, *, vocab: int, context: int, chance: random.Random, origin: str) -> Samples:
    """The plan of the run: `ask` sends one request."""
    longest = context - ANSWER - 1
    if longest < 8:
        raise UsageError(f"the server's context of {context} tokens is too short to measure anything")
    answer = ANSWER

    def prompt(length: int) -> list[int]:
        return [chance.randrange(vocab) for _ in range(max(1, min(length, longest)))]

    ask(prompt(PROMPTS[0]), 2)  # warms up what is compiled or captured on first use
    prefill = []
    for length in sorted({min(length, longest) for length in PROMPTS}):
        seconds = statistics.median(ask(prompt(length), 1) for _ in range(REPEATS))
        prefill.append(Prefill(length, seconds))
    decode = []
    short = min(PROMPTS[0], longest)
    for batch in BATCHES:
        with ThreadPoolExecutor(batch) as pool:
            prompts = [prompt(short) for _ in range(batch)]
            first = max(pool.map(lambda ids: ask(ids, 1), prompts))
            prompts = [prompt(short) for _ in range(batch)]
            whole = max(pool.map(lambda ids: ask(ids, answer), prompts))
        decode.append(Decode(batch, short + answer / 2, max(whole - first, 1e-6) / (answer - 1)))
    return Samples(tuple(decode), tuple(prefill), origin)


def _served(client: JsonClient, model: str | None) -> tuple[str, int]:
    answer = client.get("/v1/models")
    with client.reading("/v1/models"):
        rows = [row for row in answer["data"] if model is None or row["id"] == model]
        if not rows:
            raise ServerError(f"{client.address} does not serve {model or 'any model'}", status=404)
        return str(rows[0]["id"]), int(rows[0].get("max_model_len") or 2048)


def _check_length(answer: Any, tokens: int, url: str) -> None:
    usage = answer.get("usage") if isinstance(answer, Mapping) else None
    given = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if given != tokens:
        raise ServerError(
            f"{url} answered with {given} tokens where {tokens} were asked for", status=200, hint="is this really vLLM?"
        )


def from_report(content: Mapping[str, Any], origin: str) -> Samples:
    """The target's closed-loop measurements in a parity report (`throughput.loads`). Raises BadInput."""
    report = content.get("throughput", content)
    loads = report.get("loads") if isinstance(report, Mapping) else None
    decode, prefill = [], []
    for load in loads if isinstance(loads, list) else []:
        if (
            not isinstance(load, Mapping)
            or load.get("side") != "target"
            or not isinstance(load.get("concurrency"), int)
        ):
            continue
        itl, ttft = _median(load.get("itl_ms")), _median(load.get("ttft_ms"))
        prompt, output = load.get("input_tokens"), load.get("output_tokens")
        if itl is None or not isinstance(prompt, int | float) or not isinstance(output, int | float):
            continue
        decode.append(Decode(load["concurrency"], prompt + output / 2, itl / 1000))
        if load["concurrency"] == 1 and ttft is not None:
            prefill.append(Prefill(prompt, ttft / 1000))
    if not decode:
        raise BadInput(
            f"{origin}: it has no measured throughput of a vLLM",
            hint="make one with `migrate parity throughput BUNDLE --source URL --target URL -o report.json`",
        )
    return Samples(tuple(sorted(decode, key=lambda sample: sample.batch)), tuple(prefill), origin)


def _median(percentiles: Any) -> float | None:
    value = percentiles.get("p50") if isinstance(percentiles, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def fit(instance: Instance, samples: Samples) -> Efficiency:
    """The efficiencies that explain the samples on the GPU of `instance`.

    Raises UsageError when they are faster than that GPU can be.
    """
    alone = min(samples.decode, key=lambda sample: sample.batch)
    likely = ASSUMED[1]
    moved = instance.weights.bytes_read(alone.batch) + alone.batch * instance.cache_read(alone.context)
    ideal = moved / instance.bandwidth
    if ideal > alone.itl * 1.5:
        raise UsageError(
            f"{samples.origin} needs {alone.itl * 1000:.2f} ms a token, where {instance.gpu.name} needs at least "
            f"{ideal * 1000:.2f} ms to read the weights",
            hint="name the GPU it really runs on with --gpu, and its --weights",
        )
    left = alone.itl - likely.host
    mbu = ideal / left if left > 0 else HIGHEST_MBU
    mbu = likely.mbu if mbu < HOST_BOUND_MBU else min(mbu, HIGHEST_MBU)
    host = max(0.0, alone.itl - ideal / mbu)
    crowd = max(samples.decode, key=lambda sample: sample.batch)
    per_request = likely.host_per_request
    if crowd.batch > alone.batch:
        slope = (crowd.itl - alone.itl) / (crowd.batch - alone.batch)
        per_request = max(0.0, slope - instance.cache_read(crowd.context) / (instance.bandwidth * mbu))
    mfu = _mfu(instance, samples.prefill, host)
    return Efficiency(mbu, mfu, host, min(per_request, 0.5), f"measured: {samples.origin}")


def _mfu(instance: Instance, prefill: Sequence[Prefill], host: float) -> float:
    """From the time that more prompt tokens took, or from a single prompt without the host's share."""
    ordered = sorted(prefill, key=lambda sample: sample.tokens)
    if not ordered:
        return ASSUMED[1].mfu
    ideal = Efficiency(1.0, 1.0, 0.0, 0.0)
    longest, shortest = ordered[-1], ordered[0]

    def least(tokens: float) -> float:
        return instance.prefill(Load(max(1, round(tokens))), ideal)

    work, seconds = least(longest.tokens), longest.seconds - host
    if longest.tokens > shortest.tokens:
        work, seconds = work - least(shortest.tokens), longest.seconds - shortest.seconds
    return min(max(work / seconds, 1e-5), 1.0) if seconds > 0 else ASSUMED[1].mfu


def spread(middle: Efficiency) -> tuple[Efficiency, Efficiency, Efficiency]:
    """Low, likely and high around a measured efficiency."""
    worse, better = 1 + UNCERTAINTY, 1 - UNCERTAINTY
    return (
        Efficiency(
            middle.mbu / worse, middle.mfu / worse, middle.host * worse, middle.host_per_request * worse, middle.origin
        ),
        middle,
        Efficiency(
            middle.mbu / better,
            middle.mfu / better,
            middle.host * better,
            middle.host_per_request * better,
            middle.origin,
        ),
    )
