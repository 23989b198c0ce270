"""Runs in the engines' Python: how vLLM lays out the cache of models, and what a forward pass takes.

Standard input: a list of {"directory", "dtype", "max_model_len", "kv_gib", "tokens"}; weights are made up, so a
config.json is enough. Standard output: for each {"log": what vLLM logged, "blocks", "block_size", "tokens",
"concurrency", "batched", "forward": peak bytes of a forward pass with so many tokens} or {"error"}.
"""

# mypy: ignore-errors

from __future__ import annotations

import gc
import io
import json
import logging
import os
import sys
from typing import Any


def peak_bytes(runner: Any, tokens: int) -> int:
    """The most memory that tensors of a forward pass hold at a time, counted from every allocation and release."""
    import torch

    runner._dummy_run(tokens)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        runner._dummy_run(tokens)
    current = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def probe(task: dict[str, Any]) -> dict[str, Any]:
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(task.get("kv_gib", 1))
    from vllm import LLM

    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("vllm")
    logger.addHandler(handler)
    engine = None
    try:
        engine = LLM(
            task["directory"],
            dtype=task["dtype"],
            load_format="dummy",
            enforce_eager=True,
            max_model_len=task["max_model_len"],
            disable_log_stats=True,
            skip_tokenizer_init=True,
        )
        config = engine.llm_engine.vllm_config
        cache = config.cache_config
        found = {
            "log": [line for line in log.getvalue().splitlines() if "KV cache size" in line],
            "blocks": cache.num_gpu_blocks,
            "block_size": cache.block_size,
            "tokens": cache.kv_cache_size_tokens,
            "concurrency": cache.kv_cache_max_concurrency,
            "batched": config.scheduler_config.max_num_batched_tokens,
        }
        if task.get("tokens"):
            executor = engine.llm_engine.engine_core.engine_core.model_executor
            worker = executor.driver_worker
            found["forward"] = peak_bytes(getattr(worker, "worker", worker).model_runner, task["tokens"])
        return found
    finally:
        logger.removeHandler(handler)
        del engine
        gc.collect()


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    found = []
    for task in json.load(sys.stdin):
        try:
            found.append(probe(task))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:2000]})
    json.dump(found, answer)
    answer.close()


if __name__ == "__main__":
    main()
