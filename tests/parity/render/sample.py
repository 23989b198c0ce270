"""Reports as real runs make them: one that passes, one that fails, one cut short, an embedding model, a hostile one.

The numbers are made up, but of the size that was measured; every call gives the same report.
"""

from __future__ import annotations

import math
import random

from migrate.parity.report import (
    Check,
    ClientVerdict,
    Curve,
    Difference,
    Evidence,
    Example,
    Goal,
    LayerName,
    LayerReport,
    Load,
    ParityReport,
    Percentiles,
    Ratio,
    SamplePlan,
    ThroughputReport,
    Traffic,
    Verdict,
)

DIGESTS = {
    "model": "sha256:5f1f1c2f3c0b8bb3d6b2e6f1e36bd0b5f7a4e7c1b18a3c6f6c7d8b49d2e5a901",
    "template": "sha256:a85f3a1c77a1f9e5d5c3a64e2c2b6a1f4ad1df0d8b5b8a1f2c8d3e4f5a6b7c80",
    "params": "sha256:0f6c1d2e3b4a5968778695a4b3c2d1e0f0e1d2c3b4a5968778695a4b3c2d1e0f",
}
SETTINGS: dict[str, float | int | str | bool] = {
    "max_tokens": 256,
    "top": 20,
    "min_top1_agreement": 0.95,
    "max_mean_kl": 0.005,
    "tie_margin": 0.3,
    "confidence": 0.95,
    "concurrency": 4,
    "seed": 1,
    "margin": 0.02,
    "alpha": 0.05,
    "power": 0.8,
}


def passing() -> ParityReport:
    """A 7B model, its users' traffic, a throughput run."""
    return ParityReport(
        generator="ollama-to-vllm 0.6.0",
        created="2026-11-25T14:03:11+00:00",
        model="support-bot:latest",
        digests=DIGESTS,
        source="Ollama 0.33.0 at http://127.0.0.1:11434",
        target="vLLM 0.32.0 at http://127.0.0.1:8000",
        reference="vLLM 0.32.0 at http://127.0.0.1:8001, Qwen/Qwen2.5-7B-Instruct in bfloat16",
        battery="sha256:9b74c9897bac770ffc029102a200c5de",
        conversations=412,
        traffic=Traffic(
            origin="requests.jsonl, recorded with `migrate parity record`",
            read=5210,
            duplicates=1874,
            unusable=63,
            used=412,
            redacted=True,
            seed=7,
            notes=[
                "51 requests with images were left out: images do not move",
                "12 requests with `raw` were left out: they bypass the template",
                "redacted: 214 e-mail addresses, 87 phone numbers, 12 IBANs, 3 API keys",
            ],
        ),
        settings=SETTINGS,
        verdict=Verdict.PASS,
        reason="401 of 412 answers are the same, 11 part at a near tie; tasks are no worse than the margin",
        next_step="cut over as MIGRATION.md says",
        layers=[*_first_layers(), *_later_layers()],
        plan=[
            SamplePlan(
                items=1600,
                margin=0.02,
                alpha=0.05,
                power=0.8,
                discordance=0.1,
                needed=1546,
                achieved_power=0.812,
            )
        ],
        clients=[
            ClientVerdict(
                client="native",
                holds=True,
                statement="The bundle carries the Modelfile's defaults (temperature 0.2, top_p 0.9), which is what "
                "/api/chat used.",
                changes=[
                    "the URL and the API: /api/chat becomes /v1/chat/completions (4,871 of 5,210 requests)",
                    "`options.num_predict` becomes `max_completion_tokens` (1,204 of 5,210 requests)",
                    "`format` with a JSON schema becomes `response_format` (312 of 5,210 requests)",
                    "`keep_alive` has no meaning any more and can go (88 of 5,210 requests)",
                ],
            ),
            ClientVerdict(
                client="openai",
                holds=False,
                statement="On Ollama these clients got temperature 1.0 and top_p 1.0 when they sent none; the bundle "
                "gives them 0.2 and 0.9.",
                changes=["send `temperature` and `top_p`, or convert again with --client openai"],
            ),
        ],
        evidence=Evidence(
            logprob_pairs=_pairs(420, 0.035), survival=_curves((0.0011, 412), (0.0004, 48)), examples=_ties()
        ),
        throughput=throughput(),
    )


