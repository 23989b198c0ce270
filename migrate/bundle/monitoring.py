"""Prometheus rules and a Grafana dashboard for a bundle's server, with the names of the metrics of vLLM 0.32.

Names and labels are those of vllm/v1/metrics/loggers.py and of the HTTP instrumentation vLLM mounts
(`http_requests_total` by handler, method and status class; a path that vLLM does not have is handler "none"). The tests
hold every query to a recording of a real server's /metrics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from migrate import resources
from migrate.bundle.format import Manifest
from migrate.bundle.runbook import Limits, reachable

DIRECTORY = "monitoring"
UID_LENGTH = 40
"""Grafana takes no longer uid."""
DEFAULT_LIMITS = Limits()


def monitoring_files(
    manifest: Manifest, *, limits: Limits = DEFAULT_LIMITS, targets: Sequence[str] = ()
) -> dict[str, str]:
    """`monitoring/alerts.yml`, `monitoring/prometheus.yml`, `monitoring/grafana.json`: relative path -> text.

    `targets` are the HOST:PORT of all instances as Prometheus reaches them; without them the bundle's own address.
    """
    name = manifest.target.served_model_name[0]
    job = job_name(name)
    values = {
        "name": name,
        "job": job,
        "generator": manifest.generator,
        "vllm_version": manifest.target.vllm_version,
        "max_model_len": manifest.target.max_model_len,
        "targets": list(targets) or [f"{reachable(manifest.target.host)}:{manifest.target.port}"],
        "pooling": is_pooling(manifest),
        "limits": limits,
        "uid": job[:UID_LENGTH],
    }
    dashboard = json.loads(resources.render(f"{DIRECTORY}/grafana.json.j2", **values))
    return {
        f"{DIRECTORY}/alerts.yml": resources.render(f"{DIRECTORY}/alerts.yml.j2", **values),
        f"{DIRECTORY}/grafana.json": json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n",
        f"{DIRECTORY}/prometheus.yml": resources.render(f"{DIRECTORY}/prometheus.yml.j2", **values),
    }


def job_name(served_name: str) -> str:
    """The `job` label under which Prometheus keeps this model's server: two bundles do not mix."""
    return "vllm-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", served_name).strip("-")


def is_pooling(manifest: Manifest) -> bool:
    """Whether the bundle is an embedding model: it samples nothing, so it has no generation config."""
    return f"{manifest.model_dir}/generation_config.json" not in manifest.files
