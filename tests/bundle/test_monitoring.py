"""Alert rules and dashboard: read by Prometheus' own tool, and every name held to a real vLLM's /metrics."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.bundle import write
from migrate.bundle.monitoring import job_name, monitoring_files
from migrate.bundle.runbook import Limits
from migrate.mapping.migration import plan
from migrate.ollama.reference import load
from migrate.ollama.store import Store
from tests.architectures.families import ROOT

METRICS = Path(__file__).parent / "data" / "vllm-0.32.0-metrics.txt"
JOB = "vllm-support-bot"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> bundle_format.Manifest:
    out = tmp_path_factory.mktemp("bundle") / "out"
    return write.write(plan(Store(resources.directory("demo-store")).load("support-bot")), out).manifest


@pytest.fixture(scope="module")
def files(manifest: bundle_format.Manifest) -> dict[str, str]:
    return monitoring_files(manifest)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("bundle") / "out"
    return monitoring_files(write.write(plan(load(str(ROOT / "nomic_bert" / "model.gguf"))), out).manifest)


@pytest.fixture
def promtool() -> str:
    if (found := shutil.which("promtool")) is None:
        pytest.skip("PROMTOOL MISSING (Debian: apt-get install prometheus): the rules were not read by Prometheus")
    return found


def check(promtool: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run([promtool, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def put(files: dict[str, str], root: Path) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root / "monitoring"


def rules(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(files["monitoring/alerts.yml"])["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def dashboard(files: dict[str, str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files["monitoring/grafana.json"])
    return content


def panels(files: dict[str, str]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(files)["panels"] if panel["type"] != "row"]


def queries(files: dict[str, str]) -> Iterator[str]:
    """Every PromQL of the rules and of the dashboard, with Grafana's variables filled in."""
    yield from (rule["expr"] for rule in rules(files).values())
    for panel in panels(files):
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")


@cache
def recorded() -> dict[str, set[str]]:
    """name of a series -> its labels, as a real server had them."""
    found: dict[str, set[str]] = {"up": set()}
    for line in METRICS.read_text().splitlines():
        if match := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line):
            found.setdefault(match[1], set()).update(re.findall(r"(\w+)=\"", match[2] or ""))
    return found


# ---- what Prometheus says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["files", "pooling"])
def test_prometheus_takes_rules_and_configuration(
    promtool: str, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    written: dict[str, str] = request.getfixturevalue(which)
    where = put(written, tmp_path)
    assert f"{len(rules(written))} rules found" in check(promtool, "check", "rules", "alerts.yml", cwd=where)
    assert "1 rule files found" in check(promtool, "check", "config", "prometheus.yml", cwd=where)


def test_prometheus_parses_every_query_of_the_dashboard(
    promtool: str, files: dict[str, str], pooling: dict[str, str], tmp_path: Path
) -> None:
    wanted = [*queries(files), *queries(pooling)]
    group = {"name": "all", "rules": [{"record": f"q:{n}", "expr": expr} for n, expr in enumerate(wanted)]}
    (tmp_path / "all.yml").write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(wanted)} rules found" in check(promtool, "check", "rules", "all.yml", cwd=tmp_path)


def series(name: str, labels: str, values: str) -> dict[str, str]:
    return {"series": f'{name}{{job="{JOB}",instance="a:8000"{"," if labels else ""}{labels}}}', "values": values}


HTTP = "http_requests_total"
CHAT = 'handler="/v1/chat/completions",method="POST",status='
UP = series("up", "", "1x100")


def slow(metric: str, *bounds: str) -> list[dict[str, str]]:
    """One answer in ten lies within the first bound, all within the second."""
    name = f"vllm:{metric}_seconds_bucket"
    counts = ("0+1x40", "0+10x40", "0+10x40")
    buckets = zip((*bounds, "+Inf"), counts, strict=True)
    return [UP, *(series(name, f'le="{bound}"', count) for bound, count in buckets)]


def ends(reason: str, values: str) -> dict[str, str]:
    return series("vllm:request_success_total", f'finished_reason="{reason}"', values)