def _first_layers() -> list[LayerReport]:
    return [
        LayerReport(
            name=LayerName.ARTEFACT,
            status="pass",
            summary="all 11 files are those of migration.json",
            compared=11,
            agreed=11,
            notes=["2 large files were compared by size only, after 60 s of hashing"],
            seconds=60.412,
        ),
        LayerReport(
            name=LayerName.PROMPT,
            status="pass",
            summary="all 398 prompts are the same text, 14 differ as meant",
            compared=398,
            agreed=398,
            notes=[
                "«prefilled answer»: clients that begin the answer themselves have to send "
                "continue_final_message=true and add_generation_prompt=false"
            ],
            deviations=[
                "Ollama since 0.14 prints {{ .Function }} as a Go struct where the template means JSON; the bundle "
                "prints JSON (14 conversations)"
            ],
            seconds=7.91,
        ),
        LayerReport(
            name=LayerName.TOKENS,
            status="pass",
            summary="the same numbers of tokens for all 398 prompts",
            compared=398,
            agreed=398,
            notes=["Ollama tells how many tokens a prompt has, not which: only the number is compared"],
            seconds=3.2,
        ),
        LayerReport(
            name=LayerName.NOISE,
            status="pass",
            summary="asked twice, the source gives 8 of 8 answers word for word again, the target 7 of 8; mean KL "
            "0 and 4.1e-05 nats",
            compared=8,
            agreed=7,
            metrics={
                "source_mean_kl": 0.0,
                "target_mean_kl": 4.1e-05,
                "source_identical": 8,
                "source_asked_twice": 8,
                "target_identical": 7,
                "target_asked_twice": 8,
                "concurrency": 4,
            },
            thresholds={"max_mean_kl": 0.005},
            notes=["«Refund for order 1182» is answered in two ways by the target"],
            seconds=41.7,
        ),
        LayerReport(
            name=LayerName.LOGPROBS,
            status="pass",
            summary="top-1 agreement 99.4%, mean KL 8.6e-05 nats over 38,211 positions",
            compared=398,
            agreed=398,
            metrics={
                "positions": 38211,
                "top1_agreement": 0.99382,
                "mean_kl": 8.6e-05,
                "mean_kl_se": 3.1e-06,
                "mean_kl_upper": 9.11e-05,
                "p95_kl": 0.00041,
                "max_kl": 0.0312,
                "rms_probability_difference": 0.0043,
                "mean_delta": 0.0121,
                "max_delta": 0.412,
            },
            thresholds={"min_top1_agreement": 0.95, "max_mean_kl": 0.005041},
            seconds=212.8,
        ),
    ]


def _later_layers() -> list[LayerReport]:
    return [
        LayerReport(
            name=LayerName.TEXT,
            status="pass",
            summary="401 of 412 answers are the same, 11 part at a near tie",
            compared=412,
            agreed=401,
            metrics={"near_ties": 11, "parted": 11, "contained_where_parted": 11},
            thresholds={"tie_margin": 0.3},
            notes=[
                "«Where is my parcel?» parts at token 31, a near tie (0.023 nats): source ' will' [' will' -0.671, "
                "' should' -0.694]; target ' should' [' should' -0.668, ' will' -0.691]"
            ],
            seconds=377.0,
        ),
        LayerReport(
            name=LayerName.SAMPLED,
            status="pass",
            summary="16 answers each to 8 conversations: no difference of the distributions can be told (p 0.41)",
            compared=8,
            agreed=8,
            metrics={"p": 0.41, "samples": 16},
            thresholds={"alpha": 0.05},
            seconds=96.1,
        ),
        LayerReport(
            name=LayerName.BEHAVIOURS,
            status="pass",
            summary="6 behaviours are as clients know them",
            compared=6,
            agreed=6,
            checks=[
                Check(name="max tokens", result="same", detail="both end after 8 tokens with finish reason length"),
                Check(name="stop strings of the model", result="same", detail="'<|im_end|>' ends the answer"),
                Check(name="JSON schema", result="same", detail="an object of the schema on both sides"),
                Check(name="tool calls", result="same", detail="get_weather with the same arguments"),
                Check(name="streaming", result="same", detail="the pieces are the answer"),
                Check(name="reasoning", result="unknown", detail="this model does not reason"),
                Check(name="context overflow", result="told", detail="vLLM answers 400; Ollama drops old messages"),
            ],
            notes=["could not be decided with this model and these servers: reasoning"],
            seconds=18.4,
        ),
        LayerReport(
            name=LayerName.TASKS,
            status="pass",
            summary="1141 and 1138 of 1600 right: -0.2% (-1.1% to +0.7%), no worse than by the margin of 2.0%",
            compared=1600,
            agreed=1484,
            metrics={
                "source_accuracy": 0.7131,
                "target_accuracy": 0.7113,
                "difference": -0.0018,
                "difference_low": -0.011,
                "difference_high": 0.0074,
                "lost": 59,
                "gained": 57,
                "p_worse": 0.46,
            },
            thresholds={"margin": 0.02, "alpha": 0.05},
            seconds=1630.0,
        ),
    ]


