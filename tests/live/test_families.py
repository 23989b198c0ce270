"""Every family's converted checkpoint in transformers and in real vLLM: they compute what the original computes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from migrate import architectures
from migrate.checkpoint.convert import convert_weights
from migrate.engines.provision import EnginesEnv
from migrate.gguf.header import read_header
from tests.architectures import families

pytestmark = pytest.mark.live

ENCODERS = ("bert", "nomic_bert")
NOT_IN_TRANSFORMERS = ("internlm2",)
"""Its reference is that of a llama with the same weights."""
IN_EVERY_RUN = ["internlm2", "lfm2", "ministral3", "falcon-40b", "cohere2", "gemma2", "deepseek_v2-512", "nomic_bert"]
"""Those whose classes in vLLM are least like a llama's; all others in `make test-full`."""
NOT_ON_A_CPU = {
    "deepseek_v2": ("latent attention of this size; deepseek_v2-512 runs", "is not supported by MLA"),
    "deepseek_v2-lite": ("latent attention of this size", "is not supported by MLA"),
    "deepseek_v3": ("latent attention of this size; deepseek_v3-512 runs", "is not supported by MLA"),
    "falcon": ("heads of 16; falcon-40b runs", "head_dim=16"),
    "qwen3_5": ("torchvision, which has no build for the CPU vLLM here", "failed to be inspected"),
    "qwen3_5_moe": ("torchvision, which has no build for the CPU vLLM here", "failed to be inspected"),
}
"""Fixtures that vLLM's CPU build does not run: what it lacks, and a part of what it says then."""
LATENT = ["deepseek_v2", "deepseek_v2-lite", "deepseek_v2-512", "deepseek_v3", "deepseek_v3-512"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "bert": {"max_model_len": 48},
    # The kernel that every CPU has; the one for AMX, taken where there is AMX, knows no float32.
    **{key: {"attention_backend": "CPU_MLA"} for key in LATENT},
    "internlm2": {"trust_remote_code": True},
    # vLLM's rotation for CPUs takes heads for tokens where queries come as [tokens, heads, values], as only LFM2's do.
    "lfm2": {"compilation_config": {"custom_ops": ["none"]}},
    "ministral3": {"max_model_len": 128},
}
"""What vLLM is started with besides."""
BFLOAT16 = ("qwen3_next",)
"""vLLM's linear attention on a CPU computes in nothing else."""
SHARED_IN_VLLM = ["mixtral", "qwen2", "qwen3", "gemma2", "gemma4", "granite", "phi3", "llama3rope", "mistral"]
SHARED_IN_VLLM += ["gpt_oss"]
SHARED_BFLOAT16 = ("gpt_oss",)
"""Its experts are MXFP4, unlike the fixture's, and vLLM multiplies those with bfloat16 only."""
SHARED_NOT_ON_A_CPU = {
    "qwen3_5": ("torchvision, which has no build for the CPU vLLM here", "failed to be inspected"),
    "deepseek_v2": ("latent attention of this size", "is not supported by MLA"),
}
TOLERANCE = 2e-4
"""Of log-probabilities, both in float32. Kernels add up in another order."""
TOLERANCE_BFLOAT16 = 0.5
"""Where vLLM rounds to eight bits and the reference does not: transformers, rounding too, is 0.13 from qwen3_next's."""


def probe(engines: EnginesEnv, engine: str, models: Sequence[Mapping[str, Any]], timeout: float) -> list[Any]:
    environment = dict(
        os.environ,
        HF_HUB_OFFLINE="1",
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_LOGGING_LEVEL="ERROR",
    )
    result = subprocess.run(
        [str(engines.python), str(Path(__file__).with_name("family_probe.py"))],
        input=json.dumps({"engine": engine, "models": models}),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found: list[Any] = json.loads(result.stdout)
    return found


def worst(reference: Sequence[Sequence[Sequence[float]]], found: Sequence[Mapping[str, float]]) -> float:
    """The largest difference among the three likeliest tokens of every position."""
    differences = []
    for top, row in zip(reference, found, strict=False):
        for token, logprob in top[:3]:
            differences.append(abs(row[str(int(token))] - logprob) if str(int(token)) in row else float("inf"))
    return max(differences)


def task(directory: Path, token_ids: Sequence[int], name: str, rounding: Sequence[str] = BFLOAT16) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "token_ids": token_ids,
        "dtype": "bfloat16" if name in rounding else "float32",
        "encoder": name in ENCODERS,
        "arguments": ARGUMENTS.get(name, {}),
    }


def converted(name: str, root: Path) -> tuple[Path, dict[str, Any]]:
    directory = root / name
    directory.mkdir()
    families.convert(families.load(name), directory)
    if name in ENCODERS:
        write_tokenizer(directory)
    return directory, json.loads((families.ROOT / name / "reference.json").read_text())


def write_tokenizer(directory: Path) -> None:
    """Any: vLLM opens one for an encoder, and nothing is asked of it."""
    vocabulary = {str(number): number for number in range(families.VOCAB)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "0"}')


