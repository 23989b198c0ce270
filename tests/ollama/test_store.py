"""The store: two that a real Ollama wrote, and broken ones."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import GGUFError, NotFound, StoreError, UsageError
from migrate.ollama import locations
from migrate.ollama.manifest import IMAGE, parse
from migrate.ollama.refusal import refusal
from migrate.ollama.store import Store, find_models_dir

CONFIG = {"model_format": "gguf", "model_family": "llama"}


@pytest.fixture(scope="module")
def store(shared: Path) -> Store:
    return Store(shared / "ollama" / "store")


# A real one


def test_list(store: Store) -> None:
    names = [name.short for name in store.list()]
    assert names == sorted(names)
    assert len(names) == 7
    assert "support-bot:latest" in names


def test_summary(store: Store, shared: Path) -> None:
    """Digests and sizes are those the server listed."""
    rows = (shared / "ollama" / "recordings.jsonl").read_text(encoding="utf-8").splitlines()
    reply = next(row["response"]["body"] for row in map(json.loads, rows) if row["name"] == "tags")
    listed = {m["name"]: (m["digest"], m["size"]) for m in json.loads(reply)["models"]}
    summaries = [store.summary(name) for name in store.list()]
    assert {s.name.short: (s.digest.removeprefix("sha256:"), s.size) for s in summaries} == listed


def test_load(store: Store) -> None:
    model = store.load("support-bot")
    assert (model.name, model.kind, model.parent) == ("support-bot:latest", "store", None)
    assert model.gguf is not None
    assert model.gguf.architecture == "llama"
    assert model.template is not None
    assert model.template.startswith("{{- if or .System .Tools }}")
    assert model.system == "You are the support assistant of Example Shop.\nAnswer in one sentence."
    assert [m["role"] for m in model.messages] == ["user", "assistant"]
    assert model.parameters["stop"] == ["<|im_end|>", "<|im_start|>", "User:"]
    assert model.licenses == ("MIT License\nCopyright (c) Example Shop",)
    assert set(model.digests) == {
        "manifest", "config", "model", "template", "system", "params", "messages", "license",
    }  # fmt: skip
    assert refusal(model) is None


def test_a_child_knows_its_parent(store: Store) -> None:
    child, parent = store.load("child-bot"), store.load("support-bot")
    assert child.parent == "support-bot:latest"
    assert child.parent_parameters == parent.parameters
    assert (child.template, child.messages, child.licenses) == (parent.template, parent.messages, parent.licenses)


def test_renderer_and_adapter(store: Store) -> None:
    assert (store.load("renderer-bot").renderer, store.load("renderer-bot").parser) == ("qwen3-coder", "qwen3-coder")
    (adapter,) = store.load("adapter-bot").adapters
    assert adapter.path is not None
    assert (adapter.from_, adapter.path.stat().st_size) == ("lora.gguf", adapter.size)


def test_names_are_found_in_any_case(store: Store) -> None:
    assert store.load("Support-Bot:LATEST").name == "support-bot:latest"
    assert store.load("registry.ollama.ai/library/support-bot:latest").name == "support-bot:latest"
    assert store.load("support-bot:local").name == "support-bot:latest"


def test_unknown_names_come_with_near_ones(store: Store) -> None:
    with pytest.raises(NotFound, match="suport-bot:latest") as caught:
        store.load("suport-bot")
    assert caught.value.hint == "Did you mean support-bot:latest?"
    with pytest.raises(UsageError):
        store.load("../../etc/passwd")


def test_verify(store: Store) -> None:
    for layer in store.load("q4-bot").layers:
        store.verify(layer)


# Made up and broken


class Builder:
    """Writes a store as Ollama does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs").mkdir(parents=True)

    def blob(self, data: bytes, mark: str = "-") -> dict[str, Any]:
        digest = sha256(data).hexdigest()
        (self.path / "blobs" / f"sha256{mark}{digest}").write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, kind: str, data: bytes | object, **more: Any) -> dict[str, Any]:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        return {"mediaType": f"{IMAGE}{kind}", **self.blob(raw), **more}

    def manifest(self, name: str, content: object) -> None:
        path = self.path / "manifests" / "registry.ollama.ai" / "library" / name / "latest"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    def model(self, name: str, *layers: dict[str, Any], config: object = CONFIG) -> Store:
        self.manifest(name, {"schemaVersion": 2, "config": self.layer("config", config), "layers": list(layers)})
        return Store(self.path)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


@pytest.fixture(scope="module")
def gguf(store: Store) -> bytes:
    path = store.load("q4-bot").gguf_path
    assert path is not None
    return path.read_bytes()