def failing() -> ParityReport:
    """The template lost a line break; --keep-going shows what follows from it."""
    report = passing()
    report.verdict = Verdict.FAIL
    report.reason = "prompt: 12 of 14 prompts differ; the first: '\\n<|im_start|>' became '<|im_start|>'"
    report.next_step = "compare model/chat_template.jinja with the TEMPLATE of the source where the prompts part"
    report.reference = ""
    report.traffic = Traffic(used=14)
    report.conversations = 14
    prompt, tokens = report.layer("prompt"), report.layer("tokens")
    for layer in report.layers:
        layer.compared, layer.agreed = min(layer.compared, 14), min(layer.agreed, 14)
    prompt.status, prompt.agreed, prompt.notes, prompt.deviations = "fail", 2, [], []
    prompt.summary = "12 of 14 prompts differ; the first: '\\n<|im_start|>' became '<|im_start|>'"
    prompt.differences = [
        Difference(
            conversation=name,
            reason="'\\n<|im_start|>' became '<|im_start|>'",
            position=at,
            source=f"…{'e support assistant.<|im_end|>'!r}"[:-1] + f"\\n<|im_start|>user\\n{name}'…",
            target=f"…{'e support assistant.<|im_end|>'!r}"[:-1] + f"<|im_start|>user\\n{name}'…",
        )
        for name, at in (("one question", 58), ("a fact", 58), ("several turns", 91), ("Grüße, 日本語 🎉", 58))
    ]
    tokens.status, tokens.agreed, tokens.notes = "fail", 2, []
    tokens.summary = "12 of 14 prompts differ; the first: token 14 is '\\n' and became '<|im_start|>'"
    tokens.differences = [
        Difference(
            conversation="one question",
            reason="token 14 is '\\n' and became '<|im_start|>'",
            position=14,
            source="…'.':13 '<|im_end|>':733 '\\n':198 '<|im_start|>':732 'user':882 '\\n':198",
            target="…'.':13 '<|im_end|>':733 '<|im_start|>':732 'user':882 '\\n':198 'What':3838",
        )
    ]
    logprobs, text = report.layer("logprobs"), report.layer("text")
    logprobs.status, logprobs.agreed = "fail", 13
    logprobs.summary = (
        "top-1 agreement 91.2%, mean KL 0.082 nats over 1,812 positions: agreement is below 95%; KL is above 0.00504"
    )
    logprobs.metrics |= {
        "positions": 1812,
        "top1_agreement": 0.912,
        "mean_kl": 0.082,
        "mean_kl_upper": 0.094,
        "max_kl": 4.2,
    }
    logprobs.differences = [
        Difference(
            conversation="several turns",
            reason="the target does not have the other's choice among its 20 most likely tokens",
            position=3,
            source="' Ada' -0.412, ' Anna' -2.310, ' you' -3.002",
            target="'<|im_end|>' -0.020, '.' -4.511, '!' -5.203",
        )
    ]
    text.status, text.agreed, text.notes = "fail", 5, []
    text.metrics = {"near_ties": 0, "parted": 9, "contained_where_parted": 3}
    text.summary = "9 of 14 answers differ; the first: the answers part where the choices are 1.904 nats apart"
    text.differences = [
        Difference(
            conversation="several turns",
            reason="the answers part where the choices are 1.904 nats apart",
            position=3,
            source="' Ada. You told me' [' Ada' -0.412, ' Anna' -2.310]",
            target="'<|im_end|>' ['<|im_end|>' -0.020, '.' -4.511]",
        )
    ]
    for name in (LayerName.SAMPLED, LayerName.BEHAVIOURS, LayerName.TASKS):
        index = report.layers.index(report.layer(name))
        report.layers[index] = LayerReport(name=name, status="skipped", summary="not run: the prompt layer settles it")
    report.plan = [report.plan[0].model_copy(update={"items": 412, "achieved_power": 0.336})]
    report.clients = []
    report.evidence = Evidence(
        logprob_pairs=_pairs(300, 0.9), survival=_curves((0.012, 14), (0.0004, 8)), examples=_parted()
    )
    report.throughput = None
    return report


