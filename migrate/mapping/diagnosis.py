"""Why the GPU behind a running Ollama idles (`ollama.diagnosis`), and what vLLM does there instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from migrate.ollama.diagnosis import Facts, Topic, diagnose

INSTEAD: Mapping[Topic, str] = {
    "parallel": "takes requests into the running batch as they come: up to max-num-seqs of them (256 on most GPUs) "
    "share each pass over the weights",
    "context": "hands out its cache in blocks as requests grow: max-model-len is a limit, not a reservation, and the "
    "log says at start how many requests of full length fit",
    "cpu": "keeps all of the model on the GPU, or does not start and says what is missing: then shorter max-model-len, "
    "fewer bits (convert --weights) or another GPU",
    "swapping": "serves one model per process, in memory from start to stop; several models are several processes, "
    "each with its share of the memory",
    "queue": "says how many wait (vllm:num_requests_waiting in /metrics); with --max-num-queued-reqs N it answers "
    "503 when N are in flight, waiting or running; without it all wait",
    "cache": "keeps keys and values in the dtype of the model; --kv-cache-dtype fp8 halves them, with other rounding "
    "than q8_0",
    "gpu": "takes its share of the memory at start (gpu-memory-utilization 0.92) and uses what the weights leave for "
    "requests; of several GPUs each gets an instance, or --tensor-parallel-size spreads one model",
    "environment": "reads none of these",
}


def diagnosis(facts: Facts, kv_bytes_per_token: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The facts and the judgements as one JSON-able value; docs/inspect.md has the schema."""
    symptoms = diagnose(facts, kv_bytes_per_token)
    return facts.to_dict() | {"symptoms": [asdict(s) | {"vllm": INSTEAD[s.topic]} for s in symptoms]}
