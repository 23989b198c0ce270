"""aiperf as the load generator: one settings file per run, and its per-request records read back.

Facts are of aiperf 0.13.0, as installed. It replays complete request bodies (`raw_payload`), one JSON object a line,
each with a list `messages` even where the server reads `prompt`. With HF_HUB_OFFLINE it takes a tokenizer's directory
for the name of a repository, so the variable is kept from it; a path is never looked up on the Hub.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from migrate.engines import loadgen
from migrate.errors import EngineError
from migrate.parity.throughput.records import MAX_ERROR, MAX_FILE_BYTES, Answer, Job, Outcome, Watch

RECORDS = "profile_export.jsonl"
TEXTS = "outputs.json"
KEY_VARIABLE = "MIGRATE_LOAD_API_KEY"
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast"}
"""Loads tokenizer.json as it is; the families' own classes may want more files, or code from the Hub."""
MAX_SOCKET_ROOT = 50
"""Length of a directory's name under which those of aiperf's sockets fit (104 on macOS, 108 on Linux, in all)."""
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "",
    "TRANSFORMERS_OFFLINE": "",
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there: no run may depend on the network
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",
    "AIPERF_DATASET_MMAP_CACHE_ENABLED": "false",  # it would keep the prompts in the home directory for good
}


@dataclass(frozen=True, slots=True)
class Aiperf:
    """An installed aiperf."""

    program: Path
    version: str

    @property
    def name(self) -> str:
        return f"aiperf {self.version}"

    def run(self, job: Job, directory: Path, watch: Watch) -> Outcome:
        artifacts = directory / "artifacts"
        settings = directory / "aiperf.yaml"
        write_requests(job, directory / "requests.jsonl")
        _copy_tokenizer(job.tokenizer, directory / "tokenizer")
        settings.write_text(json.dumps(settings_of(job, directory)), encoding="utf-8")  # JSON is YAML
        error = loadgen.run_bounded(
            [self.program, "profile", "--config", settings],
            name="aiperf",
            log=directory / "aiperf.log",
            env={**environment(directory), KEY_VARIABLE: job.api_key or ""},
            cwd=directory,
            timeout=job.deadline,
            watch=_line_counter(artifacts / RECORDS, watch),
        )
        answers = read_answers(artifacts) if (artifacts / RECORDS).is_file() else ()
        return Outcome(answers, "" if any(answer.error for answer in answers) else error)


def find() -> Aiperf:
    """The installed aiperf, which is installed now if need be (told on stderr). Raises NotFound, EngineError."""
    return of(loadgen.ensure(echo=partial(print, file=sys.stderr, flush=True)))


def of(program: Path) -> Aiperf:
    return Aiperf(program, loadgen.version_of(program))


def environment(directory: Path) -> dict[str, str]:
    """Variables for a run that leaves nothing outside `directory`, prompts least of all."""
    found = {**ENVIRONMENT, "AIPERF_DATASET_MMAP_BASE_PATH": str(directory)}
    if len(str(directory)) <= MAX_SOCKET_ROOT:
        found["TMPDIR"] = str(directory)
    return found


def settings_of(job: Job, directory: Path) -> dict[str, Any]:
    """aiperf's configuration (schema 2.0) for a job whose files lie in `directory`."""
    load: dict[str, Any] = {"duration": job.seconds, "grace_period": job.request_timeout}
    if rate := job.point.request_rate:
        load |= {"type": "poisson", "rate": rate / 60}
    else:
        load |= {"type": "concurrency", "concurrency": job.point.concurrency}
    phases = [{**load, "name": "profiling", "requests": job.requests}]
    if job.warmup:
        phases.insert(0, {**load, "name": "warmup", "requests": job.warmup, "exclude_from_results": True})
    endpoint: dict[str, Any] = {
        "urls": [job.url],
        "path": f"/v1/{job.route}",
        "type": "chat" if job.route == "chat/completions" else "completions",
        "streaming": True,
        "timeout": job.request_timeout,
        "use_server_token_count": True,
        "connection_reuse": "never",  # llama.cpp closes kept connections as it likes, which would count as failures
    }
    if job.api_key:
        endpoint["api_key"] = "${" + KEY_VARIABLE + "}"
    return {
        "schemaVersion": "2.0",
        "randomSeed": job.seed,
        "benchmark": {
            "models": [job.model],
            "endpoint": endpoint,
            "dataset": {
                "type": "file",
                "path": str(directory / "requests.jsonl"),
                "format": "raw_payload",
                "sampling": "sequential",
            },
            "tokenizer": {"name": str(directory / "tokenizer")},
            "phases": phases,
            "artifacts": {"dir": str(directory / "artifacts"), "records": ["jsonl"], "export_outputs_json": True},
            "gpu_telemetry": {"enabled": False},
            "server_metrics": {"enabled": False},
            "runtime": {"workers": workers(job), "record_processors": 1, "ui": "none"},
        },
    }


