"""Runs in the engines' Python: what transformers or vLLM compute with converted checkpoints.

Standard input: {"engine": "transformers" | "vllm", "models": [{"directory", "token_ids", "dtype", "encoder",
"arguments"}]}, `arguments` being more of vLLM's. Standard output: a list, for every model {"logprobs": {token: logprob}
per position} or {"hidden"} or {"error"}, and its "seconds".
"""

# mypy: ignore-errors

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any


def with_transformers(model: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    kind = AutoModel if model["encoder"] else AutoModelForCausalLM
    # PyTorch's own attention would leave out what caps the scores of a Gemma 2.
    loaded, report = kind.from_pretrained(
        model["directory"], dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing or report["unexpected_keys"] or report["mismatched_keys"]:
        return {"error": f"missing {missing}, unexpected {report['unexpected_keys']}, {report['mismatched_keys']}"}
    ids = torch.tensor([model["token_ids"]])
    with torch.inference_mode():
        if model["encoder"]:
            return {"hidden": loaded(ids).last_hidden_state[0, :, :5].tolist()}
        top = loaded(ids, use_cache=False).logits[0].log_softmax(-1).topk(20)
    rows = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return {"logprobs": [dict(zip(map(str, tokens), values, strict=True)) for tokens, values in rows]}


def with_vllm(model: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams
    from vllm.config import PoolerConfig

    # Only what scores pairs asks for a tokenizer, and every encoder is made ready to.
    pooling = {"runner": "pooling", "pooler_config": PoolerConfig(task="token_embed", use_activation=False)}
    arguments = {
        "dtype": model["dtype"],
        "enforce_eager": True,
        "max_model_len": 64,
        "disable_log_stats": True,
        "gpu_memory_utilization": 0.2,
        **(pooling if model["encoder"] else {"skip_tokenizer_init": True}),
    }
    engine = LLM(model["directory"], **(arguments | model["arguments"]))
    try:
        if model["encoder"]:
            (output,) = engine.encode([{"prompt_token_ids": model["token_ids"]}], pooling_task="token_embed")
            return {"hidden": [row[:5].tolist() for row in output.outputs.data.float()]}
        sampling = SamplingParams(max_tokens=1, prompt_logprobs=20, temperature=0, detokenize=False)
        (output,) = engine.generate([{"prompt_token_ids": model["token_ids"]}], sampling, use_tqdm=False)
        # The first entry stands for the first token, which nothing predicts.
        return {
            "logprobs": [{str(i): p.logprob for i, p in row.items()} for row in output.prompt_logprobs[1:]],
        }
    finally:
        del engine


def clean_up() -> None:
    """So that a model which failed half-way does not take the next one with it."""
    gc.collect()
    if parallel := sys.modules.get("vllm.distributed.parallel_state"):
        parallel.cleanup_dist_env_and_memory()


def main() -> None:
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = json.load(sys.stdin)
    compute = {"transformers": with_transformers, "vllm": with_vllm}[task["engine"]]
    found = []
    for model in task["models"]:
        start = time.monotonic()
        try:
            found.append(compute(model))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:2000]})
        clean_up()
        found[-1]["seconds"] = round(time.monotonic() - start, 1)
    json.dump(found, answer)
    answer.close()


if __name__ == "__main__":
    main()
