"""Which files a target is made of. Every text comes from `templates/deploy`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from migrate import resources
from migrate.bundle.deploy.facts import Deployment
from migrate.bundle.monitoring import monitoring_files
from migrate.errors import UsageError
from migrate.vllm.serve import Argument

Files = dict[str, str]
"""Relative path -> text."""

FRONTEND = ("middleware",)
"""Options of vLLM's own web server, which has no place where another one stands in front of the engine."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place to run in. `proved`: its files have been run, or read by the program that runs them."""

    make: Callable[[Deployment], Files]
    summary: str
    proved: bool
    start: str


def files(deployment: Deployment, names: Iterable[str]) -> Files:
    """The files of the named targets. Raises UsageError for a name that is none."""
    made: Files = {}
    for name in names:
        if name not in TARGETS:
            raise UsageError(f"--for {name}: no such target", hint=f"known: {', '.join(TARGETS)}")
        made |= TARGETS[name].make(deployment)
    return dict(sorted(made.items()))


def option(argument: Argument) -> list[str]:
    """An argument as words of a command line; numbers as integers, never 32k."""
    flag = f"--{argument.name}"
    if isinstance(argument.value, bool):
        return [flag] if argument.value else [f"--no-{argument.name}"]
    if isinstance(argument.value, list):
        return [flag, *argument.value]
    return [flag, str(argument.value)]


def probe_body(deployment: Deployment) -> dict[str, object]:
    """The request that shows whether a server really works: one token, or one vector."""
    if deployment.pooling:
        return {"model": deployment.served_name, "input": "1"}
    return {"model": deployment.served_name, "prompt": "1", "max_tokens": 1, "temperature": 0}


def _render(template: str, deployment: Deployment, **more: object) -> str:
    return resources.render(
        f"deploy/{template}",
        d=deployment,
        q=json.dumps,
        option=option,
        probe_path="/v1/embeddings" if deployment.pooling else "/v1/completions",
        probe_body=probe_body(deployment),
        frontend=FRONTEND,
        bundle=deployment.bundle_path,
        **more,
    )


def _probe(deployment: Deployment) -> str:
    return _render("probe.py.j2", deployment)


def _nginx(deployment: Deployment) -> Files:
    listen = f"[{deployment.host}]" if ":" in deployment.host else deployment.host
    upstreams = [f"127.0.0.1:{instance.port}" for instance in deployment.instances]
    text = _render(
        "nginx.conf.j2",
        deployment,
        listen=f"{listen}:{deployment.port}",
        upstreams=upstreams,
        access_log="access.log",
        usage=(
            f"./serve.sh start --instances {len(upstreams)} --port {deployment.instances[0].port}",
            'nginx -p "$PREFIX" -c "$PWD/deploy/nginx.conf"      # PREFIX: a directory for its pid, logs, uploads',
        ),
    )
    return {"nginx.conf": text}


def _compose(deployment: Deployment) -> Files:
    escaped = deployment.bundle_path.replace("$", "$$")
    proxy = _render(
        "nginx.conf.j2",
        deployment,
        listen="8080",
        upstreams=[f"{instance.address}:8000" for instance in deployment.instances],
        access_log="/dev/stdout",
        usage=("docker compose -f deploy/compose.yaml up -d",),
    )
    return {
        "compose.yaml": _render("compose.yaml.j2", replace(deployment, bundle_path=escaped)),
        "compose-nginx.conf": proxy,
        "probe.py": _probe(deployment),
    }


def _systemd(deployment: Deployment) -> Files:
    name = deployment.name
    made = {
        f"systemd/{name}@.service": _render("systemd/instance.service.j2", deployment),
        f"systemd/{name}-proxy.service": _render("systemd/proxy.service.j2", deployment),
        f"systemd/{name}.target": _render("systemd/model.target.j2", deployment, proxy=True),
        "systemd/install.sh": _render("systemd/install.sh.j2", deployment),
    }
    return made | _drop_ins(deployment, "systemd", "service") | _nginx(deployment)


