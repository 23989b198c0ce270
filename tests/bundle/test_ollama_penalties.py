"""The penalties plugin of a bundle, in vLLM's own batch, against llama.cpp's rule written down plainly."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrate import resources
from migrate.engines.provision import EnginesEnv, ensure

pytestmark = pytest.mark.live

ARGUMENTS: list[dict[str, Any] | None] = [
    None,
    {},
    {"session_id": "a"},
    {"repeat_penalty": 1.1},
    {"repeat_penalty": 1.3, "repeat_last_n": 16},
    {"repeat_penalty": 1.3, "repeat_last_n": -1},
    {"repeat_penalty": 0.7, "repeat_last_n": 1},
    {"repeat_penalty": 1.5, "repeat_last_n": 0},
    {"repeat_last_n": 32},
    {"presence_penalty": 0.6, "repeat_last_n": 20},
    {"frequency_penalty": 0.4, "repeat_last_n": -1},
    {"repeat_penalty": 1.2, "repeat_last_n": 100000, "presence_penalty": -3, "frequency_penalty": 2.5},
]


def given(arguments: dict[str, Any] | None) -> tuple[float, int, float, float]:
    found = arguments or {}
    return (
        found.get("repeat_penalty", 1.0),
        found.get("repeat_last_n", 64),
        found.get("presence_penalty", 0.0),
        found.get("frequency_penalty", 0.0),
    )


def used(arguments: dict[str, Any] | None) -> bool:
    repeat, last_n, presence, frequency = given(arguments)
    return last_n != 0 and (repeat, presence, frequency) != (1, 0, 0)


def rule(arguments: dict[str, Any] | None, tokens: list[int], logits: list[float]) -> list[float]:
    """llama.cpp's llama_sampler_penalties over a window filled from the prompt on, in 32 bits as there."""
    repeat, last_n, presence, frequency = map(np.float32, given(arguments))
    window = tokens if last_n < 0 else tokens[max(0, len(tokens) - int(last_n)) :]
    after = np.array(logits, dtype=np.float32)
    for token, count in Counter(window).items():
        if token < len(after):
            after[token] = after[token] * repeat if after[token] <= 0 else after[token] / repeat
            after[token] -= np.float32(count) * frequency + presence
    return [float(value) for value in after]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"repeat_penalty": 0}, "repeat_penalty must be above 0, got 0"),
    ({"repeat_penalty": 1e-60}, "repeat_penalty must be above 0, got 1e-60"),
    ({"repeat_penalty": -1.1}, "repeat_penalty must be above 0, got -1.1"),
    ({"repeat_penalty": "1.1"}, "repeat_penalty must be a number, got '1.1'"),
    ({"repeat_penalty": True}, "repeat_penalty must be a number, got True"),
    ({"repeat_penalty": [1.1]}, "repeat_penalty must be a number, got [1.1]"),
    ({"repeat_penalty": None}, "repeat_penalty must be a number, got None"),
    ({"repeat_penalty": float("nan")}, "repeat_penalty must be a number, got nan"),
    ({"presence_penalty": float("inf")}, "presence_penalty must be a number, got inf"),
    ({"frequency_penalty": 1e39}, "frequency_penalty must be a number, got 1e+39"),
    ({"repeat_last_n": -2}, "repeat_last_n must be a whole number of tokens, or -1 for all, got -2"),
    ({"repeat_last_n": 6.5}, "repeat_last_n must be a whole number of tokens, or -1 for all, got 6.5"),
    ({"repeat_last_n": "64"}, "repeat_last_n must be a number, got '64'"),
]
TAKEN: list[dict[str, Any] | None] = [
    *ARGUMENTS,
    {"repeat_penalty": 2, "repeat_last_n": 64.0},
    {"repeat_last_n": 2**62},
    {"unknown": "x"},
]


SEEDS = range(4)
BATCHES = [
    {"kind": "older", "seed": seed, "steps": 80, "async": later, "arguments": ARGUMENTS}
    for seed in SEEDS
    for later in (False, True)
]
USED = [used(arguments) for arguments in ARGUMENTS]
SLOTS = [
    {"kind": "newer", "seed": seed, "steps": 60, "drafts": drafts, "arguments": ARGUMENTS, "used": USED}
    for seed in SEEDS
    for drafts in (False, True)
]
CASES = [*(arguments for arguments, _ in REFUSED), *TAKEN]


@pytest.fixture(scope="module")
def engines() -> EnginesEnv:
    return ensure()


@pytest.fixture(scope="module")
def answers(engines: EnginesEnv, tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What the probe answers to BATCHES, SLOTS and CASES, in one run of vLLM's Python."""
    directory = tmp_path_factory.mktemp("bundle")
    (directory / "ollama_penalties.py").write_text(resources.text("bundle/ollama_penalties.py"))
    done = subprocess.run(
        [engines.python, "-W", "error::RuntimeWarning", Path(__file__).with_name("penalties_probe.py"), directory],
        input=json.dumps([*BATCHES, *SLOTS, {"kind": "refusals", "arguments": CASES}]),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[list[Any]] = json.loads(done.stdout.partition("ANSWERS ")[2])
    return found


@pytest.mark.parametrize("index", range(len(BATCHES) + len(SLOTS)))
def test_the_rule(answers: list[list[Any]], index: int) -> None:
    """Under both runners, with requests that come, go and move, drafts, and tokens that are known a step later."""
    penalised = 0
    for request, before, after in answers[index]:
        expected = rule(request["arguments"], request["tokens"], before)
        assert after == expected, request
        if used(request["arguments"]):
            penalised += after != before
        else:
            assert after == before, request
    assert penalised > 50, "the penalties were hardly at work"


def test_what_is_refused(answers: list[list[Any]]) -> None:
    """By the validators of both runners, which answer with 400."""
    for (arguments, reason), said in zip(REFUSED, answers[-1][: len(REFUSED)], strict=True):
        assert said == [f"VLLMValidationError: vllm_xargs.{reason}"] * 2, arguments
    assert answers[-1][len(REFUSED) :] == [[None, None]] * len(TAKEN)
