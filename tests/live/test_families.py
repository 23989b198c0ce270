"""Every family's converted checkpoint in transformers and in real vLLM: they compute what the original computes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from migrate.checkpoint.convert import convert_weights
from migrate.engines.provision import EnginesEnv
from migrate.gguf.header import read_header
from tests.architectures import families

pytestmark = pytest.mark.live

NAMES = [name for name in families.names() if (families.ROOT / name / "reference.json").is_file()]
ENCODERS = ("bert", "nomic_bert")
FIXTURES_IN_VLLM = ["llama", "qwen3", "qwen3_moe", "gemma3", "glm4", "seed_oss"]
"""Those with heads that vLLM's kernels for the CPU know (32 values and more)."""
SHARED_IN_VLLM = ["mixtral", "qwen2", "qwen3", "gemma2", "gemma4", "granite", "phi3", "llama3rope", "mistral"]
NOT_ON_A_CPU = {
    "qwen3_5": "torchvision, which has no build for the CPU vLLM here; and bfloat16 only",
    "gpt_oss": "no MXFP4 experts and no attention sinks",
    "deepseek_v2": "no latent attention with heads of this size",
}
"""Families of the shared models that vLLM's CPU build does not run, and what it lacks."""
TOLERANCE = 2e-4
"""Of log-probabilities, both in float32. Kernels add up in another order."""


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


def task(directory: Path, token_ids: Sequence[int], name: str, dtype: str = "float32") -> dict[str, Any]:
    return {"directory": str(directory), "token_ids": token_ids, "dtype": dtype, "encoder": name in ENCODERS}


def converted(name: str, root: Path) -> tuple[Path, dict[str, Any]]:
    directory = root / name
    directory.mkdir()
    families.convert(families.load(name), directory)
    return directory, json.loads((families.ROOT / name / "reference.json").read_text())


def check(name: str, reference: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What is wrong, in words; "" when nothing is."""
    if "error" in found:
        return f"{name}: {found['error']}"
    if name in ENCODERS:
        pairs = zip(reference["hidden"], found["hidden"], strict=True)
        far = max(abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True))
    else:
        far = worst(reference["top5"], found["logprobs"])
    return "" if far < TOLERANCE else f"{name}: {far:.5f} from the original"


def test_transformers_computes_the_same(engines: EnginesEnv, tmp_path: Path) -> None:
    models = [converted(name, tmp_path) for name in NAMES]
    tasks = [task(path, reference["token_ids"], name) for name, (path, reference) in zip(NAMES, models, strict=True)]
    found = probe(engines, "transformers", tasks, 600)
    wrong = [check(n, reference, f) for n, (_, reference), f in zip(NAMES, models, found, strict=True)]
    assert [line for line in wrong if line] == []


def test_vllm_computes_the_same(engines: EnginesEnv, tmp_path: Path) -> None:
    """A sample; `test_vllm_serves_the_shared_models` has more."""
    models = [converted(name, tmp_path) for name in FIXTURES_IN_VLLM]
    tasks = [
        task(path, reference["token_ids"], name)
        for name, (path, reference) in zip(FIXTURES_IN_VLLM, models, strict=True)
    ]
    found = probe(engines, "vllm", tasks, 600)
    wrong = [check(n, reference, f) for n, (_, reference), f in zip(FIXTURES_IN_VLLM, models, found, strict=True)]
    assert [line for line in wrong if line] == []


@pytest.mark.full
def test_vllm_serves_the_shared_models(shared: Path, engines: EnginesEnv, tmp_path: Path) -> None:
    """Against the recordings of transformers, and of llama.cpp on the same GGUF, whose bfloat16 rounds differently."""
    names = [*SHARED_IN_VLLM, *NOT_ON_A_CPU]
    tasks, references = [], []
    for name in names:
        (tmp_path / name).mkdir()
        convert_weights(read_header(shared / "models" / name / "gguf" / "model-bf16.gguf"), tmp_path / name)
        references.append(json.loads((shared / "models" / name / "reference.json").read_text()))
        tasks.append(task(tmp_path / name, references[-1]["token_ids"], name))
    wrong = []
    for name, reference, found in zip(names, references, probe(engines, "vllm", tasks, 850), strict=True):
        if name in NOT_ON_A_CPU:
            wrong += [] if "error" in found else [f"{name} runs, although it was said to lack {NOT_ON_A_CPU[name]}"]
        else:
            wrong.append(check(name, reference["hf"], found))
            far = worst(reference["llama_cpp"]["top5"], found["logprobs"]) if "logprobs" in found else 0.0
            wrong += [] if far < reference["max_abs_diff"] + 1e-3 else [f"{name}: {far:.4f} from llama.cpp"]
    assert [line for line in wrong if line] == []
