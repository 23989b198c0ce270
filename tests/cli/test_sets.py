"""Several models at a time: convert, inspect and plan with more than one name, or --all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.cli import sets
from migrate.errors import Interrupted
from migrate.ollama.store import Store
from tests.bundle.test_write import tree
from tests.cli.conftest import Run

STORE = resources.directory("demo-store")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A store in which the weights of q4-bot are not what their digest says."""
    store = tmp_path / "store"
    shutil.copytree(STORE, store)
    blob = Store(store).load("q4-bot").gguf_path
    assert blob is not None
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    return store


def test_one_name_is_one_model_as_ever(run: Run, tmp_path: Path) -> None:
    assert run("convert", "child-bot", "--models-dir", STORE, "-o", tmp_path / "a").code == 0
    assert run("convert", "child-bot", "child-bot", "--models-dir", STORE, "-o", tmp_path / "b").code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not (tmp_path / "a" / "gateway.yaml").exists()
    assert "variants" not in json.loads((tmp_path / "a" / "request_defaults.json").read_text())


def test_two_on_the_same_weights_are_one_bundle(run: Run, tmp_path: Path) -> None:
    result = run("convert", "support-bot", "child-bot", "--models-dir", STORE, "-o", tmp_path / "out")
    assert (result.code, result.out) == (0, f"{tmp_path / 'out'}\n")
    assert "support-bot:latest, child-bot:latest: one server" in result.err
    assert [v.name for v in bundle_format.read(tmp_path / "out").variants] == ["support-bot", "child-bot"]
    assert yaml.safe_load((tmp_path / "out/gateway.yaml").read_text())["models"][0]["bundle"] == "."


