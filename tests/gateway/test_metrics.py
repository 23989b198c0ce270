"""The gateway's metrics, read by Prometheus' own parser and tool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from migrate import resources
from migrate.errors import MissingExtra
from migrate.gateway.metrics import Metrics

RULES = resources.directory("templates") / "monitoring" / "gateway-alerts.yml"


def values(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text, kind = metrics.render()
    assert kind.startswith("text/plain")
    return parsed(text.decode())


def parsed(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}


def used(metrics: Metrics) -> None:
    """Everything once."""
    metrics.begun("bot")
    metrics.begun("Bot:latest")
    metrics.ended(
        "bot", "/api/chat", "vllm", 200, total_s=1.5, ttft_s=0.2, overhead_s=0.0015, tokens_in=30, tokens_out=5
    )
    metrics.refused("bot")
    metrics.upstream_error("bot", "vllm")
    metrics.pair("bot", ("text", "prompt"))
    metrics.dropped("bot", "too many at a time")
    metrics.phase("bot", "canary", 12.5)
    metrics.tripped("bot", returned=True)


def test_what_is_told_is_counted() -> None:
    metrics = Metrics(["bot"])
    used(metrics)
    found = values(metrics)

    def value(name: str, **labels: str) -> float:
        return found[f"migrate_gateway_{name}", tuple(sorted(labels.items()))]

    where = {"model": "bot:latest", "route": "/api/chat", "upstream": "vllm"}
    assert value("requests_total", **where, status="200") == 1
    assert value("request_seconds_sum", **where) == 1.5
    assert value("request_seconds_bucket", **where, le="2.5") == 1
    assert value("request_seconds_bucket", **where, le="1.0") == 0
    assert value("first_token_seconds_bucket", **where, le="0.25") == 1
    assert value("overhead_seconds_bucket", **where, le="0.002") == 1
    assert value("tokens_total", model="bot:latest", upstream="vllm", kind="prompt") == 30
    assert value("tokens_total", model="bot:latest", upstream="vllm", kind="generated") == 5
    assert value("in_flight", model="bot:latest") == 1
    assert value("refused_total", model="bot:latest") == 1
    assert value("upstream_errors_total", model="bot:latest", upstream="vllm") == 1
    assert value("shadow_pairs_total", model="bot:latest") == 1
    assert value("shadow_differences_total", model="bot:latest", check="text") == 1
    assert value("shadow_dropped_total", model="bot:latest", reason="too many at a time") == 1
    phases = {
        phase: value("phase", model="bot:latest", phase=phase) for phase in ("source", "shadow", "canary", "target")
    }
    assert phases == {"source": 0, "shadow": 0, "canary": 1, "target": 0}
    assert value("canary_weight", model="bot:latest") == 12.5
    assert value("automatic_returns_total", model="bot:latest") == 1
    assert value("alarms_total", model="bot:latest") == 1


def test_labels_are_bounded() -> None:
    metrics = Metrics(["bot"])
    for number in range(200):
        metrics.begun(f"made-up-{number}")
        metrics.ended(f"made-up-{number}", f"/api/{number}", "", 404, total_s=0.1)
    assert len({labels for name, labels in values(metrics) if name == "migrate_gateway_requests_total"}) == 1


def test_an_answer_that_broke_off_is_no_200() -> None:
    metrics = Metrics(["bot"])
    metrics.begun("bot")
    metrics.ended("bot", "/api/chat", "vllm", None, total_s=3)
    assert {dict(labels)["status"] for name, labels in values(metrics) if name.endswith("requests_total")} == {"broken"}


def test_what_alerts_watch_begins_at_zero() -> None:
    """Prometheus sees no increase in a series that appears with its first value."""
    found = values(Metrics(["bot"]))
    for name in ("automatic_returns", "alarms", "refused", "shadow_pairs"):
        assert found[f"migrate_gateway_{name}_total", (("model", "bot:latest"),)] == 0


def test_two_applications_do_not_share_numbers() -> None:
    one, other = Metrics(["bot"]), Metrics(["bot"])
    one.refused("bot")
    refused = ("migrate_gateway_refused_total", (("model", "bot:latest"),))
    assert (values(one)[refused], values(other)[refused]) == (1, 0)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match="prometheus-client"):
        Metrics()


def test_any_worker_tells_the_numbers_of_all(tmp_path: Path) -> None:
    program = (
        "import sys; from migrate.gateway.metrics import Metrics\n"
        "m = Metrics(['bot'])\n"
        "for _ in range(int(sys.argv[1])): m.begun('bot'); m.ended('bot', '/api/chat', 'vllm', 200, total_s=1)\n"
        "m.begun('bot'); m.phase('bot', 'canary', 30)\n"
        "if len(sys.argv) > 2: print(m.render()[0].decode())\n"
        "else: input()"
    )
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    first = subprocess.Popen(
        [sys.executable, "-c", program, "3"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob(f"gauge_livemostrecent_{first.pid}.db")):
            assert first.poll() is None
        second = subprocess.run(
            [sys.executable, "-c", program, "4", "told"], env=environment, capture_output=True, text=True, timeout=60
        )
    finally:
        first.communicate(b"\n", timeout=60)
    assert second.returncode == 0, second.stderr
    found = parsed(second.stdout)
    where = {"model": "bot:latest", "route": "/api/chat", "upstream": "vllm", "status": "200"}
    assert found["migrate_gateway_requests_total", tuple(sorted(where.items()))] == 7
    assert found["migrate_gateway_in_flight", (("model", "bot:latest"),)] == 2
    assert found["migrate_gateway_phase", (("model", "bot:latest"), ("phase", "canary"))] == 1
    assert found["migrate_gateway_canary_weight", (("model", "bot:latest"),)] == 30


# ---- what Prometheus says --------------------------------------------------------------------------------------------


@pytest.fixture
def promtool() -> str:
    if (found := shutil.which("promtool")) is None:
        pytest.skip("PROMTOOL MISSING (Debian: apt-get install prometheus): nothing was read by Prometheus")
    return found


def test_prometheus_reads_the_metrics_without_a_complaint(promtool: str) -> None:
    metrics = Metrics(["bot"])
    used(metrics)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render()[0], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_alerts_only_ask_for_what_there_is() -> None:
    metrics = Metrics(["bot"])
    used(metrics)
    there: dict[str, set[str]] = {}
    for name, labels in values(metrics):
        there.setdefault(name, set()).update(label for label, _ in labels)
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    for rule in group["rules"]:
        names = set(re.findall(r"migrate_gateway_\w+", rule["expr"]))
        assert names <= there.keys(), rule["alert"]
        asked = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) - {"instance"}
        assert asked <= {"job"}.union(*(there[name] for name in names)), rule["alert"]


def series(name: str, labels: str, values: str) -> dict[str, str]:
    return {"series": f'{name}{{job="migrate-gateway",instance="a",{labels}}}', "values": values}


BOT = 'model="bot:latest"'
CHAT = f'{BOT},route="/api/chat",upstream="vllm",status='
COUNTED = "migrate_gateway_requests_total"
OVERHEAD = "migrate_gateway_overhead_seconds_bucket"
PAIRS = series("migrate_gateway_shadow_pairs_total", BOT, "0+2x120")
FIRES = [
    # alert, what is seen (one value a minute), the minute in which it fires
    ("GatewayDown", [series("up", "", "1 0x9")], 5),
    ("GatewayReturnedToOllama", [series("migrate_gateway_automatic_returns_total", BOT, "0x5 1x20")], 8),
    ("GatewayAlarm", [series("migrate_gateway_alarms_total", BOT, "0x5 1x20")], 8),
    ("GatewayUpstreamErrors", [series(COUNTED, CHAT + '"200"', "0+100x30"), series(COUNTED, CHAT + '"500"', "0+5x30"),
                               series("migrate_gateway_upstream_errors_total", f'{BOT},upstream="vllm"', "0+5x30")],
     20),
    ("GatewayRefusals", [series("migrate_gateway_refused_total", BOT, "0+5x40")], 30),
    ("GatewayOverhead", [series(OVERHEAD, f'{BOT},le="0.1"', "0+1x40"), series(OVERHEAD, f'{BOT},le="0.5"', "0+10x40"),
                         series(OVERHEAD, f'{BOT},le="+Inf"', "0+10x40")], 30),
    ("GatewayShadowDiffers", [PAIRS, series("migrate_gateway_shadow_differences_total", f'{BOT},check="prompt"',
                                            "0+1x120")], 100),
]  # fmt: skip
QUIET = [
    series("up", "", "1x120"),
    series("migrate_gateway_automatic_returns_total", BOT, "1x120"),
    series("migrate_gateway_alarms_total", BOT, "1x120"),
    series(COUNTED, CHAT + '"200"', "0+100x120"),
    series("migrate_gateway_upstream_errors_total", f'{BOT},upstream="vllm"', "0x60 1x60"),
    series("migrate_gateway_refused_total", BOT, "0x60 3x60"),
    series(OVERHEAD, f'{BOT},le="0.1"', "0+10x120"),
    series(OVERHEAD, f'{BOT},le="+Inf"', "0+10x120"),
    PAIRS,
    series("migrate_gateway_shadow_differences_total", f'{BOT},check="text"', "0+1x120"),  # near ties are no alarm
]


def test_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [alert for alert, *_ in FIRES]
    firing: list[dict[str, Any]] = [
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
    asked = [{"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in (20, 60, 100)]
    quiet: dict[str, Any] = {"interval": "1m", "input_series": QUIET, "promql_expr_test": asked}
    (tmp_path / "gateway-alerts.yml").write_bytes(RULES.read_bytes())
    tests = {"rule_files": ["gateway-alerts.yml"], "evaluation_interval": "1m", "tests": [*firing, quiet]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    for command in (["check", "rules", "gateway-alerts.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
