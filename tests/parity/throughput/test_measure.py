from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from migrate.engines.base import Conversation, Kind
from migrate.errors import EngineError, MissingExtra, NotFound, UsageError
from migrate.parity.report import ThroughputReport
from migrate.parity.throughput import Plan, Slo, measure
from migrate.parity.throughput.measure import Progress, server_of
from migrate.parity.throughput.records import Outcome, measured
from migrate.parity.throughput.workload import read_tokenizer
from tests.parity.throughput.replayed import Counter, Replay, answer, bundle

SMALL = Plan(concurrency=(1, 2), requests=4, rate_seconds=0, warmup=2, repeats=2, output_tokens=12, resamples=100)


def made(
    tmp_path: Path,
    shared: Path,
    *,
    plan: Plan = SMALL,
    tool: Replay | None = None,
    kind: Kind = "ollama",
    generation: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[ThroughputReport, Replay]:
    root = bundle(tmp_path / "bundle", shared, **(generation or {}))
    tokenizer = root / "model" / "tokenizer.json"
    tool = tool or Replay()
    source, target = Counter(tokenizer, kind), Counter(tokenizer)
    return measure(root, source, target, plan=plan, tool=tool, **more), tool  # type: ignore[arg-type]


def test_a_report(tmp_path: Path, shared: Path) -> None:
    told: list[Progress] = []
    report, tool = made(tmp_path, shared, progress=told.append)
    assert report.tool == "aiperf 0.13.0 (recorded)"
    assert (report.errors, report.goal, report.seed) == ([], None, 1)
    assert len(report.order) == len(set(report.order)) == len(tool.jobs) == 8
    assert [(load.side, load.concurrency) for load in report.loads] == [
        ("source", 1), ("target", 1), ("source", 2), ("target", 2),
    ]  # fmt: skip
    for load in report.loads:
        assert (load.requests, load.repeats, load.output_tokens, load.reported_output_tokens) == (16, 2, 12, 12)
    assert {ratio.concurrency for ratio in report.ratios} == {1, 2}
    assert all(ratio.low <= ratio.value <= ratio.high for ratio in report.ratios if ratio.metric == "tokens_per_s")
    assert report.model_validate_json(report.model_dump_json()) == report
    assert {at.run for at in told} == set(range(1, 9))
    assert str(told[0]) == f"run 1 of 8: {told[0].slot.side}, {told[0].slot.point}, 0 of {told[0].wanted} requests"


def test_both_sides_get_the_same_requests(tmp_path: Path, shared: Path) -> None:
    _, tool = made(tmp_path, shared)
    asked: dict[str, list[Any]] = {"ollama": [], "vllm": []}
    for job in sorted(tool.jobs, key=lambda job: (job.seed, str(job.point))):
        asked[job.model.removesuffix("-model")].append([body["messages"] for body in job.bodies])
        assert (job.warmup, job.requests, job.route) == (
            2,
            max(4, 4 * (job.point.concurrency or 0)),
            "chat/completions",
        )
        assert job.deadline < 600
    assert asked["ollama"] == asked["vllm"]
    flat = [str(messages) for run in asked["vllm"] for messages in run]
    assert len(set(flat)) == len(flat), "no prompt twice, or a cache would answer"


def test_a_rate_and_its_goal(tmp_path: Path, shared: Path) -> None:
    plan = SMALL.model_copy(update={"request_rate": 600.0, "slo": Slo(e2e_ms=5000)})
    report, _ = made(tmp_path, shared, plan=plan)
    assert report.goal is not None
    assert report.goal.slo == "e2e=5000ms"
    assert {load.request_rate for load in report.loads} == {None, 600.0}


def test_a_server_that_dies(tmp_path: Path, shared: Path) -> None:
    report, tool = made(tmp_path, shared, tool=Replay(dies_at=3))
    assert len(tool.jobs) == len(report.order) == 4
    assert "8 of 8 requests failed, the first with: ConnectionRefusedError" in report.errors[0]
    assert report.errors[1].endswith("no request was answered, so nothing more was measured")
    assert report.errors[2] == "4 of 8 runs were not made"
    assert sum(load.requests for load in report.loads) == 24, "what was measured stays"
    assert sum(load.errors for load in report.loads) == 8


def test_a_load_generator_that_breaks(tmp_path: Path, shared: Path) -> None:
    report, _ = made(tmp_path, shared, tool=Replay(breaks_at=2))
    assert report.errors[0].endswith("the load generator broke")
    assert len(report.order) == 2


def test_time_is_bounded(tmp_path: Path, shared: Path) -> None:
    report, tool = made(tmp_path, shared, plan=SMALL.model_copy(update={"total_seconds": 1e-9}))
    assert (tool.jobs, report.loads, report.ratios) == ([], [], [])
    assert report.errors == ["the time of 1e-09 s was over", "8 of 8 runs were not made"]


def test_conversations_of_the_user(tmp_path: Path, shared: Path) -> None:
    asked = Conversation("a", ({"role": "user", "content": "Where is my parcel?"},))
    begun = Conversation("b", (*asked.messages, {"role": "assistant", "content": "It is"}))
    report, tool = made(tmp_path, shared, conversations=[asked, begun])
    assert {str(body["messages"]) for job in tool.jobs for body in job.bodies} == {str(list(asked.messages))}
    assert "1 conversations were left out: they end with a begun answer" in report.caveats
    with pytest.raises(UsageError, match="none of the conversations"):
        made(tmp_path / "none", shared, conversations=[begun])


def test_the_bundle_limits_the_answers(tmp_path: Path, shared: Path) -> None:
    plan = SMALL.model_copy(update={"output_tokens": 100})
    report, tool = made(tmp_path, shared, plan=plan, generation={"max_new_tokens": 12})
    assert {body["max_tokens"] for job in tool.jobs for body in job.bodies} == {12}
    assert "answers of 12 tokens instead of 100: the bundle allows no more" in report.caveats


def test_what_is_said_of_ollama(tmp_path: Path, shared: Path) -> None:
    report, tool = made(tmp_path, shared)
    assert any("ignore_eos" in caveat for caveat in report.caveats)
    assert any("OLLAMA_NUM_PARALLEL" in caveat for caveat in report.caveats)
    assert not any("ignore_eos" in body for job in tool.jobs for body in job.bodies)
    assert any("99th percentile of 16 requests" in caveat for caveat in report.caveats)
    assert any("fewer than three runs" in caveat for caveat in report.caveats)
    assert any("the same machine" in caveat for caveat in report.caveats)


def test_answers_in_one_piece_are_told(tmp_path: Path, shared: Path) -> None:
    report, _ = made(tmp_path, shared)
    assert any("in one piece: 12 of 32 from the source;" in caveat for caveat in report.caveats)


def test_a_key_goes_only_to_vllm(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    report, tool = made(tmp_path, shared)
    assert {(job.model, job.api_key) for job in tool.jobs} == {("vllm-model", "secret"), ("ollama-model", None)}
    assert "secret" not in report.model_dump_json()


def test_a_source_that_is_gone(tmp_path: Path, shared: Path) -> None:
    with pytest.raises(EngineError, match="does not answer"):
        made(tmp_path, shared, kind="llama.cpp")


def test_without_scipy(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="scipy"):
        made(tmp_path, shared)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        measure(tmp_path, None, None)  # type: ignore[arg-type]


def test_an_embedding_model(tmp_path: Path, shared: Path) -> None:
    root = bundle(tmp_path / "b", shared)
    (root / "serve.yaml").write_text("runner: pooling\n")
    with pytest.raises(UsageError, match="serves embeddings"):
        measure(root, None, None)  # type: ignore[arg-type]


def test_server_of_an_ollama(shared: Path) -> None:
    engine = Counter(shared / "models" / "tinychat" / "hf" / "tokenizer.json", "ollama")
    server = server_of(engine)  # type: ignore[arg-type]
    assert (server.kind, server.model, server.is_local, server.api_key) == ("ollama", "ollama-model", True, None)


def test_tokens_are_counted_by_the_bundle(tmp_path: Path, shared: Path) -> None:
    tokenizer = read_tokenizer(bundle(tmp_path / "b", shared) / "model")
    shown = answer(text="The capital of Peru is Lima.<|im_end|>", reported_tokens=99)
    unknown = answer(text=None, reported_tokens=5)
    nothing = answer(text=None)
    broken = answer(error="boom")
    late = answer(cut_off=True)
    result = measured(Outcome((shown, unknown, nothing, broken, late)), tokenizer)
    assert [request.output_tokens for request in result.requests] == [8, 5, 0]
    assert (result.offered, result.errors, result.cut_off, result.first_error) == (5, 1, 1, "boom")