def vllm_sees_one_less(directory: Path) -> None:
    """Cohere 2's class in vLLM sees `sliding_window` + 1 tokens, transformers and llama.cpp `sliding_window`."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"sliding_window": config["sliding_window"] - 1}))


def check(name: str, reference: Mapping[str, Any], found: Mapping[str, Any], tolerance: float = TOLERANCE) -> str:
    """What is wrong, in words; "" when nothing is."""
    if "error" in found:
        return f"{name}: {found['error']}"
    if name in ENCODERS:
        pairs = zip(reference["hidden"], found["hidden"], strict=True)
        far = max(abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True))
    else:
        far = worst(reference["top5"], found["logprobs"])
    return "" if far < tolerance else f"{name}: {far:.5f} from the original"


def wrong_in_vllm(names: Sequence[str], engines: EnginesEnv, root: Path) -> list[str]:
    """All in one process. What differs from the references, or fails, in words."""
    models = {name: converted(name, root) for name in names}
    if "cohere2" in models:
        vllm_sees_one_less(models["cohere2"][0])
    tasks = [task(path, reference["token_ids"], name) for name, (path, reference) in models.items()]
    wrong = []
    for name, found in zip(models, probe(engines, "vllm", tasks, 850), strict=True):
        tolerance = TOLERANCE_BFLOAT16 if name in BFLOAT16 else TOLERANCE
        wrong.append(check(name, models[name][1], found, tolerance))
    return [line for line in wrong if line]


def not_failing_as_said(
    table: Mapping[str, tuple[str, str]], tasks: Sequence[Mapping[str, Any]], engines: EnginesEnv
) -> list[str]:
    """Those of a table of what vLLM lacks that run, or that fail in another way."""
    told = []
    for (name, (lacks, says)), found in zip(table.items(), probe(engines, "vllm", tasks, 850), strict=True):
        if "error" not in found:
            told.append(f"{name} runs, although vLLM was said to lack {lacks}: take it out of the table")
        elif says not in found["error"]:
            told.append(f"{name} fails, but not for want of {lacks}: {found['error']}")
    return told


def test_every_model_type_runs_in_vllm_or_says_why_not() -> None:
    """Nobody adds a family whose fixture vLLM's CPU build cannot run without saying so."""
    assert NOT_ON_A_CPU.keys() <= set(families.names())
    running = {name.partition("-")[0] for name in families.names() if name not in NOT_ON_A_CPU}
    runs_elsewhere = {"mistral", "granitemoeshared", "olmo"}  # as in test_every_module_has_a_fixture
    missing = set(architectures.model_types()) - running - runs_elsewhere
    assert missing == {"qwen3_5", "qwen3_5_moe"}


def test_transformers_computes_the_same(engines: EnginesEnv, tmp_path: Path) -> None:
    models = {name: converted(name, tmp_path) for name in families.names() if name not in NOT_IN_TRANSFORMERS}
    tasks = [task(path, reference["token_ids"], name) for name, (path, reference) in models.items()]
    found = probe(engines, "transformers", tasks, 600)
    wrong = [check(n, reference, f) for (n, (_, reference)), f in zip(models.items(), found, strict=True)]
    assert [line for line in wrong if line] == []


def test_vllm_computes_the_same(engines: EnginesEnv, tmp_path: Path) -> None:
    """A sample; `test_vllm_computes_the_same_for_the_others` has the rest."""
    assert wrong_in_vllm(IN_EVERY_RUN, engines, tmp_path) == []


@pytest.mark.full
def test_vllm_computes_the_same_for_the_others(engines: EnginesEnv, tmp_path: Path) -> None:
    others = [name for name in families.names() if name not in NOT_ON_A_CPU and name not in IN_EVERY_RUN]
    assert wrong_in_vllm(others, engines, tmp_path) == []


@pytest.mark.full
def test_vllm_still_lacks_what_it_was_said_to(engines: EnginesEnv, tmp_path: Path) -> None:
    tasks = []
    for name in NOT_ON_A_CPU:
        path, reference = converted(name, tmp_path)
        tasks.append(task(path, reference["token_ids"], name))
    assert not_failing_as_said(NOT_ON_A_CPU, tasks, engines) == []


@pytest.mark.full
def test_vllm_serves_the_shared_models(shared: Path, engines: EnginesEnv, tmp_path: Path) -> None:
    """Against the recordings of transformers, and of llama.cpp on the same GGUF, whose bfloat16 rounds differently."""
    names = [*SHARED_IN_VLLM, *SHARED_NOT_ON_A_CPU]
    tasks, references = [], []
    for name in names:
        (tmp_path / name).mkdir()
        convert_weights(read_header(shared / "models" / name / "gguf" / "model-bf16.gguf"), tmp_path / name)
        references.append(json.loads((shared / "models" / name / "reference.json").read_text()))
        tasks.append(task(tmp_path / name, references[-1]["token_ids"], name, SHARED_BFLOAT16))
    wrong = []
    run = len(SHARED_IN_VLLM)
    found = probe(engines, "vllm", tasks[:run], 850)
    for name, reference, answer in zip(SHARED_IN_VLLM, references, found, strict=False):
        rounds = name in SHARED_BFLOAT16
        wrong.append(check(name, reference["hf"], answer, TOLERANCE_BFLOAT16 if rounds else TOLERANCE))
        far = worst(reference["llama_cpp"]["top5"], answer["logprobs"]) if "logprobs" in answer else 0.0
        allowed = TOLERANCE_BFLOAT16 if rounds else reference["max_abs_diff"] + 1e-3
        wrong += [] if far < allowed else [f"{name}: {far:.4f} from llama.cpp"]
    wrong += not_failing_as_said(SHARED_NOT_ON_A_CPU, tasks[run:], engines)
    assert [line for line in wrong if line] == []
