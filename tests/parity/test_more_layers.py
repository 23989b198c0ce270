"""Artefact, noise, embeddings, sampled answers, and the reference, on the toy model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from migrate.parity.case import Settings
from migrate.parity.report import LayerName, ParityReport, Verdict
from migrate.parity.run import Asked, run
from tests.parity.toy import ToyEngine, conversations, write_bundle

BATTERY = conversations(12, least=6)


def _edit(bundle: Path, **keys: Any) -> None:
    path = bundle / "migration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def _layer(bundle: Path, name: LayerName, source: ToyEngine, target: ToyEngine, **options: Any) -> Any:
    return run(bundle, source, target, **({"layers": [name], "battery": BATTERY} | options)).layer(name)


# ---- artefact -------------------------------------------------------------------------------------------------------


def _with_files(bundle: Path) -> None:
    paths = [path for path in bundle.rglob("*") if path.is_file() and path.name != "migration.json"]
    files = {
        str(path.relative_to(bundle)): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in paths
    }
    _edit(bundle, files=files)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: None, None),
        (lambda b: (b / "model/generation_config.json").write_text('{"eos_token_id": [12]}'), "content was changed"),
        (lambda b: (b / "model/tokenizer_config.json").write_text("{}"), "2 bytes"),
        (lambda b: (b / "model/tokenizer_config.json").unlink(), "it cannot be read: No such file"),
        (lambda b: _edit(b, files={"../x": {"size": 1, "sha256": ""}}), "points outside the bundle"),
        (lambda b: (b / "request_defaults.json").unlink(), "request_defaults.json"),
    ],
)
def test_files(damage: Any, reason: str | None, tmp_path: Path) -> None:
    stop = [{"name": "stop", "value": ["Customer:", "</s>"], "origin": "Modelfile"}]
    bundle = write_bundle(tmp_path / "bundle", parameters=stop)
    (bundle / "request_defaults.json").write_text('{"stop": ["Customer:"]}')
    _with_files(bundle)
    damage(bundle)
    layer = _layer(bundle, LayerName.ARTEFACT, ToyEngine("llama.cpp"), ToyEngine())
    assert layer.status == ("fail" if reason else "pass"), layer.summary
    if reason is None:
        assert (layer.compared, layer.agreed) == (6, 6)
    else:
        assert any(reason in f"{d.conversation} {d.reason}" for d in layer.differences)


def test_a_stop_string_that_is_nowhere(tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path / "bundle", parameters=[{"name": "stop", "value": ["Customer:"], "origin": "Modelfile"}]
    )
    layer = _layer(bundle, LayerName.ARTEFACT, ToyEngine("llama.cpp"), ToyEngine())
    assert layer.status == "fail"
    assert "stop 'Customer:': neither request_defaults.json nor eos_token_id has it" in layer.summary


def test_a_server_with_a_shorter_context(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    _edit(bundle, target={"max_model_len": 600})
    assert _layer(bundle, LayerName.ARTEFACT, ToyEngine("llama.cpp"), ToyEngine()).status == "pass"
    layer = _layer(bundle, LayerName.ARTEFACT, ToyEngine("llama.cpp"), ToyEngine(context=500))
    assert "the server takes 500 tokens (max_model_len), the bundle was made for 600" in layer.summary


def test_nothing_to_compare_is_not_a_pass(tmp_path: Path) -> None:
    layer = _layer(write_bundle(tmp_path / "bundle"), LayerName.ARTEFACT, ToyEngine("llama.cpp"), ToyEngine())
    assert layer.status == "skipped"


# ---- noise ----------------------------------------------------------------------------------------------------------


def test_a_quiet_server_has_no_noise(tmp_path: Path) -> None:
    report = run(write_bundle(tmp_path / "b"), ToyEngine("llama.cpp"), ToyEngine(), battery=BATTERY)
    layer = report.layer(LayerName.NOISE)
    assert (layer.status, layer.compared, layer.agreed) == ("pass", 8, 8)
    assert layer.metrics["source_mean_kl"] == layer.metrics["target_mean_kl"] == 0.0
    assert report.layer(LayerName.LOGPROBS).thresholds["max_mean_kl"] == 0.005


def test_noise_is_added_to_the_limit_and_unstable_answers_are_no_failure(tmp_path: Path) -> None:
    target = ToyEngine(restless=0.04)
    report = run(write_bundle(tmp_path / "b"), ToyEngine("llama.cpp"), target, battery=BATTERY, settings=Settings())
    layer = report.layer(LayerName.NOISE)
    assert layer.status == "pass"
    assert 0.0 < layer.metrics["target_mean_kl"] < 0.005
    limit = report.layer(LayerName.LOGPROBS).thresholds["max_mean_kl"]
    assert limit == pytest.approx(0.005 + layer.metrics["target_mean_kl"])
    assert report.verdict is not Verdict.FAIL


def test_a_server_that_is_nothing_but_noise_decides_nothing(tmp_path: Path) -> None:
    report = run(write_bundle(tmp_path / "b"), ToyEngine("llama.cpp"), ToyEngine(restless=2.0), battery=BATTERY)
    layer = report.layer(LayerName.NOISE)
    assert layer.status == "inconclusive"
    assert "nothing smaller can be told" in layer.summary
    assert report.verdict is not Verdict.PASS


# ---- embeddings -----------------------------------------------------------------------------------------------------


def _embedding_bundle(tmp_path: Path) -> Path:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "serve.yaml").write_text("runner: pooling\n")
    return bundle


def test_the_same_vectors(tmp_path: Path) -> None:
    report = run(_embedding_bundle(tmp_path), ToyEngine("ollama", ids=False), ToyEngine())
    assert [layer.name for layer in report.layers] == ["artefact", "embeddings"]
    assert (report.verdict, report.conversations) == (Verdict.PASS, 20)
    metrics = report.layer("embeddings").metrics
    assert metrics["min_cosine"] == pytest.approx(1.0)
    assert metrics["rank_agreement"] == pytest.approx(1.0)
    assert metrics["same_nearest"] == 1.0


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (ToyEngine(seed=2), "is below 0.999"),
        (ToyEngine(noise=0.1), "is below 0.999"),
        (ToyEngine(faults=["norm"]), "normalised on one side only"),
    ],
)
def test_other_vectors(target: ToyEngine, reason: str, tmp_path: Path) -> None:
    layer = run(_embedding_bundle(tmp_path), ToyEngine("ollama", ids=False), target).layer("embeddings")
    assert layer.status == "fail"
    assert reason in layer.summary


def test_the_users_own_texts_and_too_few_of_them(tmp_path: Path) -> None:
    bundle = _embedding_bundle(tmp_path)
    report = run(bundle, ToyEngine("ollama", ids=False), ToyEngine(), asked=Asked(texts=("a", "b", "c")))
    assert report.layer("embeddings").status == "inconclusive"
    assert report.conversations == 3


# ---- sampled --------------------------------------------------------------------------------------------------------


def _sampled(tmp_path: Path, target: ToyEngine) -> Any:
    settings = Settings(samples=10, sampled_cases=4, max_tokens=8)
    bundle = write_bundle(tmp_path / "bundle")
    return _layer(bundle, LayerName.SAMPLED, ToyEngine("llama.cpp"), target, settings=settings)


def test_samples_of_two_distributions(tmp_path: Path) -> None:
    class Other(ToyEngine):
        def chat(self, prompt: Any, ask: Any) -> Any:
            from dataclasses import replace

            said = super().chat(prompt, ask)
            return replace(said, text="yes yes yes")

    layer = _sampled(tmp_path, Other())
    assert layer.status == "fail"
    assert layer.metrics["p"] < 0.001


def test_samples_of_one_distribution(tmp_path: Path) -> None:
    layer = _sampled(tmp_path, ToyEngine())
    assert layer.status == "pass"
    assert layer.metrics["p"] > 0.05
    assert layer.compared == 4


def test_the_layer_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    report = run(write_bundle(tmp_path / "bundle"), ToyEngine("llama.cpp"), ToyEngine(), battery=BATTERY)
    assert LayerName.SAMPLED not in [layer.name for layer in report.layers]


# ---- the original instead of a quantized source ---------------------------------------------------------------------


def _against(tmp_path: Path, reference: ToyEngine | None, target: ToyEngine) -> ParityReport:
    bundle = write_bundle(tmp_path / "bundle", quantization="Q4_K_M")
    _edit(bundle, original={"repository": "example/model"})
    source = ToyEngine("llama.cpp", noise=0.7)
    layers = [LayerName.LOGPROBS, LayerName.TEXT]
    return run(bundle, source, target, battery=BATTERY, reference=reference, layers=layers, keep_going=True)


def test_without_a_reference_different_is_not_called_worse(tmp_path: Path) -> None:
    report = _against(tmp_path, None, ToyEngine())
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "--reference URL" in report.layer("logprobs").notes[-1]
    assert "nothing tells which is better" in report.layer("text").summary


def test_a_reference_sees_that_the_target_is_nearer(tmp_path: Path) -> None:
    report = _against(tmp_path, ToyEngine(), ToyEngine())
    layer = report.layer("logprobs")
    assert layer.status == "pass", layer.summary
    assert layer.metrics["reference_to_target_kl"] == pytest.approx(0.0, abs=1e-9)
    assert layer.metrics["reference_to_source_kl"] > 0.005
    assert "different, and not worse" in layer.summary
    text = report.layer("text")
    assert text.status == "pass"
    assert text.metrics["reference_with_target"] > text.metrics["reference_with_source"] == 0.0
    assert (report.verdict, report.reference) == (Verdict.PASS, "toy vllm")


def test_a_reference_sees_that_the_target_is_worse(tmp_path: Path) -> None:
    report = _against(tmp_path, ToyEngine(), ToyEngine(noise=2.0))
    assert report.verdict is Verdict.FAIL
    assert "different, and worse" in report.layer("logprobs").summary
    assert report.layer("text").status == "fail"