def test_the_last_layer_counts_and_lists_add_up(builder: Builder, gguf: bytes) -> None:
    layer = builder.layer
    found = builder.model(
        "m",
        layer("model", gguf),
        layer("prompt", b"old"),
        layer("template", b"new"),
        layer("system", b"one"),
        layer("system", b"two"),
        layer("params", {"top_k": 1, "top_p": 0.5, "seed": None}),
        layer("params", {"top_k": 2}),
        layer("license", b"A"),
        layer("license", b"B"),
        layer("embed", b"ignored"),
        layer("messages", [{"role": "User", "content": "hi"}]),
    ).load("m")
    assert (found.template, found.system, found.licenses) == ("new", "two", ("A", "B"))
    assert found.parameters == {"top_k": 2, "top_p": 0.5}
    assert found.messages == ({"role": "user", "content": "hi"},)


def test_a_legacy_prompt_layer_is_the_template(builder: Builder, gguf: bytes) -> None:
    assert builder.model("m", builder.layer("model", gguf), builder.layer("prompt", b"P")).load("m").template == "P"


def test_no_template_is_not_an_empty_one(builder: Builder, gguf: bytes) -> None:
    assert builder.model("a", builder.layer("model", gguf)).load("a").template is None
    assert builder.model("b", builder.layer("model", gguf), builder.layer("template", b"")).load("b").template == ""


def test_blobs_of_early_stores_have_a_colon(builder: Builder, gguf: bytes) -> None:
    layer = {"mediaType": f"{IMAGE}model", **builder.blob(gguf, ":")}
    assert builder.model("m", layer).load("m").gguf is not None


def test_a_parent_that_was_replaced_tells_nothing(builder: Builder, gguf: bytes) -> None:
    builder.model("parent", builder.layer("model", gguf + b"x"), builder.layer("params", {"top_k": 1}))
    layers = builder.layer("model", gguf, **{"from": "parent"}), builder.layer("params", {"top_k": 1})
    child = builder.model("child", *layers).load("child")
    assert (child.parent, child.parent_parameters) == ("parent", None)


def drop(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    path.write_bytes(b"?" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "words"),
    [(drop, "is missing"), (cut, "bytes instead of"), (flip, "damaged: its content has another digest")],
)
def test_damaged_blobs_are_named(builder: Builder, gguf: bytes, damage: Callable[[Path], None], words: str) -> None:
    system = builder.layer("system", b"text")
    store = builder.model("m", builder.layer("model", gguf), system)
    damage(builder.path / "blobs" / system["digest"].replace(":", "-"))
    with pytest.raises(StoreError, match=words) as caught:
        store.load("m")
    assert system["digest"] in str(caught.value)
    assert "ollama pull" in (caught.value.hint or "")


def test_an_interrupted_download(builder: Builder, gguf: bytes) -> None:
    layer = builder.layer("model", gguf)
    path = builder.path / "blobs" / layer["digest"].replace(":", "-")
    path.rename(path.with_name(path.name + "-partial"))
    with pytest.raises(StoreError, match="its download did not finish"):
        builder.model("m", layer).load("m")


def test_weights_are_checked_by_verify_only(builder: Builder, gguf: bytes) -> None:
    layer = builder.layer("model", gguf)
    path = builder.path / "blobs" / layer["digest"].replace(":", "-")
    path.write_bytes(gguf[:-1] + bytes([gguf[-1] ^ 1]))
    store = builder.model("m", layer)
    (loaded,) = store.load("m").layers
    with pytest.raises(StoreError, match="another digest"):
        store.verify(loaded)


def test_weights_that_are_no_gguf(builder: Builder) -> None:
    with pytest.raises(GGUFError):
        builder.model("m", builder.layer("model", b"not a gguf at all, but long enough")).load("m")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "a JSON object was expected"),
        (b"[" * 200_000, "too deeply"),
        (b'{"layers": ' + b"[" * 200_000, "too deeply"),
        (b'{"layers": 3}', "not a list"),
        (b'{"layers": [3]}', "not an object"),
        (b'{"layers": [{"digest": "sha256:../../../etc/passwd", "size": 1}]}', "no valid digest"),
        (b'{"layers": [{"digest": "/etc/passwd", "size": 1}]}', "no valid digest"),
        (b'{"layers": [{"digest": "sha256:' + b"0" * 64 + b'", "size": -1}]}', "no valid size"),
        (b'{"layers": [{"digest": "sha256:' + b"0" * 64 + b'", "size": ' + b"9" * 5000 + b"}]}", "not valid JSON"),
        (b'{"layers": [{"digest": "sha256:' + b"0" * 64 + b'", "size": NaN}]}', "not valid JSON"),
        (b'{"layers": [{"digest": "sha256:' + b"0" * 64 + b'", "size": 0, "from": []}]}', "must be texts"),
    ],
)
def test_hostile_manifests(builder: Builder, content: bytes, words: str) -> None:
    builder.manifest("m", content)
    with pytest.raises(StoreError, match=words):
        Store(builder.path).load("m")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("sha256:" + "0" * 64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["layers", "config", "digest", "size", "mediaType", "from", "name"]), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_any_json_is_a_manifest_or_a_store_error(value: object) -> None:
    try:
        manifest = parse(json.dumps(value).encode(), "manifest")
    except StoreError:
        return
    assert all(layer.digest.startswith("sha256:") and layer.size >= 0 for layer in manifest.layers)


