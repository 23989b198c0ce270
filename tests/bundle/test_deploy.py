"""Deployment files: golden texts, and every one of them read by the program that will run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from migrate.bundle import deploy, write
from migrate.bundle.deploy import Deployment, Options, facts
from migrate.bundle.deploy.targets import option, probe_body
from migrate.errors import BadInput, NotFound, OutputExists, UsageError
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from migrate.vllm import serve, versions
from migrate.vllm.serve import Argument
from tests.bundle.readers import ask, program, run
from tests.bundle.test_write import STORE, tree

GOLDEN = Path(__file__).parent / "golden"
ALL = tuple(deploy.TARGETS)
TWO = Options(instances=2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "support-bot"
    write.write(plan(Store(STORE).load("support-bot")), out)
    return out


@pytest.fixture(scope="module")
def two(bundle: Path) -> Deployment:
    return deploy.read(bundle, TWO)


@pytest.fixture(scope="module")
def written(two: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All targets, for two instances."""
    out = tmp_path_factory.mktemp("deploy")
    deploy.write(two, out, ALL)
    return out


def loaded(text: str) -> Any:
    return yaml.safe_load(text)


# ---- golden ---------------------------------------------------------------------------------------------------------


def golden_name(name: str) -> str:
    """A text, whatever it is: no linter reads it."""
    return name.replace("@", "_at_") + ".txt"


