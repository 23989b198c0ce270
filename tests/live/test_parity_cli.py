"""The gate as a person runs it, on real servers: reports on disk, the user's own requests and tasks, a reference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.engines import llamacpp, vllm
from migrate.parity.report import ParityReport
from tests.cli.conftest import Run
from tests.cli.conftest import run as run  # the fixture

pytestmark = pytest.mark.live


def test_requests_tasks_samples_and_reports(
    run: Run,
    tinychat_bundle: Path,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    vllm_tinychat: vllm.VllmEngine,
    shared: Path,
    tmp_path: Path,
) -> None:
    requests = tmp_path / "requests.jsonl"
    lines = [
        {"path": "/api/chat", "body": {"model": "native-bot", "messages": [{"role": "user", "content": text}],
                                       "options": {"num_ctx": 4096}, "keep_alive": "5m"}}
        for text in ("What is 3+4?", "What is the capital of Peru?", "Name a colour.", "Count to five.", "Hello!",
                     "What is 3+4?", "Mail ada@example.org about the cats.")
    ]  # fmt: skip
    lines.append({"path": "/v1/chat/completions", "body": {"model": "native-bot", "max_tokens": 5, "messages": []}})
    requests.write_text("\n".join(map(json.dumps, lines)))
    tasks = tmp_path / "tasks.jsonl"
    sums = ({"prompt": f"What is {n}+4?", "expected": n + 4, "match": "number"} for n in range(6))
    tasks.write_text("\n".join(map(json.dumps, sums)))
    out = tmp_path / "out"
    result = run(
        "parity", tinychat_bundle, "--source", llamacpp_f16.url, "--target", vllm_tinychat.url, "--requests", requests,
        "--redact", "--tasks", tasks, "--samples", "6", "--max-tokens", "24", "-o", out, "--json",
    )  # fmt: skip
    report = ParityReport.model_validate_json(result.out)
    assert (result.code, report.verdict.value) == (4, "inconclusive"), result.err
    assert report.reason.startswith("tasks: "), "six tasks decide nothing"
    assert [layer.status for layer in report.layers] == ["pass"] * 8 + ["inconclusive"]
    assert [layer.name.value for layer in report.layers][-3:] == ["sampled", "behaviours", "tasks"]
    assert (report.traffic.read, report.traffic.used, report.traffic.duplicates) == (8, 6, 1)
    assert report.traffic.redacted
    assert report.conversations == 6
    assert report.plan[0].items == 6
    native = next(client for client in report.clients if client.client == "native")
    assert any("keep_alive" in change for change in native.changes)
    assert {path.name for path in out.iterdir()} == {"report.json", "report.html", "report.md", "junit.xml"}
    assert "ada@example.org" not in (out / "report.html").read_text() + (out / "report.json").read_text()
    assert run("parity", "show", out).code == 4


def test_a_default_place_and_the_layers_that_are_wanted(
    run: Run, tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    arguments = ("parity", tinychat_bundle, "--source", llamacpp_f16.url, "--target", vllm_tinychat.url)
    result = run(*arguments, "--layers", "tokens")
    assert result.code == 0, result
    assert "prompt: pass" in result.err
    (directory,) = (tinychat_bundle / "proof").iterdir()
    assert f"report: {directory}/report.html" in result.err
    assert "PASS" in result.out


def test_a_vllm_as_source_and_llama_cpp_as_reference(
    run: Run, tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine,
    tmp_path: Path,
) -> None:  # fmt: skip
    result = run(
        "parity", tinychat_bundle, "--source", vllm_tinychat.url, "--target", vllm_tinychat.url,
        "--reference", llamacpp_f16.url, "--layers", "logprobs,text", "-o", tmp_path / "r.json", "--json",
    )  # fmt: skip
    report = ParityReport.model_validate_json(result.out)
    assert result.code == 0, report.reason
    assert report.source.startswith("vLLM 0.32.0")
    assert report.reference.startswith("llama.cpp")
    assert (tmp_path / "r.json").is_file()
