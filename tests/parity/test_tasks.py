from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate.engines.base import Conversation
from migrate.errors import BadInput, NotFound
from migrate.parity.case import Settings
from migrate.parity.report import LayerName, LayerReport
from migrate.parity.run import Asked, run
from migrate.parity.tasks import Task, read_tasks
from tests.parity.toy import ToyEngine, conversations, write_bundle


@pytest.mark.parametrize(
    ("match", "expected", "answer", "right"),
    [
        ("exact", "4", " 4\n", True),
        ("exact", "4", "It is 4", False),
        ("contains", "Paris", "It is Paris.", True),
        ("contains", "Paris", "paris", False),
        ("regex", r"\b7\d\b", "about 74", True),
        ("regex", r"^74$", "about 74", False),
        ("number", "1234.5", "so 12 plus ... = 1,234.50.", True),
        ("number", "4", "4 is not 5", False),
        ("number", "-3", "minus: -3", True),
        ("number", "4", "four", False),
        ("choice", "B", "The answer is B, not A.", True),
        ("choice", "B", "A", False),
        ("choice", "yes", "Yes, of course: no doubt", True),
        ("json", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}', True),
        ("json", "{}", "{", False),
    ],
)
def test_grading(match: str, expected: str, answer: str, right: bool) -> None:
    assert Task(Conversation("x", ()), (expected,), match).right(answer) is right


def test_any_of_several_answers_is_right() -> None:
    task = Task(Conversation("x", ()), ("a", "b"), "exact")
    assert (task.right("b"), task.right("c")) == (True, False)


def _file(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_reading(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"prompt": "2+2?", "expected": 4, "match": "number", "system": "Be brief."},
        "",
        {"messages": [{"role": "user", "content": "x"}], "expected": ["a", "b"], "name": "second"},
    )
    first, second = read_tasks(path)
    assert first.conversation.messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
    )
    assert (first.name, first.expected, first.match) == ("task 1", ("4",), "number")
    assert (second.name, second.expected, second.match) == ("second", ("a", "b"), "contains")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: not JSON"),
        ({"prompt": "x"}, "line 1: expected: Field required"),
        ({"expected": "x"}, "needs `prompt` or `messages`"),
        ({"prompt": "x", "messages": [], "expected": "x"}, "and not both"),
        ({"prompt": "x", "expected": "x", "match": "vibes"}, "match 'vibes' is unknown"),
        ({"prompt": "x", "expected": "(", "match": "regex"}, "cannot be a regex"),
        ({"prompt": "x", "expected": "four", "match": "number"}, "cannot be a number"),
        ({"prompt": "x", "expected": "{", "match": "json"}, "cannot be a json"),
        ({"prompt": "x", "expected": []}, "`expected` is empty"),
        ({"prompt": "x", "expected": "x", "answer": "y"}, "answer: Extra inputs"),
        ({"messages": [{"content": "x"}], "expected": "x"}, "has no role"),
        ("[" * 100_000, "not JSON"),
        ("", "no tasks in it"),
    ],
)
def test_what_is_no_task(line: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_tasks(_file(tmp_path, line))
    assert reason in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_tasks(tmp_path / "no.jsonl")


def _tasks(count: int) -> tuple[Task, ...]:
    """Questions to the toy model that it gets right: what it says is what is expected."""
    model = ToyEngine()
    return tuple(
        Task(replace(asked, name=f"task {number}"), (model.generate(asked, max_tokens=12).text,), "exact")
        for number, asked in enumerate(conversations(count, words=4, least=2))
    )


def _layer(tmp_path: Path, tasks: tuple[Task, ...], target: ToyEngine, **settings: Any) -> LayerReport:
    report = run(
        write_bundle(tmp_path / "bundle"),
        ToyEngine("llama.cpp"),
        target,
        battery=(),
        layers=[LayerName.TASKS],
        asked=Asked(tasks=tasks),
        settings=Settings(task_tokens=12, **settings),
    )
    assert [plan.items for plan in report.plan] == [len(tasks)]
    return report.layer(LayerName.TASKS)


def test_the_same_model_is_no_worse(tmp_path: Path) -> None:
    layer = _layer(tmp_path, _tasks(150), ToyEngine())
    assert layer.status == "pass", layer.summary
    assert (layer.metrics["source_accuracy"], layer.metrics["target_accuracy"]) == (1.0, 1.0)
    assert layer.metrics["difference_low"] > -0.02


def test_too_few_tasks_decide_nothing(tmp_path: Path) -> None:
    layer = _layer(tmp_path, _tasks(40), ToyEngine())
    assert layer.status == "inconclusive"
    assert "cannot be ruled out with 40 tasks; planned for power 80%: 1546" in layer.summary


def test_another_model_is_worse(tmp_path: Path) -> None:
    layer = _layer(tmp_path, _tasks(40), ToyEngine(seed=2))
    assert layer.status == "fail"
    assert "worse (McNemar p" in layer.summary
    assert layer.differences[0].reason.startswith("right on the source only (expected ")


def test_one_percent_worse_with_too_few_samples_is_inconclusive(tmp_path: Path) -> None:
    tasks = _tasks(100)
    broken = (*tasks[:-1], Task(tasks[-1].conversation, ("",), "exact"))
    target = ToyEngine()
    real = target.chat

    def worse(prompt: Any, ask: Any) -> Any:
        said = real(prompt, ask)
        return replace(said, text="something else") if getattr(prompt, "name", "") == "task 7" else said

    target.chat = worse  # type: ignore[method-assign]
    layer = _layer(tmp_path, broken, target)
    assert layer.metrics["difference"] == pytest.approx(-0.01)
    assert layer.status == "inconclusive"
