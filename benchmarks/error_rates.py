"""How often the gate is wrong: false alarms and missed damage, by simulation. Prints the tables of docs/proof.md.

    python benchmarks/error_rates.py [--quick]

Tasks and sampled answers are drawn from known distributions and put through the decisions of `migrate.parity`. For the
whole gate the toy model of the tests stands in for both servers: a small language model with a random distribution per
context, whose logits one side moves by Gaussian noise. Seeds are fixed; two runs print the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from migrate.parity.case import Settings
from migrate.parity.report import LayerName
from migrate.parity.run import run
from migrate.parity.statistics import tango_interval, two_samples
from tests.parity.toy import ToyEngine, conversations, write_bundle

MARGIN = 0.02
ALPHA = 0.05
DRAWS = 10_000


@cache
def decide(lost: int, gained: int, items: int) -> str:
    """As `tasks.check` does."""
    from scipy.stats import binomtest

    low, _ = tango_interval(lost, gained, items, alpha=ALPHA)
    if low > -MARGIN:
        return "pass"
    differ = lost + gained
    worse = bool(differ) and binomtest(lost, differ, 0.5, alternative="greater").pvalue < ALPHA
    return "fail" if worse else "inconclusive"


def tasks_table(draws: int) -> Iterable[str]:
    """Share of decisions by the true loss of accuracy, with 10 % of the items answered differently at no loss."""
    yield "| true loss | items | pass | inconclusive | fail |\n|---|---|---|---|---|"
    rng = np.random.default_rng(1)
    for loss in (0.0, 0.01, 0.02, 0.05):
        for items in (100, 300, 1000, 1600, 6200):
            lost, gained = 0.05 + loss, 0.05
            drawn = rng.multinomial(items, [lost, gained, 1.0 - lost - gained], size=draws)
            found = Counter(decide(int(a), int(b), items) for a, b, _ in drawn)
            shares = (f"{found[word] / draws:.1%}" for word in ("pass", "inconclusive", "fail"))
            yield f"| {loss:.0%} | {items:,} | {' | '.join(shares)} |"


def sampled_table(runs: int) -> Iterable[str]:
    """Share of runs that call two sets of answers different: ten answers of 24 tokens each, eight conversations."""
    yield "| temperature of the target (source: 0.8) | called different |\n|---|---|"
    rng = np.random.default_rng(2)
    for temperature in (0.8, 0.9, 1.0, 1.2, 1.5):
        different = 0
        for number in range(runs):
            prompts = []
            for _ in range(8):
                logits = rng.normal(0.0, 3.0, size=(24, 30))
                prompts.append(tuple(_draw(rng, logits / t, 10) for t in (0.8, temperature)))
            p, _ = two_samples(prompts, seed=number)  # type: ignore[arg-type]
            different += p < ALPHA
        yield f"| {temperature} | {different / runs:.1%} |"


def _draw(rng: np.random.Generator, logits: np.ndarray, count: int) -> list[list[int]]:
    """`count` answers, each token drawn from its row of logits (Gumbel's trick)."""
    noise = rng.gumbel(size=(count, *logits.shape))
    return [[int(token) for token in row] for row in (logits + noise).argmax(axis=2)]


def gate_table(runs: int) -> Iterable[str]:
    """The whole gate on the toy model, 12 conversations, another battery and other noise in each run."""
    yield "| what the target is | pass | inconclusive | fail |\n|---|---|---|---|"
    settings = Settings(retry_pauses_s=(), max_tokens=24)
    asked = conversations(12 * runs, words=4, least=4)
    kinds: dict[str, dict[str, float]] = {
        "the same": {},
        "the same, restless (0.01 on every logit at every request)": {"restless": 0.01},
        "rounded (logits moved by 0.03)": {"noise": 0.03},
        "moved by 0.1, about the limit": {"noise": 0.1},
        "moved by 0.3": {"noise": 0.3},
        "moved by 1": {"noise": 1.0},
    }
    with tempfile.TemporaryDirectory() as directory:
        bundle = write_bundle(Path(directory) / "bundle")
        for label, options in kinds.items():
            found: Counter[str] = Counter()
            for number in range(runs):
                target = ToyEngine(**options)  # type: ignore[arg-type]
                report = run(
                    bundle,
                    ToyEngine("llama.cpp"),
                    target,
                    battery=asked[12 * number : 12 * number + 12],
                    layers=[LayerName.NOISE, LayerName.LOGPROBS, LayerName.TEXT],
                    settings=settings,
                )
                found[report.verdict.value] += 1
            shares = (f"{found[word]}/{runs}" for word in ("pass", "inconclusive", "fail"))
            yield f"| {label} | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the draws")
    tenth = 10 if parser.parse_args().quick else 1
    tables = (
        (f"Tasks: margin {MARGIN:.0%}, alpha {ALPHA:.0%}, {DRAWS // tenth:,} draws", tasks_table(DRAWS // tenth)),
        (f"Sampled answers: alpha {ALPHA:.0%}, {200 // tenth} runs", sampled_table(200 // tenth)),
        (f"The gate on the toy model, {100 // tenth} runs", gate_table(100 // tenth)),
    )
    for title, lines in tables:
        started = time.perf_counter()
        print(f"\n### {title}\n")
        for line in lines:
            print(line, flush=True)
        print(f"\n({time.perf_counter() - started:.0f} s)")


if __name__ == "__main__":
    main()
