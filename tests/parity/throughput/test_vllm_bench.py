from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.errors import EngineError, NotFound
from migrate.parity.throughput import vllm_bench
from migrate.parity.throughput.plan import Point
from tests.parity.throughput.replayed import DATA
from tests.parity.throughput.test_aiperf import job


def test_recorded_runs() -> None:
    answers = vllm_bench.read_answers(DATA / "bench-vllm.json", discard=2)
    assert len(answers) == 8
    assert [answer.start for answer in answers] == sorted(answer.start for answer in answers)
    for answer in answers:
        assert answer.ttft_ms is not None
        assert 0 < answer.ttft_ms <= answer.e2e_ms < 1000
        assert (answer.reported_tokens, answer.error) == (12, "")
    assert answers[0].text == "1, 2, 3, 4, ", "what aiperf got as well"


def test_a_server_whose_usage_it_does_not_find() -> None:
    answers = vllm_bench.read_answers(DATA / "bench-llamacpp.json", discard=0)
    assert {answer.reported_tokens for answer in answers} == {None}
    assert all(answer.text for answer in answers)


def test_failed_requests(tmp_path: Path) -> None:
    result = json.loads((DATA / "bench-vllm.json").read_text())
    result["errors"][5] = "Traceback ...\n  File x\nConnectionRefusedError: no\n"
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert [a.error for a in vllm_bench.read_answers(path, discard=0) if a.error] == ["ConnectionRefusedError: no"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"start_times": [1]}'])
def test_damaged_results(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(EngineError, match="is not what `vllm bench serve"):
        vllm_bench.read_answers(tmp_path / "result.json", discard=0)


def test_the_command(tmp_path: Path) -> None:
    body = {"model": "bot", "messages": [], "max_tokens": 12, "temperature": 0, "stream": True, "ignore_eos": True}
    made = job(bodies=[body, body], api_key="secret")
    command = vllm_bench.command_of(made, Path("vllm"), tmp_path / "prompts.jsonl", tmp_path)
    extra = json.loads(command[command.index("--extra-body") + 1])
    assert extra == {"max_tokens": 12, "max_completion_tokens": 12, "temperature": 0, "ignore_eos": True}
    assert command[command.index("--max-concurrency") + 1] == "2"
    assert "secret" not in " ".join(command)
    open_loop = job(Point(request_rate=90), bodies=[body], route="completions")
    command = vllm_bench.command_of(open_loop, Path("vllm"), tmp_path / "p", tmp_path)
    assert command[command.index("--request-rate") + 1] == "1.5"
    assert command[command.index("--backend") + 1] == "openai"


def test_prompts(tmp_path: Path) -> None:
    vllm_bench.write_prompts(job(bodies=[{"prompt": [1, 2]}], route="completions"), tmp_path / "p")
    assert json.loads((tmp_path / "p").read_text()) == {"prompt": [1, 2], "output_tokens": 12}


def test_no_such_program() -> None:
    with pytest.raises(NotFound, match="no 'no-such-vllm' on the PATH"):
        vllm_bench.find("no-such-vllm")