def test_golden(two: Deployment) -> None:
    """`MIGRATE_GOLDEN=write pytest ...` writes them anew: look at the difference."""
    names = [name for name in ALL if name != "monitoring"]  # test_monitoring has its golden files
    made = {name: text.replace(two.generator, "GENERATOR") for name, text in deploy.files(two, names).items()}
    if os.environ.get("MIGRATE_GOLDEN") == "write":
        shutil.rmtree(GOLDEN, ignore_errors=True)
        for name, text in made.items():
            path = GOLDEN / golden_name(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    kept = {p.relative_to(GOLDEN).as_posix(): p.read_text(encoding="utf-8") for p in GOLDEN.rglob("*") if p.is_file()}
    assert {golden_name(name): text for name, text in made.items()} == kept


def test_same_bundle_same_bytes(bundle: Path, two: Deployment) -> None:
    assert deploy.files(deploy.read(bundle, TWO), ALL) == deploy.files(two, ALL)


def test_no_machine_path_and_no_secret(two: Deployment, monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "sk-very-secret")
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    for name, text in deploy.files(deploy.read(bundle, TWO), ALL).items():
        assert "very-secret" not in text, name
        assert "very_secret" not in text, name
        assert str(bundle) not in text, name
        if not name.startswith("monitoring/"):  # Prometheus writes minutes so
            assert not re.search(r"\d[kKmM]\b(?!i)", re.sub(r"\d+(m|k);|body-size: 32m|time=\S+", "", text)), name


def test_every_option_says_where_it_comes_from(two: Deployment) -> None:
    for name, text in deploy.files(two, ALL).items():
        for argument in two.extra:
            if f"--{argument.name}" in text:
                assert argument.origin in text, name
    for argument in two.arguments:
        assert argument.origin != "serve.yaml", argument


def test_the_version_is_pinned(two: Deployment) -> None:
    assert two.image == versions.find(versions.DEFAULT).image
    for name in ("compose.yaml", "kubernetes/deployment.yaml", "kserve.yaml", "quadlet/support-bot@.container"):
        assert two.image in deploy.files(two, ALL)[name]


# ---- the programs that read them ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nginx.conf", "compose-nginx.conf"])
def test_nginx_reads_it(written: Path, tmp_path: Path, name: str) -> None:
    said = ask("nginx", "-t", "-p", tmp_path, "-c", written / name)
    assert "test is successful" in said
    assert "warn" not in said


def test_nginx_reads_it_with_tls(written: Path, tmp_path: Path) -> None:
    """The commented lines, taken in, with a certificate."""
    key, certificate = tmp_path / "tls.key", tmp_path / "tls.crt"
    ask("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1",
        "-keyout", key, "-out", certificate)  # fmt: skip
    text = (written / "nginx.conf").read_text().replace("#tls ", "")
    text = text.replace("/etc/ssl/support-bot", str(tmp_path))
    assert text.count(str(tmp_path)) == 2
    (tmp_path / "nginx.conf").write_text(text)
    assert "test is successful" in ask("nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")


def test_compose_reads_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    read = loaded(ask("docker-compose", "-f", written / "compose.yaml", "config"))
    services = read["services"]
    assert set(services) == {"support-bot-0", "support-bot-1", "proxy"}
    first, second = services["support-bot-0"], services["support-bot-1"]
    assert "depends_on" not in first
    assert second["depends_on"] == {"support-bot-0": {"condition": "service_healthy"}}
    for service in (first, second):
        device = service["deploy"]["resources"]["reservations"]["devices"][0]
        assert (device["driver"], device["device_ids"], device["capabilities"]) == ("nvidia", ["0"], ["gpu"])
        assert service["healthcheck"]["test"] == ["CMD", "python3", "/probe.py", "8000"]
        assert service["user"] == "2000:0"
        assert service["read_only"] is True
        assert "ports" not in service
        assert any(volume.endswith(":/bundle:ro") for volume in service["volumes"])
        assert service["command"][-2:] == ["--gpu-memory-utilization", "0.46"]
        assert service["environment"]["VLLM_API_KEY"] is None
    assert services["proxy"]["ports"] == ["127.0.0.1:8000:8080/tcp"]
    assert read["networks"]["inside"]["internal"] is True
    proxy = (written / "compose-nginx.conf").read_text()
    for service in (first, second):
        assert f"server {service['networks']['inside']['ipv4_address']}:8000 " in proxy


@pytest.mark.parametrize(
    ("host", "published"), [("localhost", "127.0.0.1:8000:8080"), ("::1", "[::1]:8000:8080"), ("10.0.0.5", None)]
)
def test_compose_publishes_on_an_address(bundle: Path, host: str, published: str | None, tmp_path: Path) -> None:
    deploy.write(deploy.read(bundle, Options(host=host)), tmp_path, ["compose"])
    ports = loaded((tmp_path / "compose.yaml").read_text())["services"]["proxy"]["ports"]
    assert ports == [published or f"{host}:8000:8080"]
    if ":" not in host:  # this release reads no IPv6 address; Docker's own does
        ask("docker-compose", "-f", tmp_path / "compose.yaml", "config", "-q")


def test_compose_publishes_on_no_name(bundle: Path) -> None:
    named = deploy.read(bundle, Options(host="gpu.example.com"))
    with pytest.raises(UsageError, match=r"--host gpu\.example\.com: Compose publishes on an IP address"):
        deploy.files(named, ["compose"])
    assert "listen gpu.example.com:8000;" in deploy.files(named, ["nginx"])["nginx.conf"]


def test_compose_finds_a_bundle_elsewhere(bundle: Path) -> None:
    text = deploy.files(deploy.read(bundle, Options(bundle_path="../my $bundle: 1")), ["compose"])["compose.yaml"]
    assert "../my $$bundle: 1:/bundle:ro" in loaded(text)["services"]["support-bot-0"]["volumes"]


def test_systemd_reads_them(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "deploy"
    options = Options(instances=2, gpus=(0, 1), install_dir=str(bundle), kv_cache_memory_bytes=1 << 30)
    deploy.write(deploy.read(bundle, options), out, ["systemd"])
    units = out / "systemd"
    program("nginx")  # verify looks for what ExecStart names
    said = ask("systemd-analyze", "verify", units / "support-bot@.service", units / "support-bot-proxy.service",
               units / "support-bot.target")  # fmt: skip
    assert said == ""
    for unit, limit in (("support-bot@.service", 4.0), ("support-bot-proxy.service", 2.0)):
        said = ask("systemd-analyze", "security", "--offline=true", "--no-pager", units / unit)
        found = re.search(r"exposure level for \S+: ([0-9.]+)", said)
        assert found, said
        assert float(found[1]) <= limit, "less exposed than systemd's own OK"
    assert (
        (units / "support-bot@8002.service.d/10-staged.conf").read_text().endswith("After=support-bot@8001.service\n")
    )
    assert "CUDA_VISIBLE_DEVICES=1" in (units / "support-bot@8002.service.d/20-gpu.conf").read_text()
    service = (units / "support-bot@.service").read_text()
    assert "Type=notify" in service
    assert "--port %i --kv-cache-memory-bytes 1073741824\n" in service
    target = (units / "support-bot.target").read_text()
    assert re.findall(r"^Wants=(.*)$", target, re.MULTILINE) == [
        "support-bot@8001.service",
        "support-bot@8002.service",
        "support-bot-proxy.service",
    ]


KINDS = {
    "deployment": "Deployment",
    "service": "Service",
    "volume": "PersistentVolumeClaim",
    "loader": "Pod",
    "probe": "ConfigMap",
    "disruption": "PodDisruptionBudget",
    "autoscaling": "HorizontalPodAutoscaler",
    "network": "NetworkPolicy",
    "ingress": "Ingress",
}


@pytest.mark.parametrize("name", KINDS)
def test_kubernetes_reads_them(written: Path, name: str) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="NOT CHECKED: pip install kubernetes-validate"
    )
    manifest = loaded((written / "kubernetes" / f"{name}.yaml").read_text())
    assert manifest["kind"] == KINDS[name]
    for version in ("1.30", "1.34"):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kubernetes_hangs_together(written: Path) -> None:
    read = {name: loaded((written / "kubernetes" / f"{name}.yaml").read_text()) for name in KINDS}
    pod = read["deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    labels = pod["metadata"]["labels"]
    assert read["service"]["spec"]["selector"] == labels
    assert read["disruption"]["spec"]["selector"]["matchLabels"] == labels
    assert read["network"]["spec"]["podSelector"]["matchLabels"] == labels
    assert read["deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert read["service"]["metadata"]["name"] != "vllm"
    assert pod["spec"]["enableServiceLinks"] is False
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["bundle"]["readOnly"] is True
    assert volumes["bundle"]["persistentVolumeClaim"]["claimName"] == read["volume"]["metadata"]["name"]
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert volumes["probe"]["configMap"]["name"] == read["probe"]["metadata"]["name"]
    assert container["startupProbe"]["exec"]["command"][1] == "/probe/probe.py"
    compile(read["probe"]["data"]["probe.py"], "probe.py", "exec")
    assert {"readinessProbe", "livenessProbe"} <= container.keys()
    key = next(variable for variable in container["env"] if variable["name"] == "VLLM_API_KEY")
    assert "value" not in key
    assert key["valueFrom"]["secretKeyRef"]["name"] == "support-bot"
    assert "--gpu-memory-utilization" not in container["args"], "a pod has its GPU for itself"
    scaler = read["autoscaling"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == read["deployment"]["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)
    listed = loaded((written / "kubernetes/kustomization.yaml").read_text())["resources"]
    assert set(listed) == {f"{name}.yaml" for name in KINDS} - {"ingress.yaml", "loader.yaml"}
    keda = loaded((written / "kubernetes/keda.yaml").read_text())
    assert "vllm:num_requests_waiting" in keda["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize("name", ["support-bot", "q4-bot"])
@pytest.mark.parametrize("instances", [1, 3])
def test_scripts(tmp_path: Path, name: str, instances: int) -> None:
    write.write(plan(Store(STORE).load(name)), tmp_path / "bundle")
    deploy.write(deploy.read(tmp_path / "bundle", Options(instances=instances)), tmp_path / "out", ALL)
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    scripts = [str(path) for path in (*tmp_path.glob("*/*.sh"), *tmp_path.glob("out/**/*.sh"))]
    assert len(scripts) == 2 + 0 * instances
    done = run([shellcheck, *scripts])
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out/systemd/install.sh").stat().st_mode & stat.S_IXUSR
    for path in tmp_path.rglob("*.py"):
        compile(path.read_text(), path.name, "exec")
    for path in tmp_path.glob("out/**/*.yaml"):
        loaded(path.read_text())


def test_our_own_script_passes_shellcheck() -> None:
    shellcheck = str(Path(sys.executable).with_name("shellcheck"))
    done = run([shellcheck, str(Path(__file__).parents[2] / "scripts/test-tools.sh")])
    assert done.returncode == 0, done.stdout


# ---- the second ring: nothing here can read it, so only its structure -----------------------------------------------


def test_quadlet(written: Path) -> None:
    text = (written / "quadlet/support-bot@.container").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    sections = [line for line in lines if line.startswith("[")]
    assert sections == ["[Unit]", "[Container]", "[Service]"]
    assert all(line.startswith("[") or re.match(r"[A-Z][A-Za-z]+=\S", line) for line in lines)
    for line in ("Notify=healthy", "User=2000:0", "ReadOnly=true", "PublishPort=127.0.0.1:%i:8000"):
        assert line in lines
    assert "Secret" not in "".join(lines)
    assert (written / "quadlet/support-bot@8002.container.d/10-staged.conf").is_file()


def test_production_stack(written: Path, two: Deployment) -> None:
    values = loaded((written / "production-stack-values.yaml").read_text())
    model = values["servingEngineSpec"]["modelSpec"][0]
    assert f"{model['repository']}:{model['tag']}" == two.image
    assert model["replicaCount"] == 2
    assert model["vllmConfig"]["maxModelLen"] == 1024
    arguments = model["vllmConfig"]["extraArgs"]
    assert arguments[arguments.index("--chat-template") + 1] == "/bundle/model/chat_template.jinja"
    assert all(isinstance(word, str) for word in arguments)
    assert values["servingEngineSpec"]["vllmApiKey"] == {"secretName": "support-bot", "secretKey": "api-key"}


def test_kserve(written: Path, two: Deployment) -> None:
    service = loaded((written / "kserve.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    container = service["spec"]["predictor"]["containers"][0]
    assert container["image"] == two.image
    assert container["workingDir"] == "/mnt/models"
    assert {"name": "STORAGE_URI", "value": "pvc://support-bot-bundle/"} in container["env"]


def test_ray(written: Path, two: Deployment) -> None:
    text = (written / "ray-serve.yaml").read_text()
    application = loaded(text)["applications"][0]
    config = application["args"]["llm_configs"][0]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    assert config["model_loading_config"] == {"model_id": "support-bot", "model_source": "/opt/support-bot/model"}
    assert config["engine_kwargs"]["max_model_len"] == 1024
    assert "middleware" not in config["engine_kwargs"]
    assert "PARAMETER stop is not filled in" in text, "what cannot move is said"


def test_skypilot(written: Path, two: Deployment) -> None:
    task = loaded((written / "skypilot.yaml").read_text())
    assert task["service"]["replicas"] == 2
    assert loaded(task["service"]["readiness_probe"]["post_data"]) == probe_body(two)
    assert task["service"]["readiness_probe"]["path"] == "/v1/completions"
    assert task["envs"]["VLLM_API_KEY"] == ""
    assert "serve.sh --host 0.0.0.0 --port 8000" in task["run"]


# ---- facts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), []),
        (Options(instances=2), [("gpu-memory-utilization", 0.46)]),
        (Options(instances=3), [("gpu-memory-utilization", 0.3)]),
        (Options(instances=2, gpus=(0, 1)), []),
        (Options(instances=4, gpus=(0, 1)), [("gpu-memory-utilization", 0.46)]),
        (Options(instances=2, gpu_memory_utilization=0.4), [("gpu-memory-utilization", 0.4)]),
        (Options(instances=2, kv_cache_memory_bytes=4 << 30), [("kv-cache-memory-bytes", 4294967296)]),
    ],
)
def test_memory_of_instances(bundle: Path, options: Options, expected: Sequence[tuple[str, object]]) -> None:
    found = deploy.read(bundle, options)
    assert [(argument.name, argument.value) for argument in found.extra] == expected
    assert all(argument.origin for argument in found.extra)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(instances=0), "--instances 0"),
        (Options(instances=65), "--instances 65"),
        (Options(instances=2, port=65534), "ports above"),
        (Options(port=0, host="a"), None),
        (Options(port=70000), "--port 70000"),
        (Options(host="a b"), "no address"),
        (Options(host="127.0.0.1; rm -rf /"), "no address"),
        (Options(image="vllm/vllm-openai"), "no tag"),
        (Options(image="evil image:1"), "no image"),
        (Options(image='x:1"\n'), "no image"),
        (Options(gpus=()), "--gpus"),
        (Options(gpus=(0, 0)), "--gpus 0,0"),
        (Options(gpus=(-1,)), "--gpus -1"),
        (Options(gpu_memory_utilization=0.0), "0 for each of 1"),
        (Options(gpu_memory_utilization=1.1), "1.1 for each of 1"),
        (Options(instances=2, gpu_memory_utilization=0.6), "0.6 for each of 2"),
        (Options(gpu_memory_utilization=float("nan")), "nan for each of 1"),
        (Options(gpu_memory_utilization=0.5, kv_cache_memory_bytes=1 << 30), "give one"),
        (Options(kv_cache_memory_bytes=12), "at least 1048576"),
        (Options(origins=('https://a"; }',)), "no origin"),
        (Options(install_dir="relative"), "absolute path"),
        (Options(install_dir="/a b"), "absolute path"),
    ],
)
def test_options_that_cannot_be_meant(bundle: Path, options: Options, words: str | None) -> None:
    if words is None:
        assert deploy.read(bundle, options).port == 8000
        return
    with pytest.raises(UsageError, match=re.escape(words)):
        deploy.read(bundle, options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("support-bot:latest", "support-bot"),
        ("support-bot:v2", "support-bot-v2"),
        ("vllm", "model-vllm"),
        ("VLLM:latest", "model-vllm"),
        ("vllm-bot", "model-vllm-bot"),
        ("7b", "model-7b"),
        ("registry.example.com/team/My_Model:Q4", "registry-example-com-team-my-model-q4"),
        ("---", "model"),
        ("x" * 80, "x" * 40),
    ],
)
def test_labels(name: str, expected: str) -> None:
    assert facts.label(name) == expected


@given(st.text(max_size=80))
def test_every_name_becomes_a_dns_label(name: str) -> None:
    assert re.fullmatch(r"(?!vllm(-|$))[a-z]([a-z0-9-]{0,61}[a-z0-9])?", facts.label(name))


PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
TEXTS = st.text(PRINTABLE, max_size=30)
SCALARS = st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


@given(st.lists(st.tuples(SCALARS | st.lists(TEXTS, max_size=3), TEXTS), max_size=4))
def test_arguments_survive_the_file(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, str]]) -> None:
    """serve.yaml -> arguments -> the same values, whatever they and their comments contain."""
    arguments = [Argument(f"option-{n}", value, f"origin {origin}") for n, (value, origin) in enumerate(rows)]
    path = tmp_path_factory.mktemp("yaml") / "serve.yaml"
    path.write_text(serve.to_yaml(arguments, "head\nof it"), encoding="utf-8")
    found = facts.read_arguments(path)
    assert [(a.name, a.value) for a in found] == [(a.name, a.value) for a in arguments]
    assert all(a.origin.startswith("origin") for a in found)


