"""`migrate plan` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from migrate.bundle import write
from migrate.cli.plan import command
from migrate.errors import BadInput, MigrateError, NotFound, ServerUnreachable, UsageError
from migrate.mapping.migration import Choices, plan
from migrate.ollama import reference
from tests.plan.published import LLAMA_8B, QWEN_7B

app = typer.Typer()
app.command()(command)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"}, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def run_json(*arguments: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code))
    return found


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    return path


@pytest.fixture(scope="module")
def bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = reference.load("native-bot", models_dir=shared / "ollama" / "store")
    out = tmp_path_factory.mktemp("plan") / "out"
    write.write(plan(model, Choices()), out)
    return out


def test_published_facts_in_the_json(llama: Path, tmp_path: Path) -> None:
    found = run_json("--config", llama, "--gpu", "A100-40GB", "--gpu-memory-utilization", 0.9)
    (row,) = found["gpus"]
    assert row["kv_bytes_per_token"] == 131_072
    assert row["weights_bytes"] == found["weights"]["bytes"] == 2 * 8_030_261_248
    for key in (
        "kv_cache_bytes",
        "max_concurrency",
        "requests_per_minute",
        "instances_per_gpu",
        "gpus",
        "monthly_cost",
    ):
        assert row[key] > 0
    qwen = tmp_path / "qwen.json"
    qwen.write_text(json.dumps(QWEN_7B))
    assert run_json("--config", qwen, "--gpu", "L4")["gpus"][0]["kv_bytes_per_token"] == 57_344


def test_the_table_for_a_person(llama: Path) -> None:
    text = " ".join(run("--config", llama, "--rate", "500/min", "--budget", "1000/month").split())
    assert "131,072 bytes per token" in text
    assert "500 requests a minute within ttft=2000ms,itl=100ms" in text
    assert "no bfloat16" in text
    assert "over the budget by" in text
    assert "prices of 2026" in text
    assert "note: prompt: 512 tokens assumed" in text
    assert "calibrate" in text
    assert "\x1b" not in text


def test_explained(llama: Path) -> None:
    text = run("--config", llama, "--gpu", "L40S", "--explain", "--rate", "8/s")
    for formula in (
        "32 layers x 8 heads x 2 x 128 values x 2 bytes",
        "44.39 GiB x 0.92 - 14.96 GiB - ",
        "max concurrency x max-model-len",
        "864 GB/s x 0.7",
        "ceil(480 / (",
        "x $0.90 x 730",
        "vLLM v1/core/kv_cache_utils.py",
    ):
        assert formula in text, formula


def test_no_gpu_does_it(llama: Path) -> None:
    assert "none of these GPUs does it" in run("--config", llama, "--gpu", "T4", code=3)
    found = run_json("--config", llama, "--gpu", "L4", "--budget", 1, code=3)
    assert found["gpus"][0]["reason"].startswith("over the budget")


def test_a_bundle(bundle: Path) -> None:
    found = run_json(bundle, "--gpu", "L4")
    files = json.loads((bundle / "migration.json").read_text())
    assert found["max_model_len"] == files["target"]["max_model_len"]
    assert found["weights"] == {"way": "dense", "bytes": 7_082_496, "exact": True,
                                "ways": found["weights"]["ways"]}  # fmt: skip
    assert found["gpus"][0]["kv_bytes_per_token"] == 2048
    assert run_json(bundle / "model", "--gpu", "L4")["gpus"][0]["kv_bytes_per_token"] == 2048


@pytest.mark.parametrize(
    ("context", "lengths", "load"),
    [
        (1024, [], (512, 256)),
        (256, [], (171, 85)),
        (600, ["--prompt-tokens", 500], (500, 100)),
        (600, ["--output-tokens", 400], (200, 400)),
        (1, [], (1, 1)),
    ],
)
def test_assumed_lengths_fit_into_a_short_context(
    llama: Path, context: int, lengths: list[Any], load: tuple[int, int]
) -> None:
    code = 3 if sum(load) > context else 0
    found = run_json("--config", llama, "--gpu", "L40S", "--max-model-len", context, *lengths, code=code)
    assert (found["load"]["prompt"], found["load"]["output"]) == load


def test_a_context_longer_than_the_models(llama: Path) -> None:
    note = "more than the model's 131,072"
    assert note in " ".join(run_json("--config", llama, "--gpu", "H100", "--max-model-len", 200_000)["notes"])
    assert note not in " ".join(run_json("--config", llama, "--gpu", "H100", "--max-model-len", 131_072)["notes"])


def test_a_single_token_has_no_next_one(llama: Path) -> None:
    rates = [
        run_json("--config", llama, "--gpu", "L40S", "--output-tokens", n)["gpus"][0]["requests_per_minute"]
        for n in (1, 10, 100)
    ]
    assert rates == sorted(rates, reverse=True)


def test_next_is_a_command_that_exists(bundle: Path, shared: Path) -> None:
    """`convert` takes what Ollama has, and no checkpoint directory."""
    said = CliRunner().invoke(app, [str(bundle / "model"), "--gpu", "L4"]).stderr
    assert "migrate convert" not in said
    said = CliRunner().invoke(app, ["q4-bot", "--models-dir", str(shared / "ollama" / "store"), "--gpu", "L4"]).stderr
    assert "migrate convert q4-bot -o out/" in said


def test_a_model_of_the_store(shared: Path) -> None:
    found = run_json("q4-bot", "--models-dir", shared / "ollama" / "store", "--gpu", "L4", "--max-model-len", 1024)
    assert found["weights"]["ways"]["repack"] < found["weights"]["ways"]["dense"]
    repacked = run_json(
        *("q4-bot", "--models-dir", shared / "ollama" / "store", "--gpu", "L4", "--max-model-len", 1024),
        *("--weights", "repack"),
    )
    assert repacked["weights"]["bytes"] == found["weights"]["ways"]["repack"]


def test_lengths_and_prefixes_from_ones_own_requests(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    system = "You are the support assistant of Example Shop. Answer in one or two short sentences. " * 8
    lines = [
        {
            "path": "/api/chat",
            "body": {
                "model": "native-bot",
                "messages": [{"role": "system", "content": system}, {"role": "user", "content": f"Question {i}?"}],
            },
            "answer": {"text": "four" * 20},
        }
        for i in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = run_json(bundle, "--gpu", "L4", "--requests", path)
    share = found["prefix_share"]
    assert share["prompts"] == 20
    assert 0.7 < share["share"] < 0.95
    assert 1 < found["load"]["output"] <= 80  # 80 characters
    assert found["load"]["prompt"] == round(share["tokens"] / 20)
    assert found["load"]["shared"] == pytest.approx(share["share"], abs=1e-3)
    assert any("in an earlier one's beginning" in note for note in found["notes"])
    own = run_json(bundle, "--gpu", "L4", "--requests", path, "--prompt-tokens", 100, "--output-tokens", 50)
    assert (own["load"]["prompt"], own["load"]["output"]) == (100, 50)
    text = run(bundle, "--gpu", "L4", "--requests", path)
    assert "prefix caching is on by default" in text


def test_requests_to_other_models_do_not_count(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    rows = [{"model": name, "messages": [{"role": "user", "content": name * 40}]} for name in ("q4-bot", "other")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run_json("q4-bot", "--models-dir", shared / "ollama" / "store", "--gpu", "L4", "--requests", path)
    assert found["prefix_share"]["prompts"] == 1


def test_a_directory_without_a_chat_template(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps({"model": "any", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}) + "\n")
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (directory / name).symlink_to(shared / "models" / "tinychat" / "hf" / name)
    found = run_json(directory, "--gpu", "L4", "--requests", path)
    assert any("no chat template" in note for note in found["notes"])
    assert found["load"]["prompt"] < 30


def test_requests_without_a_tokenizer_are_estimated(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    body = {"model": "any", "messages": [{"role": "user", "content": "x" * 400}]}
    path.write_text(json.dumps(body) + "\n")
    found = run_json("--config", llama, "--gpu", "L4", "--requests", path)
    assert 100 <= found["load"]["prompt"] <= 105
    assert any("no tokenizer" in note for note in found["notes"])
    assert any("no answers recorded" in note for note in found["notes"])


def report(**percentiles: float) -> dict[str, Any]:
    loads = [
        {
            "side": "target",
            "concurrency": batch,
            "input_tokens": 200,
            "output_tokens": 100,
            "itl_ms": {"p50": itl},
            "ttft_ms": {"p50": percentiles["ttft"]},
        }
        for batch, itl in ((1, percentiles["itl"]), (8, percentiles["itl"] * 1.2))
    ]
    return {"throughput": {"loads": loads}}


def test_calibrated_from_a_report(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report(itl=40, ttft=90)))
    plain = run_json("--config", llama, "--gpu", "L40S")["gpus"][0]
    found = run_json("--config", llama, "--gpu", "L40S", "--calibrate", path)["gpus"][0]
    assert found["requests_per_minute"] < plain["requests_per_minute"]
    assert any("measured: " in figure["source"] for figure in found["figures"])
    path.write_text(json.dumps(report(itl=1, ttft=2)))
    with pytest.raises(UsageError, match="L40S needs at least"):
        run("--config", llama, "--gpu", "L40S", "--calibrate", path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], UsageError, "plan what"),
        (["x", "--config", "LLAMA"], UsageError, "plan what"),
        (["--config", "/none/config.json"], NotFound, "no such file"),
        (["/none/model"], NotFound, "/none/model"),
        (["~no-such-user/model"], MigrateError, "model"),
        (["x" * 5000], MigrateError, "x"),
        (["--config", "LLAMA", "--gpu", "MI300X"], UsageError, "not in the table"),
        (["--config", "LLAMA", "--rate", "fast"], UsageError, "--rate"),
        (["--config", "LLAMA", "--slo", "tpot=5"], UsageError, "--slo"),
        (["--config", "LLAMA", "--budget", "cheap"], UsageError, "--budget"),
        (["--config", "LLAMA", "--weights", "int3"], UsageError, "--weights"),
        (["--config", "LLAMA", "--dtype", "int3"], UsageError, "--dtype"),
        (["--config", "LLAMA", "--kv-cache-dtype", "int3"], UsageError, "--kv-cache-dtype"),
        (["--config", "LLAMA", "--gpus", "/none.yaml"], NotFound, "no such file"),
        (["--config", "LLAMA", "--calibrate", "/none.json"], UsageError, "which GPU"),
        (["--config", "LLAMA", "--gpu", "L4", "--calibrate", "/none.json"], NotFound, "no such file"),
        (["--config", "LLAMA", "--gpu", "L4", "--calibrate", "http://127.0.0.1:9"], ServerUnreachable, "127.0.0.1:9"),
        (["--config", "LLAMA", "--requests", "/none.jsonl"], NotFound, "none.jsonl"),
    ],
)
def test_mistakes_are_told(llama: Path, arguments: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(*[str(llama) if argument == "LLAMA" else argument for argument in arguments])


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_reports_that_are_none(llama: Path, tmp_path: Path, content: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(BadInput):
        run("--config", llama, "--gpu", "L4", "--calibrate", path)


def test_a_bundle_that_points_outside(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "migration.json").read_text()) | {"model_dir": "../../etc"}
    (tmp_path / "migration.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="outside"):
        run(tmp_path)


def test_ones_own_prices(llama: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "gpus: [{name: Cheap, memory_gib: 80, bandwidth: 2000, tflops: {float16: 300}, capability: '9.0', "
        "price: {typical: 0.1, low: 0.1, high: 0.1, date: 2026-11, source: our own machine}}]"
    )
    found = run_json("--config", llama, "--gpus", mine, "--rate", "500/min")
    assert found["gpus"][0]["gpu"] == "Cheap"
    assert "our own machine" in run("--config", llama, "--gpus", mine, "--rate", "500/min")
