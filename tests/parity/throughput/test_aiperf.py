from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from migrate.errors import EngineError
from migrate.parity.throughput import aiperf
from migrate.parity.throughput.plan import Point
from migrate.parity.throughput.records import Job
from tests.parity.throughput.replayed import DATA


def job(point: Point = Point(2), **fields: object) -> Job:  # noqa: B008
    given = {
        "url": "http://127.0.0.1:8000",
        "model": "bot",
        "route": "chat/completions",
        "bodies": [{"model": "bot", "messages": [{"role": "user", "content": f"é {n}"}]} for n in range(5)],
        "warmup": 2,
        "point": point,
        "seconds": 30.0,
        "request_timeout": 10.0,
        "seed": 4,
        "output_tokens": 12,
        "tokenizer": Path("model"),
    }
    return Job(**(given | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("recorded", ["aiperf-llamacpp", "aiperf-vllm"])
def test_recorded_runs(recorded: str) -> None:
    answers = aiperf.read_answers(DATA / recorded)
    assert len(answers) == 8, "without the two discarded ones"
    for answer in answers:
        assert answer.error == ""
        assert answer.ttft_ms is not None
        assert 0 < answer.ttft_ms <= answer.e2e_ms
        assert answer.text
        assert (answer.reported_tokens, answer.cut_off) == (12, False)
        assert answer.input_tokens is not None
        assert answer.input_tokens > 100
    first = min(answers, key=lambda answer: answer.start)
    assert first.text == "1, 2, 3, 4, "


def test_both_sides_were_given_the_same() -> None:
    lengths = [[a.input_tokens for a in sorted(aiperf.read_answers(DATA / f"aiperf-{side}"), key=lambda a: a.start)]
               for side in ("llamacpp", "vllm")]  # fmt: skip
    assert lengths[0] == lengths[1]


def test_a_server_that_is_not_there() -> None:
    answers = aiperf.read_answers(DATA / "aiperf-dead")
    assert len(answers) == 8
    assert all("ConnectionRefusedError" in answer.error and answer.text is None for answer in answers)


def test_a_server_that_hangs() -> None:
    answers = aiperf.read_answers(DATA / "aiperf-hung")
    assert [answer.error for answer in answers] == ["TimeoutError: no complete answer in the time of one request"] * 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ({"code": 500, "type": "Internal Server Error", "message": "boom"}, "Internal Server Error: boom"),
        (
            {"type": "ServerDisconnectedError", "message": "ServerDisconnectedError('x')"},
            "ServerDisconnectedError('x')",
        ),
    ],
)
def test_other_failures(error: dict[str, object], reason: str) -> None:
    assert aiperf._reason(error) == reason


def test_an_ended_run_keeps_what_it_wrote(tmp_path: Path) -> None:
    content = (DATA / "aiperf-vllm" / aiperf.RECORDS).read_text()
    (tmp_path / aiperf.RECORDS).write_text(content[:-100])
    answers = aiperf.read_answers(tmp_path)
    assert len(answers) == 7
    assert all(answer.text is None and answer.reported_tokens == 12 for answer in answers)


def test_cancelled_requests_and_empty_answers(tmp_path: Path) -> None:
    shutil.copytree(DATA / "aiperf-vllm", tmp_path, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (tmp_path / aiperf.RECORDS).read_text().splitlines()]
    measured = [row for row in rows if row["metadata"]["benchmark_phase"] == "profiling"]
    measured[0]["metadata"]["was_cancelled"] = True
    measured[1]["metrics"] = {}
    (tmp_path / aiperf.RECORDS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = aiperf.read_answers(tmp_path)
    assert sum(answer.cut_off for answer in answers) == 1
    assert [answer.error for answer in answers if answer.error] == ["an answer without any text"]


@pytest.mark.parametrize("line", ["{}", "[]", "no json", '{"metadata": {"benchmark_phase": "profiling"}}', "5"])
def test_damaged_records(line: str, tmp_path: Path) -> None:
    (tmp_path / aiperf.RECORDS).write_text(line + "\n")
    with pytest.raises(EngineError, match=r"is not what aiperf 0\.13\.0 writes"):
        aiperf.read_answers(tmp_path)


def test_damaged_texts_are_done_without(tmp_path: Path) -> None:
    shutil.copytree(DATA / "aiperf-vllm", tmp_path, dirs_exist_ok=True)
    (tmp_path / aiperf.TEXTS).write_text('{"data": [{}')
    assert {answer.text for answer in aiperf.read_answers(tmp_path)} == {None}


def test_records_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiperf, "MAX_FILE_BYTES", 10)
    with pytest.raises(EngineError, match="is larger than"):
        aiperf.read_answers(DATA / "aiperf-vllm")


def test_settings_of_a_closed_loop(tmp_path: Path) -> None:
    settings = aiperf.settings_of(job(), tmp_path)["benchmark"]
    warmup, measured = settings["phases"]
    assert (warmup["requests"], warmup["exclude_from_results"], measured["requests"]) == (2, True, 3)
    assert all((phase["type"], phase["concurrency"]) == ("concurrency", 2) for phase in (warmup, measured))
    assert all((phase["duration"], phase["grace_period"]) == (30.0, 10.0) for phase in (warmup, measured))
    assert settings["endpoint"]["path"] == "/v1/chat/completions"
    assert "api_key" not in settings["endpoint"]


def test_settings_of_an_open_loop_with_a_key(tmp_path: Path) -> None:
    made = job(Point(request_rate=500), api_key="secret", route="completions", warmup=0)
    settings = aiperf.settings_of(made, tmp_path)["benchmark"]
    (measured,) = settings["phases"]
    assert (measured["type"], round(measured["rate"], 3)) == ("poisson", 8.333)
    assert (settings["endpoint"]["type"], settings["endpoint"]["path"]) == ("completions", "/v1/completions")
    assert settings["endpoint"]["api_key"] == "${MIGRATE_LOAD_API_KEY}"
    assert "secret" not in json.dumps(settings)


def test_requests_are_written_as_they_are_sent(tmp_path: Path) -> None:
    made = job(bodies=[{"prompt": [1, 2]}, {"messages": [{"role": "user", "content": "é\n"}]}])
    aiperf.write_requests(made, tmp_path / "requests.jsonl")
    lines = (tmp_path / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"messages": [], "prompt": [1, 2]}, made.bodies[1]]


def test_nothing_is_left_behind() -> None:
    made = aiperf.environment(Path("/tmp/migrate-load-abcdefgh"))
    assert made["AIPERF_DATASET_MMAP_CACHE_ENABLED"] == "false"
    assert made["AIPERF_DATASET_MMAP_BASE_PATH"] == made["TMPDIR"] == "/tmp/migrate-load-abcdefgh"
    assert (made["HF_HUB_OFFLINE"], made["HF_ENDPOINT"]) == ("", "http://127.0.0.1:9")
    assert "TMPDIR" not in aiperf.environment(Path("/var/" + 60 * "x")), "sockets would have too long a name"


def test_many_streams_get_more_workers() -> None:
    assert [aiperf.workers(job(Point(n))) for n in (1, 63, 64, 256)] == [1, 1, 2, 5]


def test_progress_counts_lines(tmp_path: Path) -> None:
    told: list[int] = []
    look = aiperf._line_counter(tmp_path / "records", told.append)
    look()
    (tmp_path / "records").write_text("a\nb\nhalf")
    look()
    with (tmp_path / "records").open("a") as file:
        file.write(" line\n")
    look()
    assert told == [2, 3]
