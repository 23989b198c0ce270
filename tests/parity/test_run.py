from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate.engines.base import Conversation
from migrate.errors import BadInput, NotFound
from migrate.parity.case import Settings
from migrate.parity.report import LayerName, LayerReport, ParityReport, Verdict
from migrate.parity.run import run
from tests.parity.toy import ToyEngine, write_bundle


def _ask(*contents: str) -> tuple[Conversation, ...]:
    return tuple(Conversation(text, ({"role": "user", "content": text},)) for text in contents)


BATTERY = _ask("hello", "cat dog", "two three", "no.", "yes yes yes")


def _run(tmp_path: Path, source: ToyEngine, target: ToyEngine, **options: Any) -> ParityReport:
    return run(write_bundle(tmp_path / "bundle"), source, target, **{"battery": BATTERY, **options})


def _statuses(report: ParityReport) -> list[str]:
    return [layer.status for layer in report.layers]


@pytest.mark.parametrize("ids", [True, False])
def test_the_same_model_passes(ids: bool, tmp_path: Path) -> None:
    source = ToyEngine("llama.cpp" if ids else "ollama", ids=ids)
    report = _run(tmp_path, source, ToyEngine())
    assert _statuses(report) == ["pass"] * 4, report
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    assert report.layer("logprobs").metrics["mean_kl"] == pytest.approx(0.0, abs=1e-9)
    assert [layer.agreed for layer in report.layers] == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("target", "layer", "reason"),
    [
        (ToyEngine(turn="user:"), "prompt", "'bot:' became 'user:'"),
        (ToyEngine(turn="bot:\n"), "prompt", "the target's prompt goes on with '\\n'"),
        (ToyEngine(turn=""), "prompt", "the target's prompt ends where the source has 'bot:'"),
        (ToyEngine(bos=False), "tokens", "lacks the first token <s> (BOS)"),
        (ToyEngine(seed=2), "logprobs", "KL is above"),
        (ToyEngine(noise=0.5), "logprobs", "KL is above"),
        (ToyEngine(ends=False), "text", "generates </s> (13) and goes on: it is missing from eos_token_id"),
    ],
)
def test_damage_is_found_by_the_cheapest_layer(target: ToyEngine, layer: str, reason: str, tmp_path: Path) -> None:
    report = _run(tmp_path, ToyEngine("llama.cpp"), target)
    failed = [r for r in report.layers if r.status == "fail"]
    assert [r.name for r in failed] == [layer]
    assert reason in failed[0].summary
    assert report.reason == f"{layer}: {failed[0].summary}"
    assert report.exit_code == 1
    assert all(r.status == "skipped" for r in report.layers[report.layers.index(failed[0]) + 1 :])


def test_a_lost_bos_shows_in_the_count_of_a_source_without_ids(tmp_path: Path) -> None:
    report = _run(tmp_path, ToyEngine("ollama", ids=False), ToyEngine(bos=False))
    assert report.layer("tokens").status == "fail"
    assert "as when BOS is lost" in report.layer("tokens").summary
    assert "only the number is compared" in report.layer("tokens").notes[0]


def test_a_bos_that_the_source_does_not_have(tmp_path: Path) -> None:
    report = _run(tmp_path, ToyEngine("llama.cpp", bos=False), ToyEngine())
    assert "begins with <s>, the source's does not" in report.layer("tokens").summary


def test_keep_going_runs_every_layer(tmp_path: Path) -> None:
    report = _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine(turn="user:"), keep_going=True)
    assert "skipped" not in _statuses(report)
    assert report.reason.startswith("prompt: ")


