"""`migrate plan` beside real vLLM: the cache it lays out, what a forward pass takes, and a calibration."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from migrate.engines.provision import EnginesEnv
from migrate.engines.vllm import CPU_ENV, VllmEngine
from migrate.plan import advise, calibrate, gpus, memory, source
from migrate.plan import config as configs
from migrate.plan.cache import CachePlan, cpu_settings, plan_cache
from migrate.plan.config import Config
from migrate.plan.figures import GIB
from migrate.plan.layers import layer_caches
from migrate.plan.throughput import Instance, Load, ServiceLevel

pytestmark = pytest.mark.live

LOGGED = re.compile(r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x")
LAYOUTS = Path(__file__).parent.parent / "plan" / "data" / "cache_layouts.json"
CONTEXT = 256
MACHINE = """\
gpus:
  - {name: this machine, memory_gib: 4, bandwidth: 20, tflops: {float16: 0.5, float32: 0.5}, capability: cpu}
"""
UNFUSED = ("tinychat", "qwen2", "gemma2", "mistral")
"""Families without norms inside their attention: the formula knows everything they hold."""


def cache_of(config: Config, *, context: int, dtype: str, batched: int, amx: bool = False) -> CachePlan:
    layers = layer_caches(config)
    return plan_cache(layers, cpu_settings(layers, context, dtype, max_num_batched_tokens=batched, amx=amx))


def test_tokens_of_the_cache_are_the_start_up_logs(
    vllm_tinychat: VllmEngine, tinychat_bundle: Path, logs: Path
) -> None:
    """The server of the other tests (float32, VLLM_CPU_KVCACHE_SPACE=1): no start of its own."""
    context = vllm_tinychat.context_length()
    assert context is not None
    found = LOGGED.search((logs / "vllm-tinychat.log").read_text(encoding="utf-8", errors="replace"))
    assert found is not None
    tokens, length, concurrency = (part.replace(",", "") for part in found.groups())
    plan = cache_of(configs.read(tinychat_bundle / "model"), context=context, dtype="float32", batched=2048)
    available = int(CPU_ENV["VLLM_CPU_KVCACHE_SPACE"]) * GIB
    assert int(length) == context
    assert plan.tokens(available) == int(tokens)
    assert f"{plan.concurrency(available):.2f}" == concurrency


def test_calibration_against_a_running_server(
    vllm_tinychat: VllmEngine, tinychat_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short run; what the plan then says of one request alone is near what that server does."""
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    (machine,) = gpus.read(path)
    model = source.from_directory(tinychat_bundle / "model", dtype="float32").model
    samples = calibrate.run(vllm_tinychat.url, vocab=model.config.integer("vocab_size"))
    instance = Instance(model.config, model.layers, model.weights, machine, 1, 4)
    efficiency = calibrate.fit(instance, samples)
    alone = next(sample for sample in samples.decode if sample.batch == 1)
    predicted = instance.step(1, Load(round(alone.context), 1), efficiency)
    with capsys.disabled():
        print(
            f"\ncalibrated: {efficiency}",
            f"one request: {alone.itl * 1000:.2f} ms a token measured, {predicted * 1000:.2f} planned",
            sep="\n",
        )
    assert predicted == pytest.approx(alone.itl, rel=0.2)
    wanted = advise.Wanted(
        Load(64, 32),
        memory.ServerSettings(2048),
        ServiceLevel(),
        measured={machine.name: calibrate.spread(efficiency)},
    )
    (row,) = advise.advise(model, wanted, [machine])
    assert row.wins, row.reason
    assert row.operating is not None
    assert row.operating.per_minute > 0


def probe(engines: EnginesEnv, tasks: list[dict[str, Any]], timeout: float) -> list[dict[str, Any]]:
    environment = dict(os.environ, HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0")
    result = subprocess.run(
        [str(engines.python), str(Path(__file__).with_name("plan_probe.py"))],
        input=json.dumps(tasks),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


@pytest.mark.full
def test_layouts_of_many_families_and_their_forward_pass(
    shared: Path, engines: EnginesEnv, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One process of vLLM's, a dozen models: the tokens of the cache exactly, and the peak of a forward pass."""
    directories = {
        name: shared / "models" / name / "hf" for name in ("tinychat", "qwen2", "gemma2", "gemma4", "mistral")
    }
    for entry in json.loads(LAYOUTS.read_text())["models"]:
        directory = tmp_path / entry["name"]
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(entry["config"]))
        directories[entry["name"]] = directory
    tasks = [
        {
            "directory": str(directory),
            "dtype": "bfloat16",
            "max_model_len": CONTEXT,
            "tokens": 0 if name == "deepseek_v2" else CONTEXT,
        }
        for name, directory in directories.items()
    ]
    told: list[str] = []
    for (name, directory), found in zip(directories.items(), probe(engines, tasks, 900), strict=True):
        assert "error" not in found, f"{name}: {found['error']}"
        config = configs.read(directory)
        amx = found["block_size"] == 128
        plan = cache_of(config, context=CONTEXT, dtype="bfloat16", batched=found["batched"], amx=amx)
        assert plan.settings.block_size == found["block_size"], name
        assert plan.blocks(GIB) == found["blocks"], name
        assert plan.tokens(GIB) == found["tokens"], name
        assert plan.concurrency(GIB) == pytest.approx(found["concurrency"]), name
        for line in found["log"]:
            assert f"{plan.tokens(GIB):,} tokens" in line, name
        if "forward" in found:
            predicted = memory.forward_bytes(config, layer_caches(config), CONTEXT, fused=False)
            error = predicted / found["forward"] - 1
            told.append(f"{name:12} {found['forward']:>9,} bytes measured, {predicted:>9,} predicted, {error:+.1%}")
            assert -0.6 < error < 0.05, told[-1]
            assert name not in UNFUSED or abs(error) < 0.01, told[-1]
    with capsys.disabled():
        print("\nforward pass of 256 tokens:", *told, sep="\n  ")