@pytest.mark.parametrize("text", ["- a\n", "a: 1\n  b: 2\n", "a: [1\n", "'A b': 1\n", "just words\n", "\x00\n"])
def test_damaged_serve_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"serve\.yaml"):
        facts.read_arguments(tmp_path / "serve.yaml")


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        deploy.read(tmp_path)
    with pytest.raises(BadInput, match="missing"):
        facts.read_arguments(tmp_path / "serve.yaml")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (Argument("a", True, ""), ["--a"]),
        (Argument("a", False, ""), ["--no-a"]),
        (Argument("a", 32768, ""), ["--a", "32768"]),
        (Argument("a", ["x", "y"], ""), ["--a", "x", "y"]),
    ],
)
def test_options_as_words(argument: Argument, words: list[str]) -> None:
    assert option(argument) == words


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("target", "served_model_name", ["a\nExecStart=/bin/evil"]),
        ("target", "served_model_name", []),
        ("target", "vllm_version", "1; rm -rf /"),
        ("target", "image", "a b:c"),
        ("target", "host", "x\nUser=root"),
    ],
)
def test_a_manifest_somebody_else_wrote(bundle: Path, tmp_path: Path, part: str, key: str, value: object) -> None:
    manifest = json.loads((bundle / "migration.json").read_text())
    manifest[part][key] = value
    (tmp_path / "migration.json").write_text(json.dumps(manifest))
    shutil.copy(bundle / "serve.yaml", tmp_path)
    with pytest.raises((BadInput, UsageError)):
        deploy.read(tmp_path)