def partial() -> ParityReport:
    """The target died while log-probabilities were compared; its throughput run saw errors."""
    report = passing()
    report.verdict = Verdict.INCONCLUSIVE
    report.reason = "logprobs: vLLM ended on signal 9 (out of memory?) while it was asked"
    report.next_step = "repair that and run parity again"
    report.reference = ""
    report.layers = [
        *_first_layers()[:4],
        LayerReport(
            name=LayerName.LOGPROBS,
            status="inconclusive",
            summary="vLLM ended on signal 9 (out of memory?) while it was asked",
            seconds=18.2,
        ),
        LayerReport(name=LayerName.TEXT, status="skipped", summary="not run: the logprobs layer settles it"),
    ]
    report.clients, report.plan, report.evidence = report.clients[:1], [], Evidence()
    report.throughput = throughput()
    loads = [load for load in report.throughput.loads if (load.concurrency or 99) <= 4]
    loads[-1] = loads[-1].model_copy(update={"errors": 117, "requests": 3, "ttft_ms": None, "goodput_per_min": 0.0})
    report.throughput.loads, report.throughput.ratios = loads, report.throughput.ratios[:2]
    report.throughput.goal = Goal(
        requests_per_min=500,
        slo="ttft=500ms,itl=50ms",
        reached=False,
        measured_per_min=88.2,
        statement="500 requests/min: not reached; 88.2 a minute met ttft=500ms,itl=50ms before the target died.",
    )
    report.throughput.caveats = []
    report.throughput.errors = ["target, 4 at a time: the server was gone after 3 answers"]
    loads[-1].cut_off, loads[-1].reported_output_tokens = 4, 190.2
    report.hiccups = ["target, /tokenize: 503 Service Unavailable, answered when asked again"]
    return report


def embedding() -> ParityReport:
    """An embedding model: no answers, nothing of throughput."""
    return ParityReport(
        generator="ollama-to-vllm 0.6.0",
        created="2026-11-25T15:40:02+00:00",
        model="nomic-embed-text:v1.5",
        digests={"model": DIGESTS["model"]},
        source="Ollama 0.33.0 at http://127.0.0.1:11434",
        target="vLLM 0.32.0 at http://127.0.0.1:8000",
        battery="sha256:1f40fc92da241694750979ee6cf582f2",
        conversations=24,
        settings={"min_cosine": 0.999, "concurrency": 1},
        verdict=Verdict.PASS,
        reason="all 24 vectors are the same (smallest cosine 0.99994)",
        next_step="cut over as MIGRATION.md says",
        layers=[
            LayerReport(
                name=LayerName.ARTEFACT,
                status="pass",
                summary="all 8 files are those of migration.json",
                compared=8,
                agreed=8,
                seconds=0.8,
            ),
            LayerReport(
                name=LayerName.EMBEDDINGS,
                status="pass",
                summary="all 24 vectors are the same (smallest cosine 0.99994)",
                compared=24,
                agreed=24,
                metrics={"min_cosine": 0.99994, "mean_cosine": 0.999991, "dimensions": 768},
                thresholds={"min_cosine": 0.999},
                seconds=2.1,
            ),
        ],
    )


HOSTILE = (
    "<script>alert('x')</script><img src=http://evil.test/x onerror=alert(1)>\x1b[2J\u202egnp.exe\u2066 | `x` @team"
)
HUGE = 10 << 20


