"""What a parity run found: the data of report.json."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_DIFFERENCES = 50


class Verdict(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


EXIT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}


class LayerName(StrEnum):
    """Cheapest first; each explains differences in the later ones."""

    ARTEFACT = "artefact"
    PROMPT = "prompt"
    TOKENS = "tokens"
    NOISE = "noise"
    EMBEDDINGS = "embeddings"
    LOGPROBS = "logprobs"
    TEXT = "text"
    SAMPLED = "sampled"
    BEHAVIOURS = "behaviours"
    TASKS = "tasks"


Status = Literal["pass", "fail", "inconclusive", "skipped"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Difference(_Model):
    """One place where the two sides differ. `position` counts characters (prompt) or tokens (the other layers)."""

    conversation: str
    reason: str
    position: int | None = None
    source: str = ""
    target: str = ""


class Check(_Model):
    """One named check of a layer. `told`: a documented difference; `unknown`: could not be decided here."""

    name: str
    result: Literal["same", "different", "told", "unknown"]
    detail: str


class LayerReport(_Model):
    """One check over all conversations. `metrics` are the measured numbers, `thresholds` what they were held to."""

    name: LayerName
    status: Status
    summary: str
    compared: int = Field(default=0, description="conversations that were compared")
    agreed: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    thresholds: dict[str, float] = Field(default_factory=dict)
    differences: list[Difference] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    deviations: list[str] = Field(
        default_factory=list, description="known deviations of an Ollama version: shown, never a failure"
    )
    seconds: float = 0.0


class Example(_Model):
    """Two answers side by side; `source[at:]` and `target[at:]` begin with the first difference (characters)."""

    conversation: str
    layer: LayerName
    reason: str
    at: int
    source: str
    target: str


class Curve(_Model):
    """Share of answers (0..1) that still agree after so many tokens; `censored` answers ended without parting."""

    label: str
    tokens: list[int]
    share: list[float]
    answers: int
    censored: int


class Evidence(_Model):
    """What the charts are drawn from. `logprob_pairs` are (source, target) natural logarithms."""

    logprob_pairs: list[tuple[float, float]] = Field(default_factory=list)
    survival: list[Curve] = Field(default_factory=list)
    examples: list[Example] = Field(default_factory=list)


class SamplePlan(_Model):
    """How many items a decision about a rate needs, fixed before the answers are looked at (`statistics`)."""

    items: int
    margin: float = Field(description="the largest loss, as a share of all items, that still counts as no worse")
    alpha: float = Field(description="one-sided")
    power: float = Field(description="wanted")
    discordance: float = Field(description="assumed share of items on which the two sides differ")
    needed: int = Field(description="items for `power`")
    achieved_power: float = Field(description="with `items`")


class Traffic(_Model):
    """Where the conversations came from."""

    origin: str = "built-in battery"
    read: int = 0
    duplicates: int = 0
    unusable: int = 0
    used: int = 0
    redacted: bool = False
    seed: int | None = None
    notes: list[str] = Field(default_factory=list)


class ClientVerdict(_Model):
    """For one kind of client: whether the result holds, and what its code must change."""

    client: Literal["native", "openai"]
    holds: bool
    statement: str
    changes: list[str] = Field(default_factory=list)


Percentiles = dict[Literal["p50", "p95", "p99"], float]


class Load(_Model):
    """One side under one load, all repeats together. Times in milliseconds; `None` where nothing was measured."""

    side: Literal["source", "target"]
    concurrency: int | None = Field(default=None, description="closed loop: so many requests at a time")
    request_rate: float | None = Field(default=None, description="open loop: so many requests a minute")
    repeats: int
    requests: int = Field(description="answered, warm-up left out")
    errors: int
    cut_off: int = Field(default=0, description="still under way when a run's time was over")
    seconds: float
    input_tokens: float = Field(description="mean per request")
    output_tokens: float = Field(description="mean per request, counted by one tokenizer for both sides")
    reported_output_tokens: float | None = Field(default=None, description="mean per request, as the server counts")
    ttft_ms: Percentiles | None = None
    itl_ms: Percentiles | None = None
    e2e_ms: Percentiles | None = None
    tokens_per_s: float
    requests_per_min: float
    goodput_per_min: float | None = Field(default=None, description="requests a minute that met the SLO")
    gpu_utilization: float | None = Field(default=None, description="percent, mean")
    gpu_memory_gb: float | None = Field(default=None, description="peak")


class Ratio(_Model):
    """Target divided by source with a bootstrap interval; above 1 is better for the target in every metric."""

    metric: str
    concurrency: int | None = None
    request_rate: float | None = None
    value: float
    low: float
    high: float
    confidence: float = 0.95


class Goal(_Model):
    """ "500 requests a minute": reached or not, at this length and service level."""

    requests_per_min: float
    slo: str
    reached: bool
    measured_per_min: float
    statement: str


class ThroughputReport(_Model):
    """The same workload on both sides, one at a time."""

    tool: str = Field(description="load generator and version")
    workload: str = Field(description="in words: prompts, lengths, limits, arrivals")
    order: list[str] = Field(description="the randomised order in which the runs were made")
    seed: int
    loads: list[Load]
    ratios: list[Ratio] = Field(default_factory=list)
    goal: Goal | None = None
    caveats: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list, description="what went wrong; the rest was measured all the same")
    seconds: float = 0.0


class ParityReport(_Model):
    """The whole of report.json. `created` is UTC in ISO 8601."""

    schema_version: Literal[2] = 2
    generator: str
    created: str
    model: str
    digests: dict[str, str] = Field(default_factory=dict)
    source: str
    target: str
    reference: str = ""
    battery: str = Field(description="digest of the conversations")
    conversations: int
    traffic: Traffic = Field(default_factory=Traffic)
    settings: dict[str, float | int | str | bool] = Field(default_factory=dict)
    hiccups: list[str] = Field(default_factory=list, description="failures of a server that a repetition mended")
    complete: bool = Field(default=True, description="false: a server could not be asked to the end")
    verdict: Verdict
    reason: str
    next_step: str
    layers: list[LayerReport]
    plan: list[SamplePlan] = Field(default_factory=list)
    clients: list[ClientVerdict] = Field(default_factory=list)
    evidence: Evidence = Field(default_factory=Evidence)
    throughput: ThroughputReport | None = None

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 inconclusive."""
        return EXIT_CODES[self.verdict]

    def layer(self, name: LayerName | str) -> LayerReport:
        return next(layer for layer in self.layers if layer.name == name)
