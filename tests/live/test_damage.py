"""Damage of every kind, and servers that are unwell: found at the layer that can see it, or said to be undecided."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from migrate.engines import llamacpp, vllm
from migrate.engines.base import Candidate, Capabilities, Engine, TokenLogprob
from migrate.engines.provision import EnginesEnv
from migrate.parity.battery import PLAIN
from migrate.parity.case import Settings
from migrate.parity.report import LayerName, ParityReport, Verdict
from migrate.parity.run import run
from tests.live import faulty
from tests.live.conftest import CHAT_TEMPLATE, GO_TEMPLATE, read_tensors, write_bundle

pytestmark = pytest.mark.live

PROMPT, TOKENS, LOGPROBS, TEXT = LayerName.PROMPT, LayerName.TOKENS, LayerName.LOGPROBS, LayerName.TEXT
Tensors = dict[str, Any]


# ---- weights and configuration: many checkpoints in one vLLM process ------------------------------------------------


def _right(tensors: Tensors, config: dict[str, Any]) -> None:
    pass


def _permuted_k(tensors: Tensors, config: dict[str, Any]) -> None:
    """One layer's k rows in llama.cpp's order."""
    weight = tensors["model.layers.0.self_attn.k_proj.weight"]
    heads = config["num_key_value_heads"]
    rows = weight.shape[0] // heads // 2
    permuted = weight.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(weight.shape)
    tensors["model.layers.0.self_attn.k_proj.weight"] = np.ascontiguousarray(permuted)


def _norm_off_by_one(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors["model.layers.1.input_layernorm.weight"] += 1.0


def _one_layers_scale(tensors: Tensors, config: dict[str, Any]) -> None:
    tensors["model.layers.0.mlp.down_proj.weight"] *= 2.0


def _rope_base(tensors: Tensors, config: dict[str, Any]) -> None:
    if "rope_parameters" in config:
        config["rope_parameters"]["rope_theta"] *= 2
    else:
        config["rope_theta"] *= 2


def _lost_vocabulary_row(tensors: Tensors, config: dict[str, Any]) -> None:
    """The last row with text on it, as when a vocabulary was cut and padded with zeros."""
    tensors["model.embed_tokens.weight"][733] = 0.0


def _scales_of_another_dtype(tensors: Tensors, config: dict[str, Any]) -> None:
    """The float16 scales of groups of 32, read as if they were bfloat16."""
    weight = tensors["model.layers.1.mlp.up_proj.weight"]
    groups = weight.reshape(-1, 32)
    scale = (np.abs(groups).max(axis=1, keepdims=True) / 127).astype(np.float16)
    misread = (scale.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    codes = np.round(groups / np.maximum(scale.astype(np.float32), 1e-12))
    tensors["model.layers.1.mlp.up_proj.weight"] = (codes * misread).reshape(weight.shape).astype(np.float32)


def _gate_and_up_swapped(tensors: Tensors, config: dict[str, Any]) -> None:
    gate, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    tensors[gate], tensors[up] = tensors[up], tensors[gate]


WEIGHT_DAMAGE: dict[str, Callable[[Tensors, dict[str, Any]], None]] = {
    "right": _right,
    "permuted k": _permuted_k,
    "norm off by one": _norm_off_by_one,
    "one layer's scale": _one_layers_scale,
    "rope base": _rope_base,
    "lost vocabulary row": _lost_vocabulary_row,
    "scales of another dtype": _scales_of_another_dtype,
    "gate and up swapped": _gate_and_up_swapped,
}

Scores = dict[str, dict[tuple[int, ...], list[dict[str, float]]]]


class Scored(vllm.RenderEngine):
    """Prompts and tokens from a real render server, log-probabilities from what real vLLM said of a checkpoint."""

    def __init__(self, url: str, scores: dict[tuple[int, ...], list[dict[str, float]]]) -> None:
        super().__init__(url)
        self.scores = scores

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(render=True, tokenize=True, score=True)

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        rows = self.scores[*prompt, *continuation]
        positions = []
        for token, row in zip(continuation, rows, strict=True):
            ranked = sorted(((int(i), value) for i, value in row.items()), key=lambda pair: -pair[1])
            candidates = tuple(Candidate(i, b"", value) for i, value in ranked)
            positions.append(TokenLogprob(token, b"", row[str(token)], candidates))
        return tuple(positions)


@pytest.fixture(scope="module")
def scores(
    shared: Path,
    engines: EnginesEnv,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    render_tinychat: vllm.RenderEngine,
    tmp_path_factory: pytest.TempPathFactory,
) -> Scores:
    """What vLLM expects of each damaged checkpoint, at each position of llama.cpp's greedy answers."""
    root = tmp_path_factory.mktemp("damaged")
    checkpoint = shared / "models" / "tinychat" / "hf"
    for name, damage in WEIGHT_DAMAGE.items():
        directory = root / name
        directory.mkdir()
        config = json.loads((checkpoint / "config.json").read_text())
        tensors = read_tensors(checkpoint)
        damage(tensors, config)
        (directory / "config.json").write_text(json.dumps(config))
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    texts = []
    for conversation in PLAIN:
        ids = render_tinychat.tokenize(conversation)
        answer = llamacpp_f16.generate(ids, max_tokens=48, top_logprobs=20)
        texts.append((ids, tuple(answer.ids or ())))
    task = {"directories": [str(root / name) for name in WEIGHT_DAMAGE], "texts": texts, "top": 20}
    done = subprocess.run(
        [str(engines.python), str(Path(__file__).with_name("damage_probe.py"))],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
                          "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: Scores = {}
    for name, answers in zip(WEIGHT_DAMAGE, json.loads(done.stdout), strict=True):
        assert isinstance(answers, list), f"{name}: {answers}"
        found[name] = {(*prompt, *said): rows for (prompt, said), rows in zip(texts, answers, strict=True)}
    return found


@pytest.mark.parametrize("name", WEIGHT_DAMAGE)
def test_weights(
    name: str,
    scores: Scores,
    tinychat_bundle: Path,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    render_tinychat: vllm.RenderEngine,
) -> None:
    target = Scored(render_tinychat.url, scores[name])
    report = run(tinychat_bundle, llamacpp_f16, target, layers=[PROMPT, TOKENS, LOGPROBS], battery=PLAIN)
    assert [layer.status for layer in report.layers] == ["pass", "pass", "pass" if name == "right" else "fail"]
    numbers = report.layer(LOGPROBS).metrics
    if name == "right":
        assert numbers["mean_kl"] < 1e-5
    else:
        assert numbers["mean_kl"] > 0.005 or numbers["top1_agreement"] < 0.95


# ---- what shows without weights -------------------------------------------------------------------------------------


def test_a_system_prompt_that_the_bundle_ignores(
    shared: Path, tmp_path: Path, llamacpp_f16: llamacpp.LlamaCppEngine, render_tinychat: vllm.RenderEngine
) -> None:
    bundle = write_bundle(
        tmp_path / "b", shared / "models/tinychat/hf", template=GO_TEMPLATE, system="You answer in one sentence."
    )
    report = run(bundle, llamacpp_f16, render_tinychat, layers=[PROMPT])
    layer = report.layer(PROMPT)
    assert layer.status == "fail"
    assert "'system" in layer.differences[0].reason
    assert layer.agreed > 0, "conversations that bring their own system prompt are the same"


STOP = [{"name": "stop", "value": ["Customer:"], "origin": "Modelfile"}]


def test_a_stop_string_that_the_bundle_lost(
    shared: Path, tmp_path: Path, llamacpp_f16: llamacpp.LlamaCppEngine, render_tinychat: vllm.RenderEngine
) -> None:
    bundle = write_bundle(tmp_path / "b", shared / "models/tinychat/hf", parameters=STOP)
    (bundle / "request_defaults.json").unlink()
    report = run(bundle, llamacpp_f16, render_tinychat)
    assert report.layer("artefact").status == "fail"
    assert "stop 'Customer:': neither" in report.reason
    assert report.layer("prompt").status == "skipped"


def test_a_stop_string_that_the_server_was_started_without(
    shared: Path, tmp_path: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    """The bundle has it, but vLLM runs without its middleware."""
    bundle = write_bundle(tmp_path / "b", shared / "models/tinychat/hf", parameters=STOP)
    (bundle / "request_defaults.json").write_text('{"stop": ["Customer:"]}')
    report = run(bundle, llamacpp_f16, vllm_tinychat)
    assert [layer.status for layer in report.layers] == ["pass"] * 6 + ["fail"]
    assert "the source stops at 'Customer:', the target writes on" in report.reason


def test_a_changed_file(
    shared: Path, tmp_path: Path, llamacpp_f16: llamacpp.LlamaCppEngine, render_tinychat: vllm.RenderEngine
) -> None:
    bundle = write_bundle(tmp_path / "b", shared / "models/tinychat/hf")
    path = bundle / "migration.json"
    size = len(CHAT_TEMPLATE)
    files = {"model/chat_template.jinja": {"size": size, "sha256": hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": files}))
    assert run(bundle, llamacpp_f16, render_tinychat, layers=[LayerName.ARTEFACT]).verdict is Verdict.PASS
    (bundle / "model/chat_template.jinja").write_text(CHAT_TEMPLATE.replace("assistant", "Assistant"))
    report = run(bundle, llamacpp_f16, render_tinychat)
    assert report.reason.startswith("artefact: 1 of ")
    assert "its content was changed after it was written" in report.reason


# ---- different, and not worse ---------------------------------------------------------------------------------------


def test_the_original_of_a_quantized_source(
    shared: Path,
    tmp_path: Path,
    engines: EnginesEnv,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    vllm_tinychat: vllm.VllmEngine,
) -> None:
    """A Q2_K in llama.cpp, the original in vLLM: other numbers, and a reference that sides with the original."""
    bundle = write_bundle(tmp_path / "b", shared / "models/tinychat/hf", quantization="Q2_K")
    path = bundle / "migration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"original": {"repository": "example/tinychat"}}))
    gguf = shared / "models/tinychat/gguf/tinychat-q2_k.gguf"
    with llamacpp.serve(gguf, python=str(engines.python), log=tmp_path / "log", context=2048) as source:
        alone = run(bundle, source, vllm_tinychat, layers=[LOGPROBS, TEXT])
        assert (alone.verdict, alone.layer(LOGPROBS).status) == (Verdict.INCONCLUSIVE, "inconclusive")
        assert "--reference URL" in alone.layer(LOGPROBS).notes[-1]
        judged = run(bundle, source, vllm_tinychat, layers=[LOGPROBS, TEXT], reference=llamacpp_f16)
    layer = judged.layer(LOGPROBS)
    assert layer.status == "pass", layer.summary
    assert layer.metrics["reference_to_target_kl"] < 1e-5 < 0.005 < layer.metrics["reference_to_source_kl"]
    assert "different, and not worse" in layer.summary
    assert judged.layer(TEXT).metrics["reference_with_target"] >= judged.layer(TEXT).metrics["reference_with_source"]


# ---- the same again and again ---------------------------------------------------------------------------------------


def _again(times: int, bundle: Path, source: Engine, target: vllm.VllmEngine, concurrency: int) -> list[ParityReport]:
    settings = Settings(concurrency=concurrency)
    return [run(bundle, source, target, settings=settings) for _ in range(times)]


def test_right_servers_pass_at_any_concurrency(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    (report,) = _again(1, tinychat_bundle, llamacpp_f16, vllm_tinychat, 8)
    assert report.verdict is Verdict.PASS, report.reason
    assert report.layer("noise").metrics["concurrency"] == 8.0


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["the server against itself", "llama.cpp on the same weights"])
def test_identical_servers_pass_every_time(
    kind: str, tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    """20 of 20, four requests at a time, every layer."""
    source = vllm_tinychat if "itself" in kind else llamacpp_f16
    reports = _again(20, tinychat_bundle, source, vllm_tinychat, 4)
    assert [report.verdict for report in reports] == [Verdict.PASS] * 20, [report.reason for report in reports]


# ---- servers that are unwell ----------------------------------------------------------------------------------------

QUICK = Settings(max_tokens=8, retry_pauses_s=(0.05,), noise_cases=2)


def _through(
    fault: faulty.Fault, bundle: Path, source: llamacpp.LlamaCppEngine, target: vllm.VllmEngine, timeout: float = 60.0
) -> ParityReport:
    with faulty.in_front_of(target.url, fault) as url:
        engine = vllm.VllmEngine(url, timeout=timeout)
        try:
            return run(bundle, source, engine, battery=PLAIN[:6], settings=QUICK, layers=[LOGPROBS, TEXT])
        finally:
            engine.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faulty.garbage(10), "prompt|tokens|logprobs|text"),
        (faulty.breaks_off(14), "broke off|did not answer"),
        (faulty.restarts(14, 30.0), "broke off|disconnected|logprobs"),
    ],
    ids=["garbage", "breaks off", "dies"],
)
def test_an_unwell_server_proves_nothing(
    fault: faulty.Fault,
    reason: str,
    tinychat_bundle: Path,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    vllm_tinychat: vllm.VllmEngine,
) -> None:
    report = _through(fault, tinychat_bundle, llamacpp_f16, vllm_tinychat)
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, 4)
    assert re.search(reason, report.reason), report.reason
    assert report.layers[0].status == "pass", "what was found before is told"


def test_a_server_that_fails_once_is_asked_again_and_not_trusted(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    report = _through(faulty.answers_500(9), tinychat_bundle, llamacpp_f16, vllm_tinychat)
    assert [layer.status for layer in report.layers] == ["pass"] * 4, "the run is complete"
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "a server failed 1 times on the way" in report.reason


def test_a_server_that_hangs_is_left_in_time(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    released = threading.Event()
    try:
        fault = faulty.hangs(14, released)
        report = _through(fault, tinychat_bundle, llamacpp_f16, vllm_tinychat, timeout=2.0)
    finally:
        released.set()
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "did not answer" in report.reason


def test_a_server_that_restarts_and_a_run_that_goes_on(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    options: dict[str, Any] = {"battery": PLAIN[:6], "settings": QUICK, "layers": [LOGPROBS, TEXT], "journal": journal}
    with faulty.in_front_of(vllm_tinychat.url, faulty.restarts(14, 0.6)) as url:
        engine = vllm.VllmEngine(url, timeout=60.0)
        first = run(tinychat_bundle, llamacpp_f16, engine, **options)
        assert first.verdict is Verdict.INCONCLUSIVE
        threading.Event().wait(0.7)
        second = run(tinychat_bundle, llamacpp_f16, engine, resume=True, **options)
        engine.close()
    assert second.verdict is Verdict.PASS, second.reason
    assert len(second.layers) == 4
