"""Artefact, noise, embeddings, sampled answers, and the reference, on the toy model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.engines.base import Conversation, Generation, Prompt
from migrate.errors import ServerError
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


# ---- what cannot be compared ----------------------------------------------------------------------------------------


class Short(ToyEngine):
    """A vLLM whose context is full after so many tokens; it says so in vLLM's words."""

    def _full(self, asked: object) -> None:
        if "dog dog dog" in str(asked):
            raise ServerError("This model's maximum context length is 9 tokens. However, you ...", status=400)


class ShortPrompts(Short):
    def render(self, conversation: Conversation) -> str:
        self._full(conversation.messages)
        return super().render(conversation)


class ShortAnswers(Short):
    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        self._full(prompt)
        return super().generate(prompt, **options)


@pytest.mark.parametrize("target", [ShortPrompts(), ShortAnswers()])
def test_a_conversation_that_is_too_long_is_told_and_no_failure(target: ToyEngine, tmp_path: Path) -> None:
    """Documented: vLLM answers 400 where Ollama drops old messages."""
    long = Conversation("too long", ({"role": "user", "content": "dog dog dog"},))
    bundle = write_bundle(tmp_path / "bundle")
    layers = [LayerName.PROMPT, LayerName.TOKENS, LayerName.LOGPROBS, LayerName.TEXT]
    report = run(bundle, ToyEngine("llama.cpp"), target, battery=[*BATTERY, long], layers=layers)
    assert report.verdict is Verdict.PASS, report.reason
    notes = [note for layer in report.layers for note in layer.notes]
    assert any(note.startswith("«too long» left out: longer than the context") for note in notes)
    if isinstance(target, ShortPrompts):
        assert report.layer("prompt").deviations[0].startswith("1 of 13 conversations are longer than the context")
    assert report.next_step.startswith("this was a part of the comparison")
    alone = run(bundle, ToyEngine("llama.cpp"), target, battery=[long], layers=layers)
    assert alone.verdict is Verdict.INCONCLUSIVE


class Thinks(ToyEngine):
    """An Ollama that takes reasoning apart, and leaves out the tokens that it reads on the way."""

    left_out = 2

    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        said = super().generate(prompt, **options)
        count = len(said.tokens) + (said.finish_reason == "stop" and not self.ids)
        tokens = said.tokens[self.left_out :]
        return replace(said, tokens=tokens, thinking="so", completion_tokens=count)


class ThinksWhole(Thinks):
    left_out = 0


def test_tokens_that_ollama_leaves_out_are_no_difference(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    layers = [LayerName.LOGPROBS, LayerName.TEXT]
    options: dict[str, Any] = {"battery": BATTERY, "layers": layers, "keep_going": True}
    report = run(bundle, Thinks("ollama", ids=False), ThinksWhole(), **options)
    assert report.layer(LayerName.LOGPROBS).status == "inconclusive"
    assert "does not tell all tokens of an answer with reasoning" in report.layer(LayerName.LOGPROBS).notes[0]
    assert (report.layer(LayerName.TEXT).status, report.layer(LayerName.TEXT).agreed) == ("pass", len(BATTERY))
    other = run(bundle, Thinks("ollama", ids=False), ThinksWhole(seed=2), **options)
    assert other.verdict is Verdict.INCONCLUSIVE
    assert other.layer(LayerName.TEXT).compared < len(BATTERY), "what cannot be judged is not counted as agreed"


def test_reasoning_with_all_its_tokens_is_compared(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    layers = [LayerName.LOGPROBS, LayerName.TEXT]
    options: dict[str, Any] = {"battery": BATTERY, "layers": layers}
    assert run(bundle, ThinksWhole("ollama", ids=False), ThinksWhole(), **options).verdict is Verdict.PASS
    assert run(bundle, ThinksWhole("ollama", ids=False), ThinksWhole(seed=2), **options).verdict is Verdict.FAIL


class Reticent(ToyEngine):
    """A vLLM started with another --max-logprobs."""

    def score(self, prompt: Any, continuation: Any, *, top: int) -> Any:
        raise ServerError("Requested prompt logprobs of 20, which is greater than max allowed: 5", status=400)


def test_a_server_that_may_not_tell_log_probabilities_is_not_called_wrong(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    report = run(bundle, ToyEngine("llama.cpp"), Reticent(), battery=BATTERY, layers=[LayerName.LOGPROBS])
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "greater than max allowed: 5" in report.layer(LayerName.LOGPROBS).notes[0]


class Joins(ToyEngine):
    """A llama.cpp: tokens that only begin a character are not listed, and the one that ends it has all its bytes."""

    listed = False

    def generate(self, prompt: Prompt, **options: Any) -> Generation:
        said = super().generate(prompt, **options)
        tokens = list(said.tokens)
        begun, ended = tokens[2], tokens[3]
        tokens[2:4] = [replace(ended, text=begun.text + ended.text)]
        if self.listed:
            tokens = [*said.tokens[:2], replace(begun, text=b"", logprob=0.0, top=()), *said.tokens[3:]]
        return replace(said, tokens=tuple(tokens))


class JoinsListed(Joins):
    listed = True


def test_tokens_that_llama_cpp_leaves_out_are_no_difference(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    options: dict[str, Any] = {"battery": BATTERY, "layers": [LayerName.LOGPROBS, LayerName.TEXT], "keep_going": True}
    right = run(bundle, Joins("llama.cpp"), ToyEngine(), **options)
    assert right.verdict is Verdict.PASS, right.reason
    assert right.layer(LayerName.LOGPROBS).metrics["positions"] == 2 * len(BATTERY)
    assert "compared up to token 2" in right.layer(LayerName.LOGPROBS).notes[0]
    assert run(bundle, Joins("llama.cpp"), ToyEngine(seed=2), **options).verdict is Verdict.FAIL


def test_a_position_without_candidates_is_passed_over(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    options: dict[str, Any] = {"battery": BATTERY, "layers": [LayerName.LOGPROBS, LayerName.TEXT]}
    plain = run(bundle, ToyEngine("llama.cpp"), ToyEngine(), **options).layer(LayerName.LOGPROBS)
    right = run(bundle, JoinsListed("llama.cpp"), ToyEngine(), **options)
    assert right.verdict is Verdict.PASS, right.reason
    assert right.layer(LayerName.LOGPROBS).metrics["positions"] == plain.metrics["positions"] - len(BATTERY)
    assert run(bundle, JoinsListed("llama.cpp"), ToyEngine(seed=2), **options).verdict is Verdict.FAIL
