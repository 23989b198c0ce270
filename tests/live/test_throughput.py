"""Throughput against real servers: what is asserted is that the numbers hang together, never how large they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from migrate.engines import llamacpp, loadgen, vllm
from migrate.parity.throughput import Plan, Slo, aiperf, measure

pytestmark = pytest.mark.live

TOKENS, REQUESTS = 16, 6


@pytest.fixture(scope="module")
def load_generator() -> aiperf.Aiperf:
    return aiperf.find()


def test_both_sides_do_the_same_work(
    tinychat_bundle: Path,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    vllm_tinychat: vllm.VllmEngine,
    load_generator: aiperf.Aiperf,
) -> None:
    plan = Plan(
        concurrency=(1,),
        request_rate=240,
        slo=Slo(e2e_ms=60_000),
        requests=REQUESTS,
        rate_seconds=0,
        warmup=2,
        repeats=1,
        output_tokens=TOKENS,
        request_timeout=60,
        run_seconds=60,
        resamples=200,
    )
    told: list[str] = []
    cache = Path.home() / ".cache" / "aiperf"
    before = sorted(cache.rglob("*"))
    report = measure(
        tinychat_bundle,
        llamacpp_f16,
        vllm_tinychat,
        plan=plan,
        tool=load_generator,
        progress=lambda at: told.append(str(at)),
    )
    assert report.errors == []
    assert report.tool == f"aiperf {loadgen.AIPERF}"
    assert sorted(report.order) == [
        "1: source, 1 at a time", "1: source, 240 a minute", "1: target, 1 at a time", "1: target, 240 a minute",
    ]  # fmt: skip
    assert any(f"of {REQUESTS + 2} requests" in line for line in told)

    assert len(report.loads) == 4
    for load in report.loads:
        assert (load.requests, load.errors, load.cut_off, load.repeats) == (REQUESTS, 0, 0, 1)
        assert load.reported_output_tokens == TOKENS, "the length is fixed on both sides"
        assert load.output_tokens == pytest.approx(TOKENS, rel=0.1), "counted in the text, special tokens and all"
        assert load.requests_per_min == pytest.approx(60 * REQUESTS / load.seconds, rel=0.01)
        assert load.tokens_per_s == pytest.approx(load.output_tokens * REQUESTS / load.seconds, rel=0.01)
        assert load.goodput_per_min == load.requests_per_min
        assert load.ttft_ms is not None
        assert load.e2e_ms is not None
        for times in (load.ttft_ms, load.e2e_ms, load.itl_ms):
            assert times is None or 0 <= times["p50"] <= times["p95"] <= times["p99"]
        assert 0 < load.ttft_ms["p50"] <= load.e2e_ms["p50"]
    by_load = {(load.side, load.concurrency): load.input_tokens for load in report.loads}
    for concurrency in (1, None):
        assert by_load["source", concurrency] == by_load["target", concurrency], "the same prompts, token for token"

    assert {ratio.concurrency for ratio in report.ratios} == {1, None}
    e2e = {load.side: load.e2e_ms for load in report.loads if load.concurrency == 1}
    ratio = next(ratio for ratio in report.ratios if (ratio.metric, ratio.concurrency) == ("e2e_p50", 1))
    assert e2e["source"] is not None
    assert e2e["target"] is not None
    assert ratio.value == pytest.approx(e2e["source"]["p50"] / e2e["target"]["p50"], rel=0.01)
    assert 0 < ratio.low <= ratio.high
    assert report.goal is not None
    assert report.goal.measured_per_min <= 240
    assert sorted(cache.rglob("*")) == before, "prompts are not kept"
    assert any("token ids" in caveat for caveat in report.caveats)