def workers(job: Job) -> int:
    """Sending processes: one carries dozens of streams, and each takes a core from a server on the same machine."""
    return 1 + (job.point.concurrency or 32) // 64


def write_requests(job: Job, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for body in job.bodies:
            file.write(json.dumps({"messages": [], **body}, ensure_ascii=False) + "\n")


def read_answers(artifacts: Path) -> tuple[Answer, ...]:
    """The measured requests of a run, in no particular order. Raises EngineError when the files cannot be read.

    A last line that was cut off, as when aiperf was ended, is left out.
    """
    path = artifacts / RECORDS
    texts = _read_texts(artifacts / TEXTS)
    answers = []
    try:
        for record in _lines(path):
            if record["metadata"]["benchmark_phase"] == "profiling":
                answers.append(_answer(record, texts))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"{path} is not what aiperf {loadgen.AIPERF} writes: {error!r}",
            hint=f"{loadgen.OWN_LOADGEN}, or unset {loadgen.ENV_OVERRIDE}",
        ) from None
    return tuple(answers)


def _answer(record: Mapping[str, Any], texts: Mapping[str, str]) -> Answer:
    metadata, metrics = record["metadata"], record.get("metrics") or {}
    start = metadata["request_start_ns"] / 1e9
    if metadata.get("was_cancelled"):
        return Answer(start, cut_off=True)
    if error := record.get("error"):
        return Answer(start, error=_reason(error)[:MAX_ERROR])

    def value(name: str) -> float | None:
        return float(metrics[name]["value"]) if name in metrics else None

    latency = value("request_latency")
    if latency is None:
        return Answer(start, error="an answer without any text")
    reported, given = value("usage_completion_tokens"), value("usage_prompt_tokens")
    return Answer(
        start=start,
        e2e_ms=latency,
        ttft_ms=value("time_to_first_token"),
        text=texts.get(str(metadata["x_request_id"])),
        reported_tokens=None if reported is None else int(reported),
        input_tokens=None if given is None else int(given),
    )


def _reason(error: Mapping[str, Any]) -> str:
    kind, message = str(error.get("type")), str(error.get("message"))
    if kind == "TimeoutError":
        return "TimeoutError: no complete answer in the time of one request"
    if kind == "ClientConnectorError" and error.get("cause"):
        return str(error["cause"])  # the message is about aiohttp's settings
    return message if message.startswith(kind) else f"{kind}: {message}"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    _check_size(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _read_texts(path: Path) -> dict[str, str]:
    """x_request_id -> text; empty when aiperf did not come to write them."""
    if not path.is_file():
        return {}
    _check_size(path)
    try:
        entries = json.loads(path.read_bytes())["data"]
        return {str(entry["x_request_id"]): str(entry.get("response_text") or "") for entry in entries}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise EngineError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB", hint="ask for fewer --requests")


def _copy_tokenizer(model: Path, directory: Path) -> None:
    directory.mkdir()
    shutil.copy(model / "tokenizer.json", directory)
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG), encoding="utf-8")


def _line_counter(path: Path, watch: Watch) -> Callable[[], None]:
    """Tells `watch` how many records there are; reads what was added since the last time only."""
    done, lines = 0, 0

    def look() -> None:
        nonlocal done, lines
        try:
            with path.open("rb") as file:
                file.seek(done)
                while piece := file.read(1 << 20):
                    done += len(piece)
                    lines += piece.count(b"\n")
        except OSError:
            return
        watch(lines)

    return look