def test_a_manifest_of_a_gigabyte(builder: Builder) -> None:
    builder.manifest("m", b"{}")
    path = builder.path / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
    with path.open("r+b") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(StoreError, match="more than 67,108,864 bytes"):
        Store(builder.path).load("m")


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_a_pipe_for_a_manifest_does_not_hang(builder: Builder) -> None:
    builder.manifest("m", b"{}")
    path = builder.path / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
    path.unlink()
    os.mkfifo(path)
    store = Store(builder.path)
    assert store.list() == []
    with pytest.raises(NotFound):
        store.load("m")


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        ("params", [1], "a JSON object was expected"),
        ("params", {"stop": "a"}, "must be a list of texts"),
        ("messages", {"role": "user"}, "a JSON list was expected"),
        ("messages", [{"content": "x"}], "without a role"),
        ("messages", [{"role": "user", "content": 3}], "not a text"),
    ],
)
def test_malformed_layers(builder: Builder, gguf: bytes, kind: str, content: object, words: str) -> None:
    store = builder.model("m", builder.layer("model", gguf), builder.layer(kind, content))
    with pytest.raises(StoreError, match=words):
        store.load("m")


@pytest.mark.parametrize("config", [[], {"renderer": 3}, {"capabilities": "image"}, {"capabilities": [1]}])
def test_malformed_configs(builder: Builder, gguf: bytes, config: object) -> None:
    with pytest.raises(StoreError):
        builder.model("m", builder.layer("model", gguf), config=config).load("m")


def test_what_is_no_model_name_is_passed_over(builder: Builder, gguf: bytes) -> None:
    store = builder.model("m", builder.layer("model", gguf))
    (builder.path / "manifests" / "registry.ollama.ai" / "library" / ".DS_Store").mkdir()
    (builder.path / "manifests" / "registry.ollama.ai" / "library" / ".DS_Store" / "latest").write_text("x")
    (builder.path / "manifests" / "stray").write_text("x")
    assert [name.short for name in store.list()] == ["m:latest"]
    assert Store(builder.path / "nowhere").list() == []


@pytest.mark.parametrize(
    ("config", "layers", "words"),
    [
        (
            {"remote_host": "https://ollama.com:443", "remote_model": "big"},
            [],
            "a cloud model: big on https://ollama.com",
        ),
        ({"capabilities": ["image"]}, [], "generates images"),
        ({"model_format": "safetensors"}, [], "only MLX reads such tensors"),
        ({}, [], "no weights"),
    ],
)
def test_refusals(builder: Builder, config: dict[str, Any], layers: list[str], words: str) -> None:
    store = builder.model("m", *(builder.layer(kind, b"x") for kind in layers), config=config)
    finding = refusal(store.load("m"))
    assert finding is not None
    assert finding.status == "refused"
    assert words in finding.reason
    assert store.summary("m").remote == ("remote_host" in config)


# Where


def test_explicit_directory(builder: Builder, gguf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.model("m", builder.layer("model", gguf))
    assert find_models_dir(tmp_path) == tmp_path
    monkeypatch.setenv("OLLAMA_MODELS", f' "{tmp_path}" ')
    assert find_models_dir() == tmp_path
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "not-there"))
    with pytest.raises(NotFound, match="OLLAMA_MODELS"):
        find_models_dir()


def test_the_directory_above_will_do(tmp_path: Path) -> None:
    (tmp_path / "models" / "manifests").mkdir(parents=True)
    assert find_models_dir(tmp_path) == tmp_path / "models"


def test_default_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(locations, "default_models_dirs", lambda: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(NotFound, match="no Ollama models on this machine"):
        find_models_dir()
    (tmp_path / "b" / "manifests").mkdir(parents=True)
    assert find_models_dir() == tmp_path / "b"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_place_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    (closed / "manifests").mkdir(parents=True)
    closed.chmod(0)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(locations, "default_models_dirs", lambda: [closed])
    try:
        with pytest.raises(NotFound, match="cannot be read by you") as caught:
            find_models_dir()
    finally:
        closed.chmod(0o700)
    assert "sudo -u" in (caught.value.hint or "")
