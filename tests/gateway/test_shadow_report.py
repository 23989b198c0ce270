"""The report of the journal: rates against scipy and statsmodels, verdicts, and parity on what was kept."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from migrate.engines import connect, vllm
from migrate.errors import MissingExtra, UsageError
from migrate.gateway.shadow import ShadowPolicy
from migrate.gateway.shadow_answer import AnswerSummary
from migrate.gateway.shadow_compare import compare
from migrate.gateway.shadow_journal import Row
from migrate.gateway.shadow_parity import Sides, prove
from migrate.gateway.shadow_report import ShadowReport, enough, interval, one_sided, summarize, to_markdown
from migrate.parity.report import Verdict
from tests.parity.toy import ToyEngine, conversations, write_bundle

BEGAN = datetime(2026, 11, 26, 12, tzinfo=UTC)
GREEDY: dict[str, Any] = {"options": {"temperature": 0}, "messages": [{"role": "user", "content": "x"}]}
SAME = AnswerSummary(200, 10, 5, "stop", "The capital of France is Paris.", ttft_s=0.1, total_s=1.0)


def rows(*groups: tuple[int, AnswerSummary], body: dict[str, Any] = GREEDY, path: str = "/api/chat") -> list[Row]:
    """So many pairs of `SAME` with each answer of a target."""
    found: list[Row] = []
    for count, target in groups:
        pair = compare(body, SAME, target, answered_by="source")
        found += [Row(BEGAN + timedelta(seconds=len(found) + n), "bot:latest", path, pair) for n in range(count)]
    return found


def judged(seen: Sequence[Row], **policy: Any) -> ShadowReport:
    return summarize("bot:latest", seen, ShadowPolicy(**policy))


def test_the_same_is_a_pass() -> None:
    report = judged(rows((400, SAME)))
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    assert report.reason == "400 pairs within every threshold"
    assert {r.check: r.result for r in report.rates} == {
        "status": "pass", "prompt": "pass", "beginning": "pass", "text": "told", "end": "told", "tokens": "told",
    }  # fmt: skip
    assert (report.greedy, report.kept, report.paths) == (400, 0, {"/api/chat": 400})
    assert report.examples == []


@pytest.mark.parametrize(
    ("target", "check"),
    [
        (AnswerSummary(503), "status"),
        (AnswerSummary(None), "status"),
        (replace(SAME, prompt_tokens=9), "prompt"),
        (replace(SAME, text="gibberish"), "beginning"),
    ],
)
def test_what_differs_everywhere_is_a_fail_even_among_few(target: AnswerSummary, check: str) -> None:
    report = judged(rows((30, target)))
    assert (report.verdict, report.exit_code) == (Verdict.FAIL, 1)
    assert [r.check for r in report.rates if r.result == "fail"] == [check]
    assert "0 of 30" in report.reason
    assert len(report.examples) == 5
    assert report.examples[0].differences[0] == check


def test_too_few_are_too_few() -> None:
    report = judged(rows((20, SAME)))
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, 4)
    assert report.reason == "20 pairs, at least 50 are wanted"
    report = judged(rows((100, SAME)))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "100 of 100 is too little to decide (299 without a difference would do)" in report.reason
    assert judged(rows((299, SAME))).verdict is Verdict.PASS


def test_nothing_at_all() -> None:
    report = judged([])
    assert (report.verdict, report.pairs, report.rates, report.first) == (Verdict.INCONCLUSIVE, 0, [], None)
    assert "INCONCLUSIVE" in to_markdown(report)


def test_near_ties_late_in_an_answer_are_no_failure() -> None:
    late = replace(SAME, text=SAME.text[:-1] + "!", tokens=6)
    report = judged(rows((200, SAME), (200, late)))
    assert report.verdict is Verdict.PASS
    assert report.parts_at == len(SAME.text) - 1
    strict = judged(rows((200, SAME), (200, late)), min_same_text=0.9)
    assert strict.verdict is Verdict.FAIL
    assert strict.reason.startswith("greedy answers equal to the end: 200 of 400 (50.0 %, not 90 %)")


def test_sampled_answers_alone_decide_nothing() -> None:
    """Weights that are wrong would not show in them."""
    sampled = rows((400, replace(SAME, text="gibberish")), body={"messages": [{}]})
    report = judged(sampled)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "--parity" in report.reason
    assert summarize("bot:latest", sampled, ShadowPolicy(), proved=True).verdict is Verdict.PASS


def test_a_source_that_fails_tells_nothing() -> None:
    pair = compare(GREEDY, AnswerSummary(500), SAME, answered_by="source")
    seen = [Row(BEGAN, "bot:latest", "/api/chat", pair)] * 100
    assert judged(seen).reason == "the source answered none of the requests"


def test_what_few_clients_use_only_must_not_fail() -> None:
    tools = GREEDY | {"tools": [{"function": {"name": "f"}}]}
    called = replace(SAME, text="", calls=(("f", "{}"),))
    good = compare(tools, called, called, answered_by="source")
    bad = compare(tools, called, replace(called, calls=(("g", "{}"),)), answered_by="source")
    seen = rows((400, SAME))
    assert judged([*seen, *[Row(BEGAN, "bot:latest", "/api/chat", good)] * 3]).verdict is Verdict.PASS
    failed = judged([*seen, *[Row(BEGAN, "bot:latest", "/api/chat", bad)] * 30])
    assert failed.verdict is Verdict.FAIL
    assert failed.reason.startswith("greedy answers: same tool calls: 0 of 30")


def test_embeddings_stand_for_texts() -> None:
    vectors = AnswerSummary(200, 3, vectors=((1.0, 0.5),))
    pair = compare({"input": "x"}, vectors, vectors, answered_by="source")
    assert judged([Row(BEGAN, "bot:latest", "/api/embed", pair)] * 400).verdict is Verdict.PASS


def test_latencies_of_both_sides() -> None:
    slow = replace(SAME, ttft_s=0.4, total_s=4.0)
    report = judged(rows((90, SAME), (10, slow)))
    found = {(t.side, t.what): (t.answers, t.p50, t.p95, t.p99) for t in report.latencies}
    assert found == {
        ("source", "total"): (100, 1.0, 1.0, 1.0),
        ("target", "total"): (100, 1.0, 4.0, 4.0),
        ("source", "first token"): (100, 0.1, 0.1, 0.1),
        ("target", "first token"): (100, 0.1, 0.4, 0.4),
    }


def test_json_keeps_everything_and_markdown_has_the_numbers() -> None:
    report = judged(rows((380, SAME), (20, replace(SAME, text="The capital of France is Lyon."))))
    assert ShadowReport.model_validate_json(report.model_dump_json()) == report
    text = to_markdown(report)
    assert "**PASS**: 400 pairs within every threshold" in text
    assert "| greedy answers equal to the end | 380/400 | 95.0 % | 92.4 to 96.7 % | - | told |" in text
    assert "| total | target | 400 | 1.000 | 1.000 | 1.000 |" in text
    assert "/api/chat: text, parts at character 25 (Ollama 200, 10+5 tokens; vLLM 200, 10+5 tokens)" in text


counts = st.integers(1, 500).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@given(counts)
def test_intervals_are_statsmodels(count: tuple[int, int]) -> None:
    same, total = count
    wilson = proportion_confint(same, total, alpha=0.05, method="wilson")
    exact = proportion_confint(same, total, alpha=0.1, method="beta")
    assert interval(same, total) == pytest.approx(wilson, abs=1e-9)
    assert one_sided(same, total) == pytest.approx([0.0 if same == 0 else exact[0], 1.0 if same == total else exact[1]])


@given(st.floats(0.01, 0.999))
def test_enough_is_enough_and_not_more(threshold: float) -> None:
    needed = enough(threshold)
    assert needed is not None
    assert one_sided(needed, needed)[0] >= threshold - 1e-9
    assert needed == 1 or one_sided(needed - 1, needed - 1)[0] < threshold + 1e-9
    assert enough(1.0) is None


def test_without_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingExtra):
        judged([])


# ---- parity on what was kept -----------------------------------------------------------------------------------------


def kept(count: int) -> list[Row]:
    pair = compare(GREEDY, SAME, SAME, answered_by="source")
    return [
        Row(BEGAN, "alias:latest", "/api/chat", pair, {"model": "alias", "messages": [dict(m) for m in c.messages]})
        for c in conversations(count, least=4)
    ]


def engines(monkeypatch: pytest.MonkeyPatch, source: ToyEngine, target: ToyEngine) -> None:
    monkeypatch.setattr(connect, "any_server", lambda url, **options: source)
    monkeypatch.setattr(vllm, "VllmEngine", lambda url, **options: target)


def test_parity_runs_on_the_requests_that_were_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, out = write_bundle(tmp_path / "bundle"), tmp_path / "proof"
    engines(monkeypatch, ToyEngine("llama.cpp"), ToyEngine())
    said: list[str] = []
    sides = Sides(bundle, "http://a", "http://b")
    report, files = prove([*kept(10), *rows((1, SAME))], sides, out, budget=8, say=said.append)
    assert report.traffic.read == 10
    assert report.traffic.used == 8
    assert (report.verdict, {f.name for f in files}) == (
        Verdict.PASS, {"report.json", "report.html", "report.md", "junit.xml"}
    )  # fmt: skip
    assert said[0] == "8 of 10 kept requests are compared"
    assert stat.S_IMODE((out / "requests.jsonl").stat().st_mode) == 0o600


def test_parity_finds_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    engines(monkeypatch, ToyEngine("llama.cpp"), ToyEngine(seed=2))
    report, _ = prove(kept(6), Sides(bundle, "http://a", "http://b"), tmp_path / "proof", budget=6)
    assert report.verdict is Verdict.FAIL


def test_parity_without_kept_requests_says_how_to_keep_them(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    with pytest.raises(UsageError, match="no request in full") as caught:
        prove(rows((5, SAME)), Sides(bundle, "http://a", "http://b"), tmp_path / "proof", budget=5)
    assert "keep_text: true" in str(caught.value.hint)
    assert not (tmp_path / "proof").exists()
