"""`migrate deploy` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from migrate.bundle import write
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.bundle.test_write import STORE, tree
from tests.cli.conftest import Run

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def registered() -> None:
    from migrate.cli.app import app

    assert "deploy" in {command.name for command in app.registered_commands}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "support-bot"
    write.write(plan(Store(STORE).load("support-bot")), out)
    return out


def test_all_that_is_proved_by_default(run: Run, bundle: Path, tmp_path: Path) -> None:
    done = run("deploy", bundle, "-o", tmp_path / "deploy", "--instances", 2)
    assert done.code == 0, done.err
    names = set(tree(tmp_path / "deploy"))
    assert {"nginx.conf", "compose.yaml", "systemd/support-bot.target", "kubernetes/deployment.yaml"} <= names
    assert not any(name.startswith(("quadlet", "ray", "kserve", "sky", "production")) for name in names)
    assert {Path(line).relative_to(tmp_path / "deploy").as_posix() for line in done.out.splitlines()} == names
    assert "2 instances of support-bot; clients go to http://127.0.0.1:8000" in done.err
    assert "docker compose -f" in done.err
    assert "structure only" not in done.err


def test_beside_the_bundle_and_not_in_its_digests(run: Run, tmp_path: Path) -> None:
    write.write(plan(Store(STORE).load("q4-bot")), tmp_path / "out")
    before = (tmp_path / "out/migration.json").read_bytes()
    done = run("deploy", tmp_path / "out", "--for", "ray,nginx", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["targets"] == ["ray", "nginx"]
    assert told["instances"] == [{"port": 8001, "gpu": 0}]
    assert sorted(told["files"]) == [
        str(tmp_path / "out/deploy/nginx.conf"),
        str(tmp_path / "out/deploy/ray-serve.yaml"),
    ]
    assert (tmp_path / "out/migration.json").read_bytes() == before


def test_what_was_not_proved_says_so(run: Run, bundle: Path, tmp_path: Path) -> None:
    done = run("deploy", bundle, "-o", tmp_path, "--for", "kserve,nginx")
    assert done.code == 0
    assert "checked for their structure only, nothing here could run them: kserve" in done.err


def test_force(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert run("deploy", bundle, "-o", tmp_path).code == 0
    assert run("deploy", bundle, "-o", tmp_path).code == 0, "the same files may be written again"
    done = run("deploy", bundle, "-o", tmp_path, "--port", 9000)
    assert done.code == 2
    assert "--force" in done.err
    assert run("deploy", bundle, "-o", tmp_path, "--port", 9000, "--force").code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--for", "helm"], "--for helm: no such target"),
        (["--gpus", "a"], "--gpus a"),
        (["--instances", "0"], "--instances 0"),
        (["--image", "vllm/vllm-openai"], "no tag"),
        (["--gpu-memory-utilization", "0.6", "--instances", "2"], "0.6 for each of 2"),
        (["--gpu-memory-utilization", "0.4", "--kv-cache-memory-bytes", "1073741824"], "give one"),
        (["--origin", "nonsense"], "no origin"),
    ],
)
def test_usage(run: Run, bundle: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run("deploy", bundle, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "out").exists()


def test_no_bundle(run: Run, tmp_path: Path) -> None:
    done = run("deploy", tmp_path)
    assert done.code == 2
    assert "not a bundle" in done.err


def test_the_next_command_can_be_pasted(run: Run, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "my $files"
    done = run("deploy", bundle, "-o", out, "--for", "compose,compose")
    assert done.code == 0, done.err
    assert done.err.count(f"docker compose -f '{out}'/compose.yaml up -d") == 1


def test_not_among_the_weights(run: Run, bundle: Path) -> None:
    before = tree(bundle)
    done = run("deploy", bundle, "-o", bundle / "model" / "deploy", "--for", "nginx")
    assert done.code == 2
    assert "the model lies there" in done.err
    assert tree(bundle) == before
