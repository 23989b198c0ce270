"""Sampled answers: do both sides draw from one distribution? Optional, because it costs many answers.

Both are asked as clients ask them, with the model's own temperature, top_k, top_p and min_p, each answer with another
seed; penalties are neutral on both sides, since they mean different things (docs/parameters.md).
"""

from __future__ import annotations

from functools import partial

from migrate.engines.base import Ask, Generation
from migrate.errors import ServerError
from migrate.parity.case import Case, Run, is_refusal
from migrate.parity.report import LayerName, LayerReport

NEUTRAL = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
MIN_SAMPLES = 5


def check(run: Run) -> LayerReport:
    """A two-sample test per conversation, joined (`statistics.two_samples`)."""
    from migrate.parity.statistics import two_samples

    settings = run.settings
    report = LayerReport(name=LayerName.SAMPLED, status="pass", summary="")
    cases = [case for case in run.open_cases if case.target_ids is not None][: settings.sampled_cases]
    names, prompts = [], []
    for case in cases:
        try:
            ours = run.each(partial(_source, run, case), range(settings.samples))
            theirs = run.each(partial(_target, run, case), range(settings.samples))
        except ServerError as error:
            if not is_refusal(error):
                raise
            report.notes.append(f"«{case.name}» left out: {error}")
            continue
        sides = [[_symbols(answer) for answer in side] for side in (ours, theirs)]
        if not any(any(side) for side in sides):
            report.notes.append(f"«{case.name}» left out: nothing but empty answers on both sides")
            continue
        names.append(case.name)
        prompts.append((sides[0], sides[1]))
    report.compared = len(prompts)
    report.thresholds = {"alpha": settings.alpha}
    if settings.samples < MIN_SAMPLES or not prompts:
        report.status = "inconclusive"
        report.summary = f"{settings.samples} answers to {len(prompts)} conversations are too few to compare"
        return report
    p, each = two_samples(prompts, seed=settings.seed)
    report.metrics = {"p": p, "samples": float(settings.samples)}
    report.agreed = sum(value >= settings.alpha / len(each) for value in each)
    asked = f"{settings.samples} sampled answers of each side to {len(prompts)} conversations"
    if p < settings.alpha:
        worst = min(zip(each, names, strict=True))
        report.status = "fail"
        report.summary = f"{asked} are not from one distribution (p {p:.2g}); the clearest: «{worst[1]}»"
    else:
        report.summary = f"{asked} could be from one distribution (p {p:.2g})"
    return report


def _ask(run: Run, number: int) -> Ask:
    return Ask(
        max_tokens=run.settings.max_tokens, greedy=False, seed=run.settings.seed * 10_000 + number, sampling=NEUTRAL
    )


def _source(run: Run, case: Case, number: int) -> Generation:
    return run.ask_source(case, _ask(run, number))


def _target(run: Run, case: Case, number: int) -> Generation:
    return run.target.chat(case.target_conversation, _ask(run, number))


def _symbols(answer: Generation) -> list[int]:
    """The characters a client sees: engines tell ids of sampled answers in different ways, or not at all."""
    return [ord(character) for character in answer.thinking + answer.text]
