"""Bundle + options -> Deployment: everything the templates say, decided once. Pure except for reading the bundle."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from migrate.bundle import format as bundle_format
from migrate.bundle.runbook import reachable
from migrate.errors import BadInput, UsageError
from migrate.vllm import versions
from migrate.vllm.serve import Argument

GIB = 1 << 30
DEFAULT_SHARE = 0.92
"""vLLM's own --gpu-memory-utilization (vllm/config/cache.py): a fraction of the GPU's whole memory, per instance."""
MAX_INSTANCES = 64
MAX_YAML_BYTES = 1 << 20
PROXY_IMAGE = "docker.io/library/nginx:1.28-alpine"
RUNTIME_MEMORY_GIB = 6
"""Host memory that vLLM takes beside the weights it reads: Python, torch, CUDA's context, compiled kernels."""

OLLAMA_ORIGINS = (
    r"~^https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:[0-9]+)?$",
    r"~^(app|file|tauri)://",
    r"~^vscode-(webview|file)://",
)
"""Which pages in a browser Ollama answers when OLLAMA_ORIGINS is not set (envconfig/config.go), as nginx patterns."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may decide. None: from the bundle, or not set.

    `host` and `port` are where clients go (the proxy); instances listen on loopback, on `port + 1` and up.
    `gpus` are the indices over which instances are spread. `origins` are pages in a browser that may ask besides those
    that Ollama allows by default, as in OLLAMA_ORIGINS. `install_dir` is where units expect the bundle; `bundle_path`
    leads from the emitted files to it.
    """

    instances: int = 1
    gpu_memory_utilization: float | None = None
    kv_cache_memory_bytes: int | None = None
    host: str | None = None
    port: int | None = None
    image: str | None = None
    gpus: Sequence[int] = (0,)
    origins: Sequence[str] = ()
    install_dir: str | None = None
    bundle_path: str = ".."