def hostile() -> ParityReport:
    """Whatever a model may say, wherever it may stand."""
    report = passing()
    deep = "e" + "\u0301" * 500
    for name in ("model", "source", "target", "reference", "reason", "next_step", "battery", "generator", "created"):
        setattr(report, name, f"{HOSTILE} {name}")
    report.reason += "A" * HUGE
    report.digests = {HOSTILE: HOSTILE}
    report.settings = {HOSTILE: HOSTILE, "nan": math.nan}
    report.traffic.origin, report.traffic.notes = HOSTILE, [HOSTILE] * 10_000
    text = report.layer("text")
    text.summary, text.notes, text.deviations = HOSTILE + "B" * HUGE, [HOSTILE] * 10_000, [HOSTILE]
    text.checks = [Check(name=HOSTILE, result="unknown", detail=HOSTILE + "E" * HUGE)] * 2
    text.metrics = {HOSTILE: math.inf, "nan": math.nan}
    text.thresholds = {f"max_{HOSTILE}": math.nan}
    text.status = "fail"
    text.differences = [
        Difference(conversation=HOSTILE, reason=HOSTILE, position=10**18, source="C" * HUGE, target="C" * HUGE + "D"),
        Difference(conversation="\ud800", reason="\udfff\x00\uffff", source="\ufffe", target=deep),
    ] * 30
    report.evidence.examples = [
        Example(conversation=HOSTILE, layer=LayerName.TEXT, reason=HOSTILE, at=9_000_000, source=s, target=t)
        for s, t in (
            ("x" * HUGE, "x" * 9_000_000 + HOSTILE),
            (HOSTILE, HOSTILE + "\u202e"),
            ("", HOSTILE),
            (deep, "é"),
        )
    ] * 10
    report.evidence.logprob_pairs += [(math.nan, -1.0), (-math.inf, -2.0), (1e308, -1e308)]
    report.evidence.survival = [
        Curve(label=f"$\\frac{{{HOSTILE}", tokens=[5, -1, 3], share=[math.nan, 2.0], answers=-1, censored=0)
    ]
    assert report.throughput is not None
    report.throughput.workload = report.throughput.tool = HOSTILE
    report.throughput.order = [HOSTILE] * 10_000
    report.throughput.ratios[0].metric = f"$\\frac{{{HOSTILE}"
    report.throughput.ratios[1].value = math.nan
    report.throughput.loads[0].ttft_ms = {"p50": math.nan, "p95": math.inf}
    report.throughput.caveats = [HOSTILE]
    report.clients[0].statement, report.clients[0].changes = HOSTILE, [HOSTILE] * 1000
    return report


def throughput() -> ThroughputReport:
    """A source that answers four at a time, a target that batches; the source wins alone."""
    loads, ratios, rng = [], [], random.Random(4)
    for concurrency in (1, 2, 4, 8, 16, 32):
        source = _load("source", concurrency, 3.1 / min(concurrency, 4) ** 0.25, min(concurrency, 4) ** 0.75, rng)
        target = _load("target", concurrency, 3.4 * (1 + concurrency / 60), concurrency, rng)
        loads += [source, target]
        ratios += _ratios(source, target, concurrency)
    open_loop = _load("target", 12, 4.0, 12, rng)
    loads.append(
        open_loop.model_copy(
            update={
                "concurrency": None,
                "request_rate": 500.0,
                "requests_per_min": 503.4,
                "goodput_per_min": 503.4,
                "tokens_per_s": 1602.5,
            }
        )
    )
    return ThroughputReport(
        tool="aiperf 0.7.0",
        workload="412 recorded conversations, 611 tokens in on average, at most 256 out, ignore_eos where both can",
        order=[f"{load.side}, {load.concurrency or 'open loop'}" for load in rng.sample(loads, len(loads))],
        seed=4,
        loads=loads,
        ratios=ratios,
        goal=Goal(
            requests_per_min=500,
            slo="ttft=500ms,itl=50ms",
            reached=True,
            measured_per_min=503.4,
            statement="500 requests/min: reached, at 611 tokens in and 187 out, with p95 inside ttft=500ms,itl=50ms.",
        ),
        caveats=[
            "Ollama has no ignore_eos: its answers have 187 tokens on average, the target's 191; rates of tokens are "
            "comparable, rates of requests nearly",
            "at one request at a time the target is slower by a tenth",
        ],
        seconds=1284.0,
    )


def _load(side: str, concurrency: int, seconds: float, width: float, rng: random.Random) -> Load:
    queue = concurrency / width
    base = seconds * queue * 1000
    wobble = rng.uniform(0.97, 1.03)
    rate = 60 * width / seconds * wobble
    out = 187.0 if side == "source" else 191.0

    def spread(value: float, tail: float) -> Percentiles:
        return {"p50": value, "p95": value * tail, "p99": value * tail * 1.35}

    return Load.model_validate(
        {
            "side": side,
            "concurrency": concurrency,
            "repeats": 3,
            "requests": 40 * concurrency + 80,
            "errors": 2 if side == "source" and concurrency == 32 else 0,
            "seconds": (40 * concurrency + 80) / rate * 60,
            "input_tokens": 611.3,
            "output_tokens": out,
            "ttft_ms": spread(62 * wobble + (queue - 1) * seconds * 1000, 1.6 + 0.02 * concurrency),
            "itl_ms": spread(seconds * 1000 / out, 1.25),
            "e2e_ms": spread(base * wobble, 1.4),
            "tokens_per_s": rate / 60 * out,
            "requests_per_min": rate,
            "goodput_per_min": rate if queue < 1.5 else rate * 0.31,
            "gpu_utilization": min(97.0, 18.0 + 9 * width),
            "gpu_memory_gb": 8.1 if side == "source" else 41.3,
        }
    )


