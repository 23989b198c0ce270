"""`vllm bench serve` as the load generator, where a vLLM with its benchmark extra is installed.

Facts are of vLLM 0.32.0, as installed (vllm.md section 8.1). With --skip-tokenizer-init the custom dataset passes
prompts on as they are: lists of chat messages on the chat endpoint, lists of token ids on the other one. It sends
`max_completion_tokens`, which Ollama does not know, so the limit goes into --extra-body in both spellings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate.engines import loadgen
from migrate.errors import EngineError, NotFound
from migrate.parity.throughput.records import MAX_ERROR, MAX_FILE_BYTES, Answer, Job, Outcome, Watch

RESULT = "result.json"
OWN_FIELDS = ("messages", "prompt", "model", "stream", "stream_options")
"""Of a request body: vLLM's generator writes these itself."""


@dataclass(frozen=True, slots=True)
class VllmBench:
    """An installed `vllm` command."""

    program: Path

    @property
    def name(self) -> str:
        found = sorted(self.program.resolve().parent.parent.glob("lib/python3*/site-packages/vllm-*.dist-info"))
        return "vllm bench serve " + (found[-1].name.split("-")[1].removesuffix(".dist") if found else "?")

    def run(self, job: Job, directory: Path, watch: Watch) -> Outcome:
        """All bodies of a job differ in their prompt only. The discarded requests are sent in the same run, first."""
        dataset = directory / "prompts.jsonl"
        write_prompts(job, dataset)
        error = loadgen.run_bounded(
            command_of(job, self.program, dataset, directory),
            name="vllm bench serve",
            log=directory / "vllm-bench.log",
            env={"OPENAI_API_KEY": job.api_key or "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
            cwd=directory,
            timeout=job.seconds + job.request_timeout + 120.0,
        )
        if error and "No module named" in error:
            raise EngineError(error, hint="pip install 'vllm[bench]', or use --tool aiperf")
        result = directory / RESULT
        answers = read_answers(result, discard=job.warmup) if result.is_file() else ()
        watch(len(answers) + job.warmup)
        return Outcome(answers, "" if answers else error)


def find(command: str = "vllm") -> VllmBench:
    """Raises NotFound when no such program is on the PATH."""
    program = shutil.which(command)
    if program is None:
        raise NotFound(f"no {command!r} on the PATH", hint="install vLLM here, or use --tool aiperf")
    return VllmBench(Path(program))


def write_prompts(job: Job, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for body in job.bodies:
            prompt = body["prompt"] if job.route == "completions" else body["messages"]
            file.write(json.dumps({"prompt": prompt, "output_tokens": job.output_tokens}, ensure_ascii=False) + "\n")


def command_of(job: Job, program: Path, dataset: Path, directory: Path) -> list[str]:
    first: Mapping[str, Any] = job.bodies[0]
    extra = {key: value for key, value in first.items() if key not in OWN_FIELDS}
    if job.route == "chat/completions":
        extra["max_completion_tokens"] = job.output_tokens
    rate = job.point.request_rate
    load = ["--request-rate", f"{rate / 60:g}"] if rate else ["--max-concurrency", str(job.point.concurrency)]
    return [
        *(str(program), "bench", "serve", "--base-url", job.url, "--endpoint", f"/v1/{job.route}"),
        *("--backend", "openai-chat" if job.route == "chat/completions" else "openai", "--model", job.model),
        *("--dataset-name", "custom", "--dataset-path", str(dataset), "--disable-shuffle", "--skip-chat-template"),
        *("--skip-tokenizer-init", "--num-prompts", str(len(job.bodies)), "--num-warmups", "0", *load),
        *("--seed", str(job.seed), "--extra-body", json.dumps(extra), "--save-result", "--save-detailed"),
        *("--result-dir", str(directory), "--result-filename", RESULT, "--disable-tqdm"),
    ]


def read_answers(path: Path, *, discard: int) -> tuple[Answer, ...]:
    """All requests but the first `discard` that were sent. Raises EngineError when the file cannot be read."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise EngineError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB", hint="ask for fewer --requests")
    try:
        result = json.loads(path.read_bytes())
        names = ("start_times", "latencies", "ttfts", "generated_texts", "output_lens", "errors")
        rows = zip(*(result[name] for name in names), strict=True)
        answers = [_answer(*row) for row in rows]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"{path} is not what `vllm bench serve --save-detailed` writes: {error!r}",
            hint="this reads the files of vLLM 0.32; use --tool aiperf",
        ) from None
    return tuple(sorted(answers, key=lambda answer: answer.start)[discard:])


def _answer(start: float, latency: float, ttft: float, text: str, tokens: int, error: str) -> Answer:
    if error:
        return Answer(float(start), error=(str(error).strip().splitlines() or ["?"])[-1][:MAX_ERROR])
    reported = int(tokens) if tokens > 1 else None  # 1 is what it assumes when it finds no usage in the stream
    return Answer(float(start), latency * 1000, ttft * 1000, str(text), reported)