@dataclass(frozen=True, slots=True)
class Instance:
    """One vLLM server. `address` is its place in Compose's network."""

    number: int
    port: int
    gpu: int
    address: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """One bundle, ready to be written for any target.

    `arguments` are what serve.yaml says, with origins; `extra` are the options that a deployment adds to them for every
    instance on this machine, `extra_alone` for one that has its GPU for itself (a pod). `weight_bytes` counts
    safetensors, `bundle_bytes` everything.
    """

    manifest: bundle_format.Manifest
    name: str
    served_names: Sequence[str]
    image: str
    vllm_version: str
    generator: str
    host: str
    port: int
    instances: Sequence[Instance]
    arguments: Sequence[Argument]
    extra: Sequence[Argument]
    extra_alone: Sequence[Argument]
    environment: Mapping[str, str]
    pooling: bool
    middleware: bool
    weight_bytes: int
    bundle_bytes: int
    max_model_len: int
    origins: Sequence[str]
    install_dir: str
    subnet: str
    bundle_path: str
    proxy_image: str = PROXY_IMAGE
    lost: Sequence[str] = ()

    @property
    def served_name(self) -> str:
        return self.served_names[0]

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it, as with Ollama's default."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def address(self) -> str:
        """Where the proxy listens, as an IP address: Docker publishes on those alone. Raises UsageError for a name."""
        host = {"localhost": "127.0.0.1"}.get(self.host.lower(), self.host)
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise UsageError(
                f"--host {self.host}: Compose publishes on an IP address, not on a name",
                hint="pass --host with an address of that machine, or 0.0.0.0 for all of them",
            ) from None
        return f"[{host}]" if ":" in host else host

    @property
    def url(self) -> str:
        """Where clients on this machine go, without /v1."""
        return f"http://{reachable(self.host)}:{self.port}"

    @property
    def gpu_count(self) -> int:
        return len({instance.gpu for instance in self.instances})

    @property
    def memory_gib(self) -> int:
        """Host memory to ask a scheduler for, GiB."""
        return RUNTIME_MEMORY_GIB + -(-self.weight_bytes // GIB)

    @property
    def volume_gib(self) -> int:
        """Size of a volume that holds the bundle, GiB."""
        return max(1, -(-self.bundle_bytes * 5 // 4 // GIB) + 1)


def read(bundle: Path, options: Options = Options()) -> Deployment:
    """What is to be deployed.

    Raises NotFound and BadInput for what is no bundle or a damaged one, UsageError for options that cannot be meant.
    """
    manifest = bundle_format.read(bundle)
    arguments = read_arguments(bundle / "serve.yaml")
    known = {argument.name: argument.value for argument in arguments}
    target = manifest.target
    served = list(target.served_model_name)
    if not served or not all(re.fullmatch(r"[A-Za-z0-9._:/-]+", name) for name in served):
        raise BadInput(f"{bundle}: served_model_name {served} is no name", hint="convert the model again")
    name = label(served[0])
    host, port = options.host or target.host, options.port or target.port
    sizes = {path: entry.size for path, entry in manifest.files.items()}
    subnet = _subnet(name)
    return Deployment(
        manifest=manifest.model_copy(update={"generator": _line(manifest.generator)}),
        name=name,
        served_names=served,
        image=_image(options.image or target.image),
        vllm_version=_version(target.vllm_version, bundle),
        generator=_line(manifest.generator),
        host=_host(host),
        port=port,
        instances=_instances(options, port, subnet),
        arguments=arguments,
        extra=_memory(options, known),
        extra_alone=_memory(replace(options, gpus=range(options.instances)), known),
        environment=_environment(*_all_defaults(manifest)),
        pooling=known.get("runner") == "pooling",
        middleware="middleware" in known,
        weight_bytes=sum(size for path, size in sizes.items() if path.endswith(".safetensors")),
        bundle_bytes=sum(sizes.values()),
        max_model_len=target.max_model_len,
        origins=(*OLLAMA_ORIGINS, *(_origin(origin) for origin in options.origins)),
        install_dir=_directory(options.install_dir or f"/opt/{name}"),
        subnet=subnet,
        bundle_path=options.bundle_path,
        lost=_lost(manifest),
    )


def read_arguments(path: Path) -> list[Argument]:
    """serve.yaml back into arguments with their origins: one a line, the comment behind two spaces.

    Raises BadInput for a file that is missing or was not written so.
    """
    import yaml

    if not path.is_file() or path.stat().st_size > MAX_YAML_BYTES:
        raise BadInput(f"{path}: missing, or too large to be ours", hint="convert the model again")
    arguments = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            value = yaml.safe_load(line)
        except yaml.YAMLError:
            value = None
        if not isinstance(value, dict) or len(value) != 1 or line[0].isspace():
            raise BadInput(f"{path}:{number}: not `option: value`", hint="one option a line, as `migrate` writes it")
        ((name, given),) = value.items()
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise BadInput(f"{path}:{number}: {name!r} is no option of vllm serve")
        arguments.append(Argument(name, _value(given), _origin_of(line, value)))
    return arguments


def _value(given: Any) -> str | int | float | bool | list[str]:
    if isinstance(given, list):
        return [str(item) for item in given]
    return given if isinstance(given, str | int | float | bool) else str(given)


def _origin_of(line: str, value: Any) -> str:
    """The comment of a line: what can be cut off without changing its value."""
    import yaml

    for found in re.finditer(r"\s+# ", line):
        try:
            if yaml.safe_load(line[: found.start()]) == value:
                return _line(line[found.end() :])
        except yaml.YAMLError:
            continue
    return "serve.yaml"


# ---- options --------------------------------------------------------------------------------------------------------


def label(name: str) -> str:
    """A name for services, units and containers: a DNS label (RFC 1035), never `vllm`.

    Kubernetes gives pods VLLM_PORT=tcp://... when a Service is called vllm, and vLLM refuses to start on that.
    """
    text = re.sub(r"[^a-z0-9]+", "-", name.lower().removesuffix(":latest")).strip("-")[:40].strip("-") or "model"
    return text if text[0].isalpha() and not re.match(r"vllm(-|$)", text) else f"model-{text}"


def _instances(options: Options, port: int, subnet: str) -> list[Instance]:
    if not 1 <= options.instances <= MAX_INSTANCES:
        raise UsageError(f"--instances {options.instances}: must be 1 to {MAX_INSTANCES}")
    if not 1 <= port <= 65535 - options.instances:
        raise UsageError(f"--port {port}: the instances need the {options.instances} ports above it")
    gpus = list(options.gpus)
    if not gpus or len(set(gpus)) != len(gpus) or any(not 0 <= gpu < 1024 for gpu in gpus):
        raise UsageError(f"--gpus {','.join(map(str, gpus))}: must be different indices of GPUs, such as 0,1")
    prefix = subnet.rsplit(".", 1)[0]
    return [Instance(n, port + 1 + n, gpus[n % len(gpus)], f"{prefix}.{n + 10}") for n in range(options.instances)]


def _memory(options: Options, known: Mapping[str, Any]) -> list[Argument]:
    """How much of its GPU an instance takes. Instances that share one have to be told."""
    utilization, cache = options.gpu_memory_utilization, options.kv_cache_memory_bytes
    if utilization is not None and cache is not None:
        raise UsageError(
            "--gpu-memory-utilization and --kv-cache-memory-bytes: give one", hint="vLLM ignores the first"
        )
    if cache is not None:
        if cache < 1 << 20:
            raise UsageError(f"--kv-cache-memory-bytes {cache}: must be at least 1048576 bytes")
        return [Argument("kv-cache-memory-bytes", cache, "--kv-cache-memory-bytes: KV cache of one instance, exactly")]
    sharing = -(-options.instances // max(1, len(options.gpus)))
    if utilization is not None:
        if not 0 < utilization <= 1 or utilization * sharing > 1:
            raise UsageError(
                f"--gpu-memory-utilization {utilization:g} for each of {sharing} on one GPU",
                hint="their sum must be above 0 and at most 1",
            )
        return [Argument("gpu-memory-utilization", utilization, "--gpu-memory-utilization: of the whole GPU")]
    if sharing == 1 or known.keys() & {"gpu-memory-utilization", "kv-cache-memory-bytes"}:
        return []
    share = int(DEFAULT_SHARE * 100) // sharing / 100
    reason = f"vLLM's {DEFAULT_SHARE}, shared by {sharing} instances on one GPU; --kv-cache-memory-bytes is exact"
    return [Argument("gpu-memory-utilization", share, reason)]


def _all_defaults(manifest: bundle_format.Manifest) -> list[Mapping[str, Any]]:
    return [manifest.target.request_defaults, *(variant.request_defaults for variant in manifest.variants)]


def _environment(*request_defaults: Mapping[str, Any]) -> dict[str, str]:
    """What serve.sh sets as well (migrate.mapping)."""
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    stops = max(len(defaults.get("stop") or ()) for defaults in request_defaults)
    return environment | {"VLLM_MAX_STOP_STRINGS": str(max(versions.MAX_STOP_STRINGS, stops))}


def _lost(manifest: bundle_format.Manifest) -> tuple[str, ...]:
    """What only the middleware does, where a target cannot have it."""
    named = {"vllm_xargs": "vllm_xargs (penalties)"}
    lost = [named.get(key, f"PARAMETER {key}") for key in manifest.target.request_defaults]
    if manifest.variants:
        names = ", ".join(variant.name for variant in manifest.variants)
        keys = dict.fromkeys(key for variant in manifest.variants for key in variant.request_defaults)
        lost += [f"{key}, by which {names} differ," for key in keys]
    return tuple(_line(text) for text in lost)


def _image(image: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*(@sha256:[0-9a-f]{64})?", image):
        raise UsageError(f"--image {image!r} is no image", hint="such as vllm/vllm-openai:v0.32.0")
    if ":" not in image.rpartition("/")[2]:
        raise UsageError(f"--image {image}: no tag", hint="flags change between releases: name the one to run")
    return image


def _host(host: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", host):
        raise UsageError(f"--host {host!r} is no address")
    return host


def _version(version: str, bundle: Path) -> str:
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+-]*", version):
        raise BadInput(f"{bundle}: {version!r} is no version of vLLM", hint="convert the model again")
    return version


def _line(text: str) -> str:
    """Text for a comment in any of the formats: one printable line, and none that goes on in the next."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()).rstrip("\\ ")


def _directory(path: str) -> str:
    if not re.fullmatch(r"/[0-9A-Za-z._/+-]*", path):
        raise UsageError(f"--install-dir {path!r}: must be an absolute path of plain letters, as units need it")
    return path.rstrip("/") or "/"


def _origin(origin: str) -> str:
    """An origin as in OLLAMA_ORIGINS (`https://chat.example.com`, `*` for any text) as an nginx pattern."""
    if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[0-9A-Za-z.:*\[\]_-]*", origin):
        raise UsageError(f"--origin {origin!r} is no origin", hint="such as https://chat.example.com")
    return "~^" + ".*".join(re.escape(part) for part in origin.split("*")) + "$"


def _subnet(name: str) -> str:
    """A network of Compose's, the same for the same model; with fixed addresses nginx finds a restarted server."""
    digest = hashlib.sha256(name.encode()).digest()
    return f"10.{digest[0] % 100 + 100}.{digest[1]}.0/24"