def test_comments_stay_comments(bundle: Path, tmp_path: Path) -> None:
    manifest = json.loads((bundle / "migration.json").read_text())
    manifest["generator"] = "x\nExecStart=/bin/evil\r\nevil: true\\"
    (tmp_path / "migration.json").write_text(json.dumps(manifest))
    (tmp_path / "serve.yaml").write_text("dtype: auto  # x\tevil: true\\\n")
    made = deploy.files(deploy.read(tmp_path, TWO), ALL)
    for name, text in made.items():
        if name.endswith(".json"):
            assert json.loads(text), "a text inside JSON stays one"
            continue
        for line in text.splitlines():
            assert "evil" not in line or "#" in line.partition("evil")[0], (name, line)
            assert not line.endswith("evil: true\\"), (name, line)


def test_embedding_models_are_probed_with_a_text(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    shutil.copy(bundle / "migration.json", copy)
    (copy / "serve.yaml").write_text("runner: pooling  # an embedding model\n")
    made = deploy.files(deploy.read(copy), ["compose", "skypilot"])
    assert "/v1/embeddings" in made["probe.py"]
    assert "'input': '1'" in made["probe.py"]
    assert "/v1/embeddings" in made["skypilot.yaml"]


def test_many_stops_need_room(bundle: Path) -> None:
    assert facts._environment({"stop": ["a"] * 5})["VLLM_MAX_STOP_STRINGS"] == "16"
    assert facts._environment({"stop": ["a"] * 20})["VLLM_MAX_STOP_STRINGS"] == "20"
    assert facts._environment({})["VLLM_MAX_STOP_STRINGS"] == "16"


# ---- writing --------------------------------------------------------------------------------------------------------


def test_written_files(written: Path, two: Deployment) -> None:
    assert {name: (written / name).read_text() for name in deploy.files(two, ALL)} == deploy.files(two, ALL)
    assert not list(written.glob(".*")), "nothing half-written is left"


def test_what_is_there_is_kept_without_force(bundle: Path, two: Deployment, tmp_path: Path) -> None:
    deploy.write(two, tmp_path, ["nginx"])
    (tmp_path / "mine.txt").write_text("mine")
    deploy.write(two, tmp_path, ["nginx"])
    one = deploy.read(bundle)
    before = tree(tmp_path)
    with pytest.raises(OutputExists, match=r"nginx\.conf exists and is different"):
        deploy.write(one, tmp_path, ["nginx", "compose"])
    assert tree(tmp_path) == before
    deploy.write(one, tmp_path, ["nginx"], force=True)
    assert (tmp_path / "nginx.conf").read_text() == deploy.files(one, ["nginx"])["nginx.conf"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_places_that_are_none(two: Deployment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExists, match="not a directory"):
        deploy.write(two, tmp_path / "file", ["nginx"])
    (tmp_path / "nginx.conf").mkdir()
    with pytest.raises(OutputExists, match="not a file of ours"):
        deploy.write(two, tmp_path, ["nginx"], force=True)
    with pytest.raises(UsageError, match="--for helm: no such target"):
        deploy.write(two, tmp_path, ["helm"])