STUCK = [series("vllm:num_requests_running", "", "2x30"), series("vllm:generation_tokens_total", "", "50x30")]
FIRES = [
    # alert, what is seen (one value a minute), the minute in which it fires
    ("VllmDown", [series("up", "", "1 0x9")], 5),
    ("VllmNotScraped", [], 10),
    ("VllmStuck", [UP, *STUCK], 20),
    ("VllmErrors", [UP, series(HTTP, CHAT + '"2xx"', "0+100x30"), series(HTTP, CHAT + '"5xx"', "0+5x30")], 20),
    ("VllmRefusals", [UP, series(HTTP, CHAT + '"2xx"', "0+100x60"), series(HTTP, CHAT + '"4xx"', "0+10x60")], 40),
    ("VllmOllamaRoutes", [UP, series(HTTP, 'handler="none",method="POST",status="4xx"', "0+1x30")], 20),
    ("VllmQueue", [UP, series("vllm:num_requests_waiting", "", "11x30")], 20),
    ("VllmCacheFull", [UP, series("vllm:kv_cache_usage_perc", "", "0.97x40")], 30),
    ("VllmPreemptions", [UP, series("vllm:num_preemptions_total", "", "0+2x40")], 30),
    ("VllmSlowFirstToken", slow("time_to_first_token", "1", "5"), 30),
    ("VllmSlowTokens", slow("inter_token_latency", "0.1", "0.5"), 30),
    ("VllmSlowAnswers", slow("e2e_request_latency", "50", "120"), 30),
    ("VllmAnswersCut", [UP, ends("stop", "0+1x90"), ends("length", "0+9x90")], 80),
]
QUIET = [
    UP,
    series(HTTP, CHAT + '"2xx"', "0+100x90"),
    series(HTTP, CHAT + '"4xx"', "0+1x90"),
    series(HTTP, CHAT + '"5xx"', "0x30 1x60"),  # a single one is no alarm
    series("vllm:num_requests_running", "", "4x90"),
    series("vllm:num_requests_waiting", "", "2x90"),
    series("vllm:generation_tokens_total", "", "0+900x90"),
    series("vllm:kv_cache_usage_perc", "", "0.6x90"),
    series("vllm:num_preemptions_total", "", "0x90"),
    *(series("vllm:time_to_first_token_seconds_bucket", f'le="{bound}"', "0+100x90") for bound in ("1", "5", "+Inf")),
    ends("stop", "0+90x90"),
    ends("length", "0+10x90"),
]


def test_alerts_fire_when_they_should_and_only_then(promtool: str, files: dict[str, str], tmp_path: Path) -> None:
    assert {alert for alert, *_ in FIRES} == set(rules(files))
    where = put(files, tmp_path)
    firing = [
        {
            "interval": "1m",
            "input_series": seen,
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertstate="firing", alertname="{alert}"}})',
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1}],
                }
            ],
        }
        for alert, seen, minute in FIRES
    ]
    quiet = {
        "interval": "1m",
        "input_series": QUIET,
        "promql_expr_test": [
            {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in (20, 40, 80)
        ],
    }
    content = {"rule_files": ["alerts.yml"], "evaluation_interval": "1m", "tests": [*firing, quiet]}
    (where / "test.yml").write_text(yaml.safe_dump(content))
    assert "SUCCESS" in check(promtool, "test", "rules", "test.yml", cwd=where)


# ---- what vLLM says -------------------------------------------------------------------------------------------------


def test_every_metric_and_label_is_one_that_vllm_has(files: dict[str, str], pooling: dict[str, str]) -> None:
    seen = recorded()
    scraped = {"job", "instance"}
    for expr in [*queries(files), *queries(pooling)]:
        selectors = re.findall(r"([a-zA-Z_][\w:]*)\{([^}]*)\}", expr)
        assert selectors, expr
        for name, labels in selectors:
            assert name in seen, f"{name} is no series of vLLM: {expr}"
            assert set(re.findall(r"(\w+)\s*(?:=|!=|=~)\"", labels)) <= seen[name] | scraped, expr
        grouped = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(",")}
        assert grouped <= scraped.union(*(seen[name] for name, _ in selectors)), expr


def test_values_of_labels_are_those_of_vllm(files: dict[str, str]) -> None:
    text = METRICS.read_text()
    for expr in queries(files):
        for label, value in re.findall(r'(status|handler|finished_reason)!?="([^"]+)"', expr):
            assert f'{label}="{value}"' in text, expr


