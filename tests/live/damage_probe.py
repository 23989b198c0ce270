"""Runs in the engines' Python: what real vLLM expects at every position, for many checkpoints in one process.

Standard input: {"directories": [...], "texts": [[prompt ids, continuation ids], ...], "top": 20}.
Standard output: per directory a list per text of [{id: logprob} per position of the continuation], or {"error"}.
"""

# mypy: ignore-errors

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any


def score(directory: str, texts: list[list[list[int]]], top: int) -> list[Any]:
    from vllm import LLM, SamplingParams

    engine = LLM(
        directory,
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        disable_log_stats=True,
        gpu_memory_utilization=0.2,
        skip_tokenizer_init=True,
    )
    try:
        sampling = SamplingParams(max_tokens=1, prompt_logprobs=top, temperature=0, detokenize=False)
        prompts = [{"prompt_token_ids": prompt + continuation} for prompt, continuation in texts]
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        return [
            [{str(i): p.logprob for i, p in row.items()} for row in output.prompt_logprobs[len(prompt) :]]
            for output, (prompt, _) in zip(outputs, texts, strict=True)
        ]
    finally:
        del engine
        gc.collect()


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    found = []
    for directory in task["directories"]:
        try:
            found.append(score(directory, task["texts"], task["top"]))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:2000]})
    json.dump(found, answer)
    answer.close()


if __name__ == "__main__":
    main()