@pytest.mark.parametrize(
    ("side", "after"),
    [("source", 0), ("source", 3), ("source", 7), ("source", 14), ("target", 0), ("target", 3), ("target", 12),
     ("target", 22), ("target", 26)],
)  # fmt: skip
def test_a_server_that_dies_on_the_way_proves_nothing(side: str, after: int, tmp_path: Path) -> None:
    engines = {"source": ToyEngine("llama.cpp"), "target": ToyEngine()}
    engines[side].requests_left = after
    report = _run(tmp_path, engines["source"], engines["target"])
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, 4)
    assert "broke off while answering" in report.reason
    assert _statuses(report).count("inconclusive") == 1


def test_small_noise_is_tolerated_and_ties_are_shown(tmp_path: Path) -> None:
    battery = _ask(*(f"{a} {b}" for a in ("cat", "dog", "two", "yes", "no") for b in ("hello", "three", "cat", "no.")))
    report = _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine(noise=0.08), battery=battery)
    assert report.verdict is Verdict.PASS, report
    text = report.layer("text")
    assert 0 < text.metrics["near_ties"] < 10
    assert "near tie" in text.notes[0]
    strict = run(
        tmp_path / "bundle", ToyEngine("llama.cpp"), ToyEngine(noise=0.08), battery=battery,
        settings=Settings(tie_margin=0.0),
    )  # fmt: skip
    assert strict.layer("text").status == "fail"
    assert "nats apart" in strict.layer("text").summary


def test_what_the_bundle_refuses_on_purpose_does_not_fail(tmp_path: Path) -> None:
    on_purpose, by_accident = _ask("migrate: refuse"), _ask("refuse")
    report = _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine(), battery=BATTERY + on_purpose)
    assert report.verdict is Verdict.PASS
    assert "refuses it on purpose" in report.layer("prompt").notes[0]
    report = run(tmp_path / "bundle", ToyEngine("llama.cpp"), ToyEngine(), battery=BATTERY + by_accident)
    assert report.layer("prompt").differences[0].reason.startswith("the target refuses the conversation")


@pytest.mark.parametrize(
    ("wanted", "source", "expected"),
    [
        ([LayerName.PROMPT], ToyEngine("llama.cpp"), ["prompt"]),
        ([LayerName.TEXT], ToyEngine("llama.cpp"), ["prompt", "tokens", "text"]),
        ([LayerName.TEXT], ToyEngine("ollama", ids=False), ["tokens", "text"]),
        ([LayerName.LOGPROBS, LayerName.PROMPT], ToyEngine("ollama", ids=False), ["prompt", "tokens", "logprobs"]),
    ],
)
def test_layers_bring_those_they_start_from(
    wanted: list[LayerName], source: ToyEngine, expected: list[str], tmp_path: Path
) -> None:
    seen: list[LayerReport] = []
    report = _run(tmp_path, source, ToyEngine(), layers=wanted, progress=seen.append)
    assert [layer.name for layer in report.layers] == expected
    assert seen == report.layers
    assert report.verdict is Verdict.PASS


@pytest.mark.parametrize(("battery", "layers"), [((), tuple(LayerName)), (BATTERY, ())])
def test_nothing_compared_is_no_success(
    battery: tuple[Conversation, ...], layers: tuple[LayerName, ...], tmp_path: Path
) -> None:
    report = _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine(), battery=battery, layers=layers)
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, 4)


def test_prompts_that_only_ollama_can_tell(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", prompt_path="renderer")
    report = run(bundle, ToyEngine("llama.cpp"), ToyEngine(), battery=BATTERY)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "compare with a live Ollama" in report.reason
    assert run(bundle, ToyEngine("ollama", ids=False), ToyEngine(), battery=BATTERY).verdict is Verdict.PASS


def test_the_source_is_asked_once_per_answer(tmp_path: Path) -> None:
    source = ToyEngine("llama.cpp")
    _run(tmp_path, source, ToyEngine())
    assert source.asked.count("generate") == len(BATTERY)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is not a bundle: it has no migration.json"):
        run(tmp_path, ToyEngine("llama.cpp"), ToyEngine())
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"not a tokenizer.json"):
        run(bundle, ToyEngine("llama.cpp"), ToyEngine())
