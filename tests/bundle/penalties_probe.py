"""Runs in vLLM's Python: the penalties plugin in its batch. JSON tasks on stdin, logits before and after on stdout.

python penalties_probe.py DIRECTORY_OF_THE_PLUGIN
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import random
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import LogitsProcessors, validate_logits_processors_parameters
from vllm.v1.worker.gpu.sample.logits_processor import (
    LogitsContext,
    LogitsProcRequestState,
    build_custom_logits_processors_params_validator,
)
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

sys.path.insert(0, sys.argv[1])
from ollama_penalties import OllamaPenalties

PLUGIN = "ollama_penalties:OllamaPenalties"
VOCABULARY = 40
LENGTH = 256
IMAGE = VOCABULARY + 5
"""A token outside the logits, as some models have for the places of an image."""


def drawn(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def logits_of(rng: random.Random, rows: int) -> torch.Tensor:
    values = torch.tensor([rng.gauss(0, 3) for _ in range(rows * VOCABULARY)]).reshape(rows, VOCABULARY)
    values[:, drawn(rng, 3)] = -torch.inf  # a grammar's mask
    return values


class Truth:
    """A request as it is, apart from what vLLM knows of it yet."""

    def __init__(self, rng: random.Random, name: str, choices: list[Any]) -> None:
        self.name, self.arguments = name, rng.choice(choices)
        self.prompt = drawn(rng, rng.randrange(1, 60))
        if rng.random() < 0.2:
            self.prompt[rng.randrange(len(self.prompt))] = IMAGE
        self.output: list[int] = []

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(temperature=0, max_tokens=64, extra_args=self.arguments)

    def seen(self) -> dict[str, Any]:
        return {"arguments": self.arguments, "tokens": self.prompt + self.output}


def older(task: dict[str, Any]) -> list[Any]:
    """Requests come, go, are preempted and swap places in vLLM's InputBatch; `later`: tokens are known a step later."""
    rng, later = random.Random(task["seed"]), task["async"]
    plugin = OllamaPenalties(None, torch.device("cpu"), False)
    batch = InputBatch(
        max_num_reqs=8, max_model_len=LENGTH, max_num_batched_tokens=LENGTH, device=torch.device("cpu"),
        vocab_size=VOCABULARY, block_sizes=[16], max_num_blocks_per_req=[LENGTH // 16],
        logitsprocs=LogitsProcessors([plugin]), logitsprocs_need_output_token_ids=True,
    )  # fmt: skip
    truths: dict[str, Truth] = {}
    states: dict[str, CachedRequestState] = {}
    waiting: list[str] = []
    steps = []
    for step in range(task["steps"]):
        for name in [n for n in batch.req_id_to_index if rng.random() < 0.1]:
            batch.remove_request(name)
            if rng.random() < 0.5:
                waiting.append(name)  # preempted
                if later and (known := truths[name].output):
                    states[name].output_token_ids = list(known)
            else:
                del truths[name], states[name]
        if waiting and len(batch.req_id_to_index) < 7 and rng.random() < 0.5:
            batch.add_request(states[waiting.pop()])
        if len(batch.req_id_to_index) < 7 and rng.random() < 0.5:
            new = Truth(rng, f"r{step}", task["arguments"])
            truths[new.name] = new
            states[new.name] = CachedRequestState(
                req_id=new.name, prompt_token_ids=list(new.prompt), mm_features=[], sampling_params=new.params,
                generator=None, block_ids=([],), num_computed_tokens=0, output_token_ids=[],
            )  # fmt: skip
            batch.add_request(states[new.name])
        if rng.random() < 0.1:
            for name in batch.req_id_to_index:
                if len(truths[name].output) > 3 and rng.random() < 0.5:  # the cache could not be fetched
                    del truths[name].output[-3:]
                    del states[name].output_token_ids[-3:]
        batch.condense()
        if batch.num_reqs > 1 and rng.random() < 0.4:
            batch.swap_states(*rng.sample(range(batch.num_reqs), 2))
        batch.refresh_metadata()
        rows = list(batch.req_ids)
        before = logits_of(rng, len(rows))
        if later:
            batch.update_async_output_token_ids()
        after = plugin.apply(before.clone()) if rows else before
        sampled = []
        for row, name in enumerate(rows):
            token = rng.randrange(VOCABULARY)
            steps.append([truths[name].seen(), before[row].tolist(), after[row].tolist()])
            truths[name].output.append(token)
            states[name].output_token_ids.append(-1 if later else token)
            sampled.append([token])
        if later:
            ready = SimpleNamespace(synchronize=lambda: None)
            batch.set_async_sampled_token_ids(torch.tensor(sampled), ready)
            batch.prev_req_id_to_index = dict(batch.req_id_to_index)
    return steps


def newer(task: dict[str, Any]) -> list[Any]:
    """Requests keep a slot of vLLM's table of tokens; rows change every step, `drafts` are in the input alone."""
    rng = random.Random(task["seed"])
    table = torch.randint(0, VOCABULARY, (8, LENGTH), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    states = LogitsProcRequestState(
        device=torch.device("cpu"), max_num_reqs=8, vocab_size=VOCABULARY, all_token_ids=SimpleNamespace(gpu=table),
        prompt_len=None, prefill_len=None, total_len=None,
    )  # fmt: skip
    plugin = OllamaPenalties(None, states)
    slots: dict[int, Truth] = {}
    steps = []
    for step in range(task["steps"]):
        for slot in [s for s in slots if rng.random() < 0.1]:
            del slots[slot]
        free = [slot for slot in range(8) if slot not in slots]
        if free and rng.random() < 0.6:
            slot = rng.choice(free)
            slots[slot] = new = Truth(rng, f"r{step}", task["arguments"])
            table[slot, : len(new.prompt)] = torch.tensor(new.prompt)
            assert plugin.add_request(slot, new.params) == task["used"][task["arguments"].index(new.arguments)]
        plugin.apply_staged_writes()
        order = rng.sample(sorted(slots), len(slots))
        rows = [(slot, drawn(rng, rng.randrange(4) if task["drafts"] else 0)) for slot in order]
        lines, seen = [], []
        for slot, drafts in rows:
            tokens = slots[slot].prompt + slots[slot].output
            for local in range(len(drafts) + 1):
                lines.append((slot, local, (tokens + drafts)[len(tokens) - 1 + local], len(tokens) - 1 + local))
                seen.append({"arguments": slots[slot].arguments, "tokens": tokens + drafts[:local]})
        columns = [torch.tensor(column) for column in zip(*lines, strict=True)] or [torch.tensor([])] * 4
        before = logits_of(rng, len(lines))
        ctx = LogitsContext(
            expanded_idx_mapping=columns[0], expanded_local_pos=columns[1], input_ids=columns[2], pos=columns[3],
            idx_mapping=torch.tensor(order), idx_mapping_np=np.array(order, dtype=np.int32),
            seq_lens_upper_bound_np=np.array(
                [len(slots[slot].prompt + slots[slot].output) + len(drafts) for slot, drafts in rows], dtype=np.int32
            ),
        )  # fmt: skip
        after = plugin.apply(before.clone(), ctx) if lines else before
        steps += [[s, b, a] for s, b, a in zip(seen, before.tolist(), after.tolist(), strict=True)]
        for slot in order:
            token = rng.randrange(VOCABULARY)
            table[slot, len(slots[slot].prompt + slots[slot].output)] = token
            slots[slot].output.append(token)
    return steps


def refusals(task: dict[str, Any]) -> list[Any]:
    """What both of vLLM's validators say of each arguments; None: nothing."""
    newer_validator = build_custom_logits_processors_params_validator([PLUGIN])
    found = []
    for arguments in task["arguments"]:
        said = []
        for validate in (lambda p: validate_logits_processors_parameters([PLUGIN], p), newer_validator):
            try:
                said.append(validate(SamplingParams(extra_args=arguments)))
            except (ValueError, VLLMValidationError) as error:
                said.append(f"{type(error).__name__}: {error}")
        found.append(said)
    return found


def main() -> None:
    kinds = {"older": older, "newer": newer, "refusals": refusals}
    print("ANSWERS " + json.dumps([kinds[task["kind"]](task) for task in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