def _ratios(source: Load, target: Load, concurrency: int) -> list[Ratio]:
    def ratio(metric: str, value: float, width: float) -> Ratio:
        return Ratio(
            metric=metric, concurrency=concurrency, value=value, low=value / (1 + width), high=value * (1 + width)
        )

    assert source.ttft_ms
    assert target.ttft_ms
    assert source.e2e_ms
    assert target.e2e_ms
    return [
        ratio("requests_per_min", target.requests_per_min / source.requests_per_min, 0.06),
        ratio("tokens_per_s", target.tokens_per_s / source.tokens_per_s, 0.05),
        ratio("ttft_p50", source.ttft_ms["p50"] / target.ttft_ms["p50"], 0.12),
        ratio("e2e_p95", source.e2e_ms["p95"] / target.e2e_ms["p95"], 0.09),
    ]


def _pairs(count: int, spread: float) -> list[tuple[float, float]]:
    rng = random.Random(3)
    found = []
    for _ in range(count):
        source = -rng.expovariate(1.6)
        found.append((round(source, 4), round(min(0.0, source + rng.gauss(0, spread * (0.2 - source))), 4)))
    return found


def _curves(*rates: tuple[float, int]) -> list[Curve]:
    rng = random.Random(5)
    labels = ("target against source", "target against itself")
    found = []
    for label, (rate, answers) in zip(labels, rates, strict=False):
        ends = sorted(min(256, int(rng.expovariate(rate))) for _ in range(answers))
        parted = [end for end in ends if end < 256]
        tokens = sorted({0, *parted, 256})
        share = [sum(end > at or end == 256 for end in ends) / answers for at in tokens]
        share[0] = 1.0 if not parted or parted[0] else share[0]
        found.append(Curve(label=label, tokens=tokens, share=share, answers=answers, censored=answers - len(parted)))
    return found


def _example(name: str, reason: str, source: str, target: str) -> Example:
    at = next(
        (i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a != b), min(len(source), len(target))
    )
    return Example(conversation=name, layer=LayerName.TEXT, reason=reason, at=at, source=source, target=target)


def _ties() -> list[Example]:
    return [
        _example(
            "Where is my parcel?",
            "a near tie",
            "Your parcel left our warehouse on Monday. You will receive it by Thursday.\n\nIs there anything else I "
            "can help you with?",
            "Your parcel left our warehouse on Monday. You should have it by Thursday.\n\nIs there anything else?",
        ),
        _example(
            "Liste der Öffnungszeiten",
            "a near tie",
            "Wir haben geöffnet:\n\n- Montag bis Freitag: 9–18 Uhr\n- Samstag: 10–14 Uhr\n",
            "Wir haben geöffnet:\n- Montag bis Freitag: 9–18 Uhr\n- Samstag: 10–14 Uhr\n",
        ),
        _example(
            "هل يمكنني إرجاع الطلب؟",
            "a near tie",
            "نعم، يمكنك إرجاعه خلال ثلاثين يومًا.",
            "نعم، يمكنك إرجاعه خلال 30 يومًا.",
        ),
    ]


def _parted() -> list[Example]:
    return [
        _example(
            "several turns",
            "the answers part where the choices are 1.904 nats apart",
            "Your name is Ada. You told me at the beginning, and you have two cats.",
            "Your name is",
        ),
        _example(
            "code, please",
            "the texts differ",
            "def area(radius: float) -> float:\n    return 3.14159 * radius ** 2\n",
            "def area(radius: float) -> float:\n\treturn 3.14159 * radius ** 2\n",
        ),
        _example(
            "an accent", "the texts differ", "Café au lait, s’il vous plaît.", "Cafe\u0301 au lait, s’il vous plaît."
        ),
    ]
