"""The user's own tasks: questions with expected answers, graded on both sides, decided with a margin fixed before.

One JSON object a line:

    {"prompt": "What is 2+2?", "expected": "4", "match": "number"}
    {"messages": [{"role": "user", "content": "..."}], "expected": ["Paris", "paris"], "name": "fr-1"}

`match` is `exact` (white space at the ends aside), `contains`, `regex` (search), `number` (the last number in the
answer), `choice` (the first of A-Z or of the expected words that the answer names) or `json` (equal values). Default:
`contains`. The decision is about the difference of the two shares of right answers: losing a question that the source
got right counts, whatever both get wrong together does not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrate.engines.base import Ask, Conversation, Generation
from migrate.errors import BadInput, NotFound, ServerError
from migrate.parity.case import Case, Run, is_refusal
from migrate.parity.report import MAX_DIFFERENCES, Difference, LayerName, LayerReport

MAX_LINE = 4 << 20
MAX_TASKS = 100_000
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Task:
    """A question, and how its answer is graded."""

    conversation: Conversation
    expected: tuple[str, ...]
    match: str

    @property
    def name(self) -> str:
        return self.conversation.name

    def right(self, answer: str) -> bool:
        return any(GRADERS[self.match](answer, expected) for expected in self.expected)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = None
    prompt: str | None = None
    system: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    expected: str | int | float | list[str | int | float]
    match: str = "contains"


def _exact(answer: str, expected: str) -> bool:
    return answer.strip() == expected.strip()


def _contains(answer: str, expected: str) -> bool:
    return expected.strip() in answer


def _regex(answer: str, expected: str) -> bool:
    return re.search(expected, answer[:100_000]) is not None


def _number(answer: str, expected: str) -> bool:
    found = _NUMBER.findall(answer[:100_000])
    return bool(found) and math.isclose(_value(found[-1]), _value(expected), rel_tol=1e-6, abs_tol=1e-9)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _choice(answer: str, expected: str) -> bool:
    """The first word of the answer that could be a choice: a single letter, or the expected word itself."""
    for word in re.findall(r"\w+", answer[:100_000]):
        if re.fullmatch(r"[A-Z]", word) or word.casefold() == expected.casefold():
            return bool(word.casefold() == expected.casefold())
    return False


def _json(answer: str, expected: str) -> bool:
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


GRADERS: Mapping[str, Callable[[str, str], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "choice": _choice,
    "json": _json,
}


def read_tasks(path: Path) -> tuple[Task, ...]:
    """Every line of a JSONL file. Raises NotFound, and BadInput naming the line."""
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint='one JSON object a line: {"prompt": ..., "expected": ...}')
    tasks: list[Task] = []
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise BadInput(f"{path}, line {number}: longer than {MAX_LINE >> 20} MiB")
            if line.strip():
                tasks.append(_task(line, f"{path}, line {number}", number))
            if len(tasks) > MAX_TASKS:
                raise BadInput(f"{path}: more than {MAX_TASKS} tasks")
    if not tasks:
        raise BadInput(f"{path}: no tasks in it")
    return tuple(tasks)


def _task(line: bytes, where: str, number: int) -> Task:
    try:
        row = _Line.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    if row.match not in GRADERS:
        raise BadInput(f"{where}: match {row.match!r} is unknown", hint=f"one of {', '.join(GRADERS)}")
    if (row.prompt is None) == (row.messages is None):
        raise BadInput(f"{where}: needs `prompt` or `messages`, and not both")
    expected = tuple(str(e) for e in (row.expected if isinstance(row.expected, list) else [row.expected]))
    if not expected:
        raise BadInput(f"{where}: `expected` is empty")
    for value in expected:
        _check_expected(row.match, value, where)
    messages = row.messages if row.messages is not None else [{"role": "user", "content": row.prompt}]
    if any(not isinstance(message.get("role"), str) for message in messages):
        raise BadInput(f"{where}: a message has no role")
    if row.system is not None:
        messages = [{"role": "system", "content": row.system}, *messages]
    conversation = Conversation(row.name or f"task {number}", tuple(messages), tuple(row.tools))
    return Task(conversation, expected, row.match)


def _check_expected(match: str, value: str, where: str) -> None:
    """What could never match is a mistake in the file."""
    try:
        if match == "regex":
            re.compile(value)
        elif match == "number":
            _value(value)
        elif match == "json":
            json.loads(value)
    except (ValueError, re.error, RecursionError) as error:
        raise BadInput(f"{where}: expected {value!r} cannot be a {match}: {error}") from None


def check(run: Run) -> LayerReport:
    """Non-inferiority with a margin, McNemar's test, and the plan of the sample.

    Pass: the share of right answers has not fallen by more than `margin`, with one-sided confidence 1 - alpha. Fail:
    it has fallen (McNemar, same alpha), and it cannot be said to be within the margin. Otherwise there were too few.
    """
    from migrate.parity.statistics import paired, plan

    settings = run.settings
    report = LayerReport(name=LayerName.TASKS, status="pass", summary="")
    graded: list[tuple[Task, Generation, Generation]] = []
    for task, answers in zip(run.tasks, run.each(lambda task: _answers(run, task), run.tasks), strict=True):
        if isinstance(answers, str):
            report.notes.append(f"«{task.name}» left out: {answers}")
        else:
            graded.append((task, *answers))
    made = plan(
        len(graded),
        margin=settings.margin,
        alpha=settings.alpha,
        power=settings.power,
        discordance=settings.discordance,
    )
    run.plan.append(made)
    report.compared = len(graded)
    report.thresholds = {"margin": settings.margin, "alpha": settings.alpha}
    if not graded:
        report.status, report.summary = "inconclusive", "no task could be asked on both sides"
        return report
    ours = [task.right(a.text) for task, a, _ in graded]
    theirs = [task.right(b.text) for task, _, b in graded]
    found = paired(ours, theirs, alpha=settings.alpha)
    report.agreed = found.items - found.lost - found.gained
    report.metrics = {
        "source_accuracy": found.source_right / found.items,
        "target_accuracy": found.target_right / found.items,
        "difference": found.difference,
        "difference_low": found.low,
        "difference_high": found.high,
        "lost": float(found.lost),
        "gained": float(found.gained),
        "p_worse": found.p_worse,
    }
    for (task, a, b), was, is_now in zip(graded, ours, theirs, strict=True):
        if was and not is_now and len(report.differences) < MAX_DIFFERENCES:
            reason = f"right on the source only (expected {', '.join(task.expected)[:80]!r})"
            report.differences.append(
                Difference(conversation=task.name, reason=reason, source=repr(a.text[:200]), target=repr(b.text[:200]))
            )
    measured = (
        f"{found.source_right} and {found.target_right} of {found.items} right: {found.difference:+.1%} "
        f"({found.low:+.1%} to {found.high:+.1%})"
    )
    if found.low > -settings.margin:
        report.summary = f"{measured}, no worse than by the margin of {settings.margin:.1%}"
    elif found.p_worse < settings.alpha:
        report.status, report.summary = "fail", f"{measured}: worse (McNemar p {found.p_worse:.2g})"
    else:
        report.status = "inconclusive"
        report.summary = (
            f"{measured}: a loss of {settings.margin:.1%} cannot be ruled out with {found.items} tasks; planned for "
            f"power {settings.power:.0%}: {made.needed}"
        )
    return report


def _answers(run: Run, task: Task) -> tuple[Generation, Generation] | str:
    """Both greedy answers, or why there are none."""
    ask = Ask(max_tokens=run.settings.task_tokens)
    try:
        case: Case | None = run.prepare(task.conversation)
        if case is None:
            return "the source refuses it"
        return run.ask_source(case, ask), run.target.chat(task.conversation, ask)
    except ServerError as error:
        if not is_refusal(error):
            raise
        return str(error)