def test_limits_lie_within_the_buckets(files: dict[str, str]) -> None:
    """A percentile above the last bucket is never found."""
    limits = Limits()
    bounds = {
        "time_to_first_token": limits.ttft_s,
        "inter_token_latency": limits.itl_s,
        "e2e_request_latency": limits.e2e_s,
    }
    for name, limit in bounds.items():
        buckets = re.findall(rf'vllm:{name}_seconds_bucket{{.*?le="([\d.]+)"', METRICS.read_text())
        assert max(map(float, buckets)) > 2 * limit


# ---- structure ------------------------------------------------------------------------------------------------------


def test_every_alert_says_what_to_do(files: dict[str, str]) -> None:
    for rule in rules(files).values():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].startswith("support-bot: ")
        assert rule["annotations"]["description"].endswith((".", "?"))


def test_panels_have_their_own_place_and_number(files: dict[str, str], pooling: dict[str, str]) -> None:
    for which in (files, pooling):
        everything = dashboard(which)["panels"]
        assert len({panel["id"] for panel in everything}) == len(everything)
        taken: set[tuple[int, int]] = set()
        for panel in everything:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells
        for panel in panels(which):
            assert panel["description"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_red_lines_are_the_limits_of_the_alerts(manifest: bundle_format.Manifest) -> None:
    moved = monitoring_files(manifest, limits=Limits(ttft_s=0.7, waiting=3))
    lines = {
        panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"] for panel in panels(moved)
    }
    assert lines["Time to the first token"] == 0.7
    assert lines["Requests running and waiting"] == 3
    assert lines["Tokens per second"] is None
    assert rules(moved)["VllmSlowFirstToken"]["expr"].endswith("> 0.7")
    assert rules(moved)["VllmQueue"]["expr"].endswith("> 3")


def test_every_instance_is_scraped(manifest: bundle_format.Manifest) -> None:
    written = monitoring_files(manifest, targets=["gpu1:8001", "gpu1:8002"])
    (job,) = yaml.safe_load(written["monitoring/prometheus.yml"])["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gpu1:8001", "gpu1:8002"]}]


def test_an_embedding_model_has_no_tokens_to_watch(pooling: dict[str, str]) -> None:
    assert "VllmDown" in rules(pooling)
    assert not any("token" in expr or "kv_cache" in expr for expr in rules(pooling))
    assert not any("first_token" in expr or "kv_cache" in expr or "success" in expr for expr in queries(pooling))


@pytest.mark.parametrize("name", ["alerts.yml", "prometheus.yml"])
def test_golden(manifest: bundle_format.Manifest, name: str) -> None:
    """`MIGRATE_GOLDEN=write pytest ...` writes them anew: look at the difference."""
    path = METRICS.parent / name
    made = monitoring_files(manifest.model_copy(update={"generator": "GENERATOR"}))[f"monitoring/{name}"]
    if os.environ.get("MIGRATE_GOLDEN") == "write":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


def test_same_bundle_same_bytes(manifest: bundle_format.Manifest, files: dict[str, str]) -> None:
    assert monitoring_files(manifest) == files
    assert sorted(files) == ["monitoring/alerts.yml", "monitoring/grafana.json", "monitoring/prometheus.yml"]


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("support-bot", "vllm-support-bot"),
        ("hf.co/acme/Model-GGUF:Q4_K_M", "vllm-hf.co-acme-Model-GGUF-Q4_K_M"),
        ("x" * 200, "vllm-" + "x" * 200),
    ],
)
def test_names_become_jobs(
    promtool: str, manifest: bundle_format.Manifest, name: str, job: str, tmp_path: Path
) -> None:
    assert job_name(name) == job
    target = manifest.target.model_copy(update={"served_model_name": [name], "host": "::"})
    written = monitoring_files(manifest.model_copy(update={"target": target}))
    assert yaml.safe_load(written["monitoring/prometheus.yml"])["scrape_configs"][0]["job_name"] == job
    assert "127.0.0.1:8000" in written["monitoring/prometheus.yml"]
    assert len(dashboard(written)["uid"]) <= 40
    check(promtool, "check", "rules", "alerts.yml", cwd=put(written, tmp_path))
