from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrate.engines.base import Conversation
from migrate.errors import BadInput, NotFound
from migrate.parity.case import Settings
from migrate.parity.report import LayerName, LayerReport, ParityReport, Verdict
from migrate.parity.run import Watch, run
from tests.parity.toy import ToyEngine, conversations, write_bundle


def _ask(*contents: str) -> tuple[Conversation, ...]:
    return tuple(Conversation(text, ({"role": "user", "content": text},)) for text in contents)


BATTERY = conversations(5, least=6)


def _run(tmp_path: Path, source: ToyEngine, target: ToyEngine, **options: Any) -> ParityReport:
    write_bundle(tmp_path / "bundle")
    return _run_again(tmp_path, source, target, **options)


def _run_again(tmp_path: Path, source: ToyEngine, target: ToyEngine, **options: Any) -> ParityReport:
    settings = Settings(retry_pauses_s=())
    return run(tmp_path / "bundle", source, target, **{"battery": BATTERY, "settings": settings, **options})


def _statuses(report: ParityReport) -> list[str]:
    return [layer.status for layer in report.layers]


@pytest.mark.parametrize("ids", [True, False])
def test_the_same_model_passes(ids: bool, tmp_path: Path) -> None:
    source = ToyEngine("llama.cpp" if ids else "ollama", ids=ids)
    report = _run(tmp_path, source, ToyEngine())
    assert [layer.name.value for layer in report.layers] == [
        "artefact", "prompt", "tokens", "noise", "logprobs", "text", "behaviours"
    ]  # fmt: skip
    assert _statuses(report) == ["skipped"] + ["pass"] * 6, report
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    assert report.layer("logprobs").metrics["mean_kl"] == pytest.approx(0.0, abs=1e-9)
    assert [layer.agreed for layer in report.layers[1:6]] == [5, 5, 5, 5, 5]


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
    assert "skipped" not in _statuses(report)[1:]
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
    assert not report.complete
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
        ([LayerName.NOISE], ToyEngine("llama.cpp"), ["prompt", "tokens", "noise"]),
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
    _run(tmp_path, source, ToyEngine(), layers=[LayerName.LOGPROBS, LayerName.TEXT])
    assert source.asked.count("generate") == len(BATTERY)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_server_that_fails_once_is_not_one_to_cut_over_to(side: str, tmp_path: Path) -> None:
    engines = {"source": ToyEngine("llama.cpp"), "target": ToyEngine()}
    engines[side].fails_at = frozenset({14})
    report = _run(tmp_path, engines["source"], engines["target"], settings=Settings(retry_pauses_s=(0.0,)))
    assert "pass" in _statuses(report)
    assert "inconclusive" not in _statuses(report), "the run is complete"
    assert (report.verdict, len(report.hiccups)) == (Verdict.INCONCLUSIVE, 1)
    assert "a server failed 1 times on the way" in report.reason


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    source, target = ToyEngine("llama.cpp"), ToyEngine(dies_after=30)
    first = _run(tmp_path, source, target, journal=journal)
    assert first.verdict is Verdict.INCONCLUSIVE
    asked = len(source.asked)
    target.requests_left = None
    second = _run_again(tmp_path, source, target, journal=journal, resume=True)
    assert second.verdict is Verdict.PASS, second.reason
    fresh = ToyEngine("llama.cpp")
    _run_again(tmp_path, fresh, ToyEngine())
    assert len(source.asked) <= len(fresh.asked), "nothing is asked twice"
    assert len(source.asked) > asked


def test_many_at_a_time_find_the_same(tmp_path: Path) -> None:
    one = _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine())
    settings = Settings(concurrency=4, retry_pauses_s=())
    four = _run_again(tmp_path, ToyEngine("llama.cpp"), ToyEngine(), settings=settings)
    assert [(r.status, r.summary) for r in four.layers] == [(r.status, r.summary) for r in one.layers]
    assert four.settings["concurrency"] == 4


def test_two_servers_of_one_kind(tmp_path: Path) -> None:
    """A new version of vLLM is compared with the old one in the same way."""
    report = _run(tmp_path, ToyEngine(), ToyEngine())
    assert report.verdict is Verdict.PASS, report.reason
    assert _run_again(tmp_path, ToyEngine(), ToyEngine(seed=2)).verdict is Verdict.FAIL


def test_somebody_watches(tmp_path: Path) -> None:
    told: list[str] = []
    watch = Watch(
        begin=lambda name: told.append(f"begin {name.value}"),
        step=lambda done, total: told.append(f"{done}/{total}"),
        end=lambda report: told.append(f"end {report.name.value}"),
    )
    _run(tmp_path, ToyEngine("llama.cpp"), ToyEngine(), layers=[LayerName.LOGPROBS], watch=watch)
    assert told[0] == "begin prompt"
    at = told.index("begin logprobs")
    assert told[at + 1 : at + 6] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert told[-1] == "end logprobs"


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is not a bundle: it has no migration.json"):
        run(tmp_path, ToyEngine("llama.cpp"), ToyEngine())
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match=r"not a tokenizer.json"):
        run(bundle, ToyEngine("llama.cpp"), ToyEngine())


def test_nobody_waits_for_requests_under_way_when_a_run_is_broken_off(tmp_path: Path) -> None:
    """Neither the run nor the end of the process: a server may hang for as long as the time limit of a request."""
    script = """
import sys, threading
from pathlib import Path
from migrate.errors import ServerUnreachable
from migrate.parity.case import Settings
from migrate.parity.run import run
from tests.parity.toy import ToyEngine, conversations

asked = conversations(6)
first = ToyEngine().tokenize(asked[0])

class Hangs(ToyEngine):
    def score(self, *args, **options):
        if args[0] == first:
            raise KeyboardInterrupt
        threading.Event().wait(60)

try:
    run(Path(sys.argv[1]), ToyEngine("llama.cpp"), Hangs(), battery=asked, settings=Settings(concurrency=4))
except KeyboardInterrupt:
    print("interrupted")
"""
    bundle = write_bundle(tmp_path / "bundle")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle)], cwd=root, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "interrupted\n", done.stderr