def _drop_ins(deployment: Deployment, directory: str, suffix: str) -> Files:
    """What differs between instances: which one they start after, and their GPU."""
    made: Files = {}
    for before, instance in zip(deployment.instances, deployment.instances[1:], strict=False):
        text = _render("systemd/staged.conf.j2", deployment, before=before.port)
        made[f"{directory}/{deployment.name}@{instance.port}.{suffix}.d/10-staged.conf"] = text
    for instance in deployment.instances if deployment.gpu_count > 1 else ():
        section = "Container" if suffix == "container" else "Service"
        text = _render("systemd/gpu.conf.j2", deployment, gpu=instance.gpu, section=section)
        made[f"{directory}/{deployment.name}@{instance.port}.{suffix}.d/20-gpu.conf"] = text
    return made


KUBERNETES = (
    "deployment",
    "service",
    "volume",
    "probe",
    "disruption",
    "autoscaling",
    "network",
    "ingress",
)


def _kubernetes(deployment: Deployment) -> Files:
    names = (*KUBERNETES, "loader", "keda", "kustomization")
    probe = _probe(deployment)
    return {
        f"kubernetes/{n}.yaml": _render(f"kubernetes/{n}.yaml.j2", deployment, probe=probe, resources=KUBERNETES)
        for n in names
    }


def _quadlet(deployment: Deployment) -> Files:
    name = deployment.name
    made = {
        f"quadlet/{name}@.container": _render("quadlet/instance.container.j2", deployment),
        f"quadlet/{name}.target": _render("systemd/model.target.j2", deployment, proxy=False),
        "probe.py": _probe(deployment),
    }
    return made | _drop_ins(deployment, "quadlet", "container") | _nginx(deployment)


def _monitoring(deployment: Deployment) -> Files:
    targets = [f"127.0.0.1:{instance.port}" for instance in deployment.instances]
    return monitoring_files(deployment.manifest, targets=targets)


def _single(template: str, path: str) -> Callable[[Deployment], Files]:
    return lambda deployment: {path: _render(template, deployment)}


TARGETS: Mapping[str, Target] = {
    "nginx": Target(_nginx, "nginx in front of the instances", True, "see the head of {dir}/nginx.conf"),
    "compose": Target(_compose, "Docker Compose, with nginx", True, "docker compose -f {dir}/compose.yaml up -d"),
    "systemd": Target(_systemd, "systemd units, with nginx", True, "sudo bash {dir}/systemd/install.sh"),
    "kubernetes": Target(_kubernetes, "Kubernetes manifests", True, "kubectl apply -k {dir}/kubernetes"),
    "monitoring": Target(
        _monitoring,
        "Prometheus rules and a Grafana dashboard",
        True,
        "prometheus --config.file={dir}/monitoring/prometheus.yml",
    ),
    "quadlet": Target(_quadlet, "Podman Quadlet", False, "see the head of quadlet/*.container"),
    "production-stack": Target(
        _single("production-stack-values.yaml.j2", "production-stack-values.yaml"),
        "values of vLLM's production-stack chart",
        False,
        "helm install NAME vllm/vllm-stack -f {dir}/production-stack-values.yaml",
    ),
    "kserve": Target(
        _single("kserve.yaml.j2", "kserve.yaml"), "KServe InferenceService", False, "kubectl apply -f {dir}/kserve.yaml"
    ),
    "ray": Target(
        _single("ray-serve.yaml.j2", "ray-serve.yaml"), "Ray Serve LLM", False, "serve run {dir}/ray-serve.yaml"
    ),
    "skypilot": Target(
        _single("skypilot.yaml.j2", "skypilot.yaml"), "SkyPilot", False, "sky serve up {dir}/skypilot.yaml"
    ),
}
FIRST_RING = tuple(name for name, target in TARGETS.items() if target.proved)