def test_all_of_a_store(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("convert", "--all", "--models-dir", STORE, "-o", out, "--port", 9000, "--json")
    content = json.loads(result.out)
    assert result.code == 0
    assert {bundle["path"]: bundle["models"] for bundle in content["bundles"]} == {
        str(out / "q4-bot"): ["q4-bot:latest"],
        str(out / "support-bot"): ["support-bot:latest", "child-bot:latest"],  # called after the parent
    }
    config = yaml.safe_load((out / "gateway.yaml").read_text())
    assert [row["bundle"] for row in config["models"]] == ["./q4-bot", "./support-bot"]
    for row in config["models"]:
        bundle = out / row["bundle"]
        serve = yaml.safe_load((bundle / "serve.yaml").read_text())
        assert config["upstreams"][row["upstream"]]["url"] == f"http://127.0.0.1:{serve['port']}"
        manifest = bundle_format.read(bundle)
        assert manifest.target.port == serve["port"]
        assert any(f.item == "server address" and str(serve["port"]) in f.target for f in manifest.findings)
    assert [u["url"][-4:] for u in config["upstreams"].values()] == ["9000", "9001"]


def test_what_cannot_share_gets_its_own(run: Run, tmp_path: Path) -> None:
    result = run("convert", "q4-bot", "support-bot", "child-bot", "--models-dir", STORE, "-o", tmp_path / "out")
    assert result.code == 0
    assert result.out.splitlines() == [str(tmp_path / "out/q4-bot"), str(tmp_path / "out/support-bot")]


def test_a_damaged_model_is_left_out_and_the_others_go_on(run: Run, damaged: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("convert", "--all", "--models-dir", damaged, "-o", out)
    assert result.code == 3
    assert "left out: q4-bot:latest: blob sha256:" in result.err
    assert sorted(path.name for path in out.iterdir()) == ["gateway.yaml", "support-bot"]
    assert len(bundle_format.read(out / "support-bot").variants) == 2
    assert list(yaml.safe_load((out / "gateway.yaml").read_text())["upstreams"]) == ["support-bot"]


def test_one_that_cannot_be_read_is_left_out_of_all(run: Run, tmp_path: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    shutil.copytree(STORE, store)
    layer = Store(store).load("child-bot").digests["system"].replace(":", "-")
    (store / "blobs" / layer).unlink()
    result = run("convert", "--all", "--models-dir", store, "-o", out, "--json")
    content = json.loads(result.out)
    assert result.code == 3
    assert [left["model"] for left in content["left_out"]] == ["child-bot:latest"]
    assert bundle_format.read(out / "support-bot").variants == []
    named = run("convert", "support-bot", "child-bot", "--models-dir", store, "-o", tmp_path / "named")
    assert named.code == 3
    assert not (tmp_path / "named").exists(), "who was named is not passed over"


def test_nothing_is_left_when_no_model_can_be_converted(run: Run, damaged: Path, tmp_path: Path) -> None:
    for name in ("support-bot", "child-bot"):
        shutil.rmtree(damaged / "manifests/registry.ollama.ai/library" / name)
    result = run("convert", "--all", "--models-dir", damaged, "-o", tmp_path / "out")
    assert result.code == 3
    assert "no model can be converted; q4-bot:latest" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no model given"),
        (("--all", "support-bot"), "name none beside it"),
        (("support-bot", "child-bot", "--served-name", "x"), "--served-name"),
        (("support-bot", "nobody"), "nobody"),
        (("--all", "--port", "65535"), "not enough ports"),
    ],
)
def test_mistakes(run: Run, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("convert", *arguments, "--models-dir", STORE, "-o", tmp_path / "out")
    assert result.code == 2
    assert words in result.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("convert", "--all", "--models-dir", STORE, "-o", out)
    assert run(*arguments).code == 0
    before = tree(out)
    again = run(*arguments)
    assert (again.code, tree(out) == before) == (2, True)
    assert run(*arguments, "--force").code == 0
    assert tree(out) == before
    inside = run("convert", "--all", "--models-dir", STORE, "-o", out / "support-bot", "--force")
    assert (inside.code, "is a bundle" in inside.err) == (2, True)


def test_dry_run(run: Run, tmp_path: Path) -> None:
    result = run("convert", "--all", "--models-dir", STORE, "-o", tmp_path / "out", "--dry-run", "--json")
    groups = json.loads(result.out)["groups"]
    assert [(group["models"], group["disk_bytes"]) for group in groups] == [
        (["q4-bot:latest"], 2 * 3541248),
        (["support-bot:latest", "child-bot:latest"], 2 * 3541248),
    ]
    assert list(tmp_path.iterdir()) == []


def test_inspect_groups(run: Run) -> None:
    content = json.loads(run("inspect", "--all", "--models-dir", STORE, "--json").out)
    q4, support = content["groups"]
    assert (q4["name"], len(q4["models"]), q4["differs"]) == ("q4-bot", 1, [])
    assert support["differs"] == ["SYSTEM", "PARAMETER temperature", "PARAMETER stop"]
    assert [model["served_model_name"][0] for model in support["models"]] == ["support-bot", "child-bot"]
    assert support["models"][1]["parameters"]["stop"] == ["<|im_end|>"]
    assert support["weight_bytes"] == 2 * 3541248
    shown = run("inspect", "support-bot", "child-bot", "--models-dir", STORE)
    assert "once for 2 models" in shown.out
    assert "they differ in: SYSTEM, PARAMETER temperature, PARAMETER stop" in shown.out
    assert "migrate convert support-bot child-bot" in shown.err


def test_inspect_says_why_one_stands_apart(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plugin.Modelfile"
    path.write_text(
        'FROM support-bot\nTEMPLATE """{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .Content }}'
        '{{ if .ToolCalls }}CALL{{ range .ToolCalls }} {{ .Function.Name }}{{ end }}{{ end }}{{ end }}"""\n'
    )
    content = json.loads(run("inspect", "support-bot", path, "--models-dir", STORE, "--json").out)
    assert [group["apart"] for group in content["groups"]] == [
        "",
        "cannot share a server with support-bot:latest: a server has one tool-call-parser: hermes there, ollama here; "
        "--tool-call-parser ollama suits both",
    ]


def test_plan_of_a_set(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("convert", "support-bot", "child-bot", "--models-dir", STORE, "-o", out).code == 0
    named = json.loads(run("plan", "support-bot", "child-bot", "--models-dir", STORE, "--gpu", "L4", "--json").out)
    bundle = json.loads(run("plan", out, "--gpu", "L4", "--json").out)
    for content, names in ((named, ["support-bot:latest", "child-bot:latest"]), (bundle, ["support-bot", "child-bot"])):
        found = content["set"]
        assert found["models"] == names
        assert found["weights_bytes"] == content["weights"]["bytes"]
        assert found["weights_bytes_apart"] == 2 * found["weights_bytes"]
        (row,) = found["gpus"]
        assert (row["gpus"], row["gpus_apart"]) == (1, 2)
        assert row["per_month_apart"] == 2 * row["per_month"]
        assert content["max_model_len"] == 1024
    assert "set" not in json.loads(run("plan", "q4-bot", "--models-dir", STORE, "--gpu", "L4", "--json").out)
    apart = run("plan", "support-bot", "q4-bot", "--models-dir", STORE)
    assert (apart.code, "need servers of their own" in apart.err) == (2, True)


def test_parity_names_the_variants(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("convert", "support-bot", "child-bot", "--models-dir", STORE, "-o", out).code == 0
    servers = ("--source", "http://127.0.0.1:9", "--target", "http://127.0.0.1:9")
    unknown = run("parity", out, *servers, "--variant", "nobody")
    assert (unknown.code, "support-bot, child-bot" in unknown.err) == (2, True)
    first = run("parity", out, *servers)
    assert "comparing support-bot; the bundle serves child-bot, too" in first.err
    assert first.code == 4
    one = tmp_path / "one"
    assert run("convert", "q4-bot", "--models-dir", STORE, "-o", one).code == 0
    for variant in ("nobody", "all"):
        assert run("parity", one, *servers, "--variant", variant).code == 2


@pytest.mark.parametrize("written", [0, 1])
def test_an_interrupt_ends_it_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    real, asked = sets._write, []

    def interrupted(*args: Any, **more: Any) -> Any:
        asked.append(args)
        if len(asked) > written:
            raise Interrupted("interrupted; nothing half-written was left")
        return real(*args, **more)

    monkeypatch.setattr(sets, "_write", interrupted)
    result = run("convert", "--all", "--models-dir", STORE, "-o", tmp_path / "out")
    assert (result.code, len(asked)) == (Interrupted.exit_code, written + 1)
    assert "left out" not in result.err
    assert len(list(tmp_path.glob("out/*"))) == written
