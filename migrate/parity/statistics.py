"""The statistics of the gate, on scipy and statsmodels (extra `parity`).

What is ours is one formula that neither has: Tango's score interval for the difference of two paired proportions
(Statistics in Medicine 17, 1998, 891-908). It stays honest where nothing differs: with 50 items and no difference the
loss may still be as much as 5 %, and only more items can say that it is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from migrate.errors import MissingExtra
from migrate.parity.report import Curve, SamplePlan

PERMUTATIONS = 999


def stats() -> ModuleType:
    """scipy.stats. Raises MissingExtra."""
    try:
        import scipy.stats
    except ImportError:
        raise MissingExtra(
            "the statistics need scipy and statsmodels, which are not installed",
            hint="pip install 'ollama-to-vllm[parity]'",
        ) from None
    return scipy.stats  # type: ignore[no-any-return]


def survival(label: str, answers: Sequence[tuple[int | None, int]]) -> Curve:
    """How many answers still agree after n tokens (Kaplan-Meier, scipy's `ecdf`).

    `answers` are (token at which they part, or None; tokens of the answer): one that ended without parting tells that
    it agreed so far, and nothing about what would have come. Raises MissingExtra; ValueError for no answers.
    """
    scipy_stats = stats()
    parted = [at for at, _ in answers if at is not None]
    censored = [tokens for at, tokens in answers if at is None]
    data = scipy_stats.CensoredData(uncensored=parted, right=censored)
    curve = scipy_stats.ecdf(data).sf
    tokens = [int(t) for t in curve.quantiles]
    share = [float(p) for p in curve.probabilities]
    if tokens[0] != 0:
        tokens, share = [0, *tokens], [1.0, *share]
    return Curve(label=label, tokens=tokens, share=share, answers=len(answers), censored=len(censored))


def upper_rate(found: int, items: int, confidence: float) -> float:
    """The largest rate (0..1) that `found` of `items` is compatible with: one-sided Clopper-Pearson."""
    result = stats().binomtest(found, items, alternative="less")
    return float(result.proportion_ci(confidence_level=confidence, method="exact").high)


def plan(items: int, *, margin: float, alpha: float, power: float, discordance: float) -> SamplePlan:
    """How many paired items a non-inferiority decision needs when the two sides are really equally good.

    The difference of two paired answers has variance `discordance`; the rest is statsmodels' power of a one-sided
    z-test. With alpha .05, power .8 and 10 % discordance: 687 items for a margin of 3 %, 1,546 for 2 %, 6,183 for 1 %.
    """
    stats()
    from statsmodels.stats.power import NormalIndPower

    solver, effect = NormalIndPower(ddof=0), margin / math.sqrt(discordance)
    common = {"effect_size": effect, "alpha": alpha, "ratio": 0, "alternative": "larger"}
    needed = solver.solve_power(nobs1=None, power=power, **common)
    achieved = solver.power(effect, items, alpha, ratio=0, alternative="larger") if items else 0.0
    return SamplePlan(
        items=items,
        margin=margin,
        alpha=alpha,
        power=power,
        discordance=discordance,
        needed=math.ceil(needed),
        achieved_power=float(achieved),
    )


@dataclass(frozen=True, slots=True)
class Paired:
    """Two graded answers to each item. `difference` is the target's share of right answers less the source's, with
    its interval; `p_worse` is McNemar's exact one-sided p-value for "the target is worse"."""

    items: int
    source_right: int
    target_right: int
    lost: int
    gained: int
    difference: float
    low: float
    high: float
    p_worse: float


def paired(source: Sequence[bool], target: Sequence[bool], *, alpha: float = 0.05) -> Paired:
    """McNemar's test and the Tango interval, each bound one-sided at `alpha`. ValueError for no items.

    The one-sided exact test is the binomial one on the items on which the two differ; statsmodels' `mcnemar` is the
    same test with two sides (the tests compare them).
    """
    if not source:
        raise ValueError("no items")
    pairs = list(zip(source, target, strict=True))
    lost = sum(a and not b for a, b in pairs)
    gained = sum(b and not a for a, b in pairs)
    low, high = tango_interval(lost, gained, len(pairs), alpha=alpha)
    differ = lost + gained
    p = float(stats().binomtest(lost, differ, 0.5, alternative="greater").pvalue) if differ else 1.0
    return Paired(
        items=len(pairs),
        source_right=sum(source),
        target_right=sum(target),
        lost=lost,
        gained=gained,
        difference=(gained - lost) / len(pairs),
        low=low,
        high=high,
        p_worse=p,
    )


def tango_interval(lost: int, gained: int, items: int, *, alpha: float) -> tuple[float, float]:
    """Bounds of (gained - lost) / items, each one-sided at `alpha`: where the score statistic is as large as z."""
    from scipy.optimize import brentq

    z = float(stats().norm.ppf(1.0 - alpha))
    estimate = (gained - lost) / items
    edge = 1.0 - 1e-9

    def bound(sign: float, end: float) -> float:
        def excess(difference: float) -> float:
            return sign * tango_score(lost, gained, items, difference) - z

        if abs(estimate - end) < 1e-6 or excess(end) <= 0.0:
            return end
        return float(brentq(excess, end, estimate, xtol=1e-10))

    return bound(1.0, -edge), bound(-1.0, edge)


def tango_score(lost: int, gained: int, items: int, difference: float) -> float:
    """The score statistic of "the true difference is `difference`": standard normal when it is."""
    numerator = (gained - lost) - items * difference
    q = restricted_lost(lost, gained, items, difference)
    variance = items * (2.0 * q + difference * (1.0 - difference))
    if variance <= 0.0:
        return 0.0 if numerator == 0 else math.copysign(math.inf, numerator)
    return numerator / math.sqrt(variance)


def restricted_lost(lost: int, gained: int, items: int, difference: float) -> float:
    """The likeliest share of lost items if the true difference is `difference`: the root of the likelihood's quadratic
    equation."""
    b = -(lost + gained) + (2.0 * items - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    root = math.sqrt(max(0.0, b * b - 8.0 * items * c))
    return max(0.0, (root - b) / (4.0 * items))


def two_samples(
    prompts: Sequence[tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]], *, seed: int
) -> tuple[float, list[float]]:
    """(p-value, one per prompt) of "both sides draw from one distribution".

    Per prompt the statistic is the squared maximum mean discrepancy with a Hamming kernel over token ids, and scipy's
    `permutation_test` gives its p-value; scipy's `combine_pvalues` (Fisher) joins the prompts, which are independent.
    After Gao, Liang and Guestrin, "Model Equality Testing" (ICLR 2025), which permutes within prompts as well.
    """
    import numpy as np

    scipy_stats = stats()
    values = []
    for number, (ours, theirs) in enumerate(prompts):
        width = max(len(answer) for answer in (*ours, *theirs))
        if width == 0:
            values.append(1.0)
            continue
        padded = [[*answer, *([-1] * (width - len(answer)))] for answer in (*ours, *theirs)]
        answers = np.array(padded)
        kernel = (answers[:, None, :] == answers[None, :, :]).mean(axis=2)

        def discrepancy(x: object, y: object, axis: int = -1, kernel: object = kernel) -> object:
            return _discrepancy(kernel, np.asarray(x), np.asarray(y))

        found = scipy_stats.permutation_test(
            (np.arange(len(ours)), np.arange(len(ours), len(answers))),
            discrepancy,
            permutation_type="independent",
            alternative="greater",
            n_resamples=PERMUTATIONS,
            vectorized=True,
            rng=np.random.default_rng([seed, number]),
        )
        values.append(float(found.pvalue))
    if not values:
        return 1.0, []
    return float(scipy_stats.combine_pvalues(values, method="fisher").pvalue), values


def _discrepancy(kernel: object, x: object, y: object) -> object:
    """Unbiased MMD² of index sets `x` and `y`, over leading dimensions (resamples)."""
    import numpy as np

    k, a, b = np.asarray(kernel), np.asarray(x, dtype=int), np.asarray(y, dtype=int)
    m, n = a.shape[-1], b.shape[-1]
    within_a = k[a[..., :, None], a[..., None, :]].sum(axis=(-1, -2)) - m
    within_b = k[b[..., :, None], b[..., None, :]].sum(axis=(-1, -2)) - n
    across = k[a[..., :, None], b[..., None, :]].mean(axis=(-1, -2))
    return within_a / (m * (m - 1)) + within_b / (n * (n - 1)) - 2.0 * across
