"""gateway.yaml: every key, every refusal, and no secret in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from migrate.errors import BadInput, NotFound, UsageError
from migrate.gateway.config import MAX_BYTES, Config, load

UPSTREAMS = {
    "gpu": {"url": ["http://a:8000/", "https://b:8000/prefix"], "api_key_env": "GPU_KEY"},
    "old": {"kind": "ollama", "url": "http://127.0.0.1:11435"},
}
MODELS = [{"bundle": "./one", "upstream": "gpu", "source": "old", "names": ["one", "two"]}]
ONE = {"bundle": "b", "upstream": "gpu"}
WHOLE: dict[str, Any] = {
    "listen": "http://0.0.0.0:80/",
    "upstreams": UPSTREAMS,
    "models": MODELS,
    "openai": "vllm",
    "tools": "go",
    "fallback": "old",
    "keep_penalty": True,
    "ollama_version": "0.33.0",
    "api_keys_env": "KEYS",
    "origins": ["https://*.example.com"],
    "metrics": False,
    "state": "state/x.json",
    "limits": {
        "max_body_mb": 1,
        "max_in_flight": 2,
        "connect_timeout": 0.5,
        "silence": 3,
        "body_timeout": 4,
        "write_timeout": 5,
    },
    "return": {"enabled": False, "window": 60, "min_requests": 5},
    "routing": {"conversation_header": "X-C", "upstream_header": "X-U", "forced": False},
    "shadow": {},
}


def write(path: Path, content: Any) -> Path:
    file = path / "gateway.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return file


def test_every_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPU_KEY", " secret-of-the-gpu ")
    monkeypatch.setenv("KEYS", "one, two,,")

    config = load(write(tmp_path, WHOLE))

    assert set(Config.model_fields) - {"root"} == {key.replace("return", "returning") for key in WHOLE}
    assert (config.listen, config.host, config.port) == ("0.0.0.0:80", "0.0.0.0", 80)
    assert config.upstreams["gpu"].urls == ("http://a:8000", "https://b:8000/prefix")
    assert config.upstreams["gpu"].api_key == "secret-of-the-gpu"
    assert config.upstreams["old"].api_key is None
    assert config.client_keys == {"one", "two"}
    assert config.state_path == tmp_path / "state" / "x.json"
    assert config.bundle_of(config.models[0]) == tmp_path / "one"
    assert (config.limits.max_body_mb, config.limits.write_timeout) == (1, 5)
    assert (config.returning.enabled, config.routing.upstream_header) == (False, "X-U")


def test_what_has_to_be_said_is_little(tmp_path: Path) -> None:
    content = {"upstreams": {"a": {"url": "http://h"}}, "models": [{"bundle": "/b", "upstream": "a"}]}
    config = load(write(tmp_path, content))

    assert (config.listen, config.host, config.port) == ("127.0.0.1:11434", "127.0.0.1", 11434)
    assert config.client_keys == frozenset()
    assert config.bundle_of(config.models[0]) == Path("/b")
    assert config.limits.max_in_flight == 512  # OLLAMA_MAX_QUEUE


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [(":8080", "127.0.0.1", 8080), ("[::1]:11434", "::1", 11434), ("ollama.internal:1", "ollama.internal", 1)],
)
def test_addresses(listen: str, host: str, port: int) -> None:
    config = Config.model_validate({**WHOLE, "listen": listen})

    assert (config.host, config.port) == (host, port)


def changed(**keys: Any) -> dict[str, Any]:
    return {key: value for key, value in {**WHOLE, **keys}.items() if value != "DROP"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("just text", "a configuration is a mapping"),
        ("a: [", "not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not YAML"),
        ("? {}\n: 1", "not YAML"),
        (changed(upstreams="DROP"), "upstreams: Field required"),
        (changed(upstreams={}), "upstreams"),
        (changed(models=[]), "models"),
        (changed(modles=[]), "modles: Extra inputs"),
        (changed(root="/etc"), "root"),
        (changed(openai="both"), "openai"),
        (changed(tools="xml"), "tools"),
        (changed(listen="nowhere"), "no address: write HOST:PORT"),
        (changed(listen="h:99999"), "no address"),
        (changed(listen="h/path:1"), "no address"),
        (changed(limits={"max_body_mb": 0}), "limits.max_body_mb"),
        (changed(limits={"silence": 0}), "limits.silence"),
        (changed(limits={"silence": float("nan")}), "limits.silence"),
        (changed(limits={"write_timeout": float("inf")}), "limits.write_timeout"),
        (changed(limits={"max_in_flight": 10**9}), "limits.max_in_flight"),
        (changed(limits={"timeout": 3}), "limits.timeout: Extra inputs"),
        (changed(fallback="gpu"), "fallback 'gpu' has to be an upstream of kind ollama"),
        (changed(fallback="none"), "fallback 'none' has to be an upstream of kind ollama"),
        (changed(models=[{"bundle": "b", "upstream": "x"}]), "b: upstream 'x' is not among the upstreams"),
        (changed(models=[{"bundle": "b", "upstream": "old"}]), "b: upstream 'old' has to be of kind vllm"),
        (changed(models=[ONE | {"source": "y"}]), "b: source 'y' is not among the upstreams"),
        (changed(models=[ONE | {"source": "gpu"}]), "b: source 'gpu' has to be of kind ollama"),
        (changed(upstreams={"gpu": {"url": []}}), "upstreams.gpu.url"),
        (changed(upstreams={"gpu": {"url": "a:8000"}}), "no address: write http://HOST:PORT"),
        (changed(upstreams={"gpu": {"url": "http://u:pw@h"}}), "gpu.url: an address with a password is no address"),
        (changed(upstreams={"gpu": {"url": "http://user:password@a"}}), "no address"),
        (changed(upstreams={"gpu": {"url": "http://a?key=1"}}), "no address"),
        (changed(upstreams={"gpu": {"url": "http://a/x#y"}}), "no address"),
        (changed(upstreams={"gpu": {"url": "http://a\nHost: b"}}), "no address"),
        (changed(upstreams={"gpu": {"url": "http://a", "kind": "openai"}}), "upstreams.gpu.kind"),
        (changed(upstreams={"gpu": {"url": "http://a", "api_key": "sk-1"}}), "upstreams.gpu.api_key: Extra inputs"),
        (changed(api_keys=["sk-1"]), "api_keys: Extra inputs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_named(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(write(tmp_path, content))

    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load(write(tmp_path, changed(upstreams={"gpu": {"url": "http://a", "api_key": "sk-secret"}})))

    assert "sk-secret" not in f"{caught.value} {caught.value.hint}"


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        load(tmp_path / "gateway.yaml")
    with pytest.raises(BadInput, match="larger than 1 MiB"):
        load(write(tmp_path, "#" * (MAX_BYTES + 1)))
    (tmp_path / "gateway.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not YAML"):
        load(tmp_path / "gateway.yaml")
    with pytest.raises(BadInput, match="not YAML"):
        load(write(tmp_path, "a: " + "[" * 5000))


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_key_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    config = Config.model_validate(WHOLE)
    for name in ("GPU_KEY", "KEYS"):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    with pytest.raises(UsageError, match="GPU_KEY is not set"):
        _ = config.upstreams["gpu"].api_key
    with pytest.raises(UsageError, match="KEYS is not set"):
        _ = config.client_keys


def test_only_commas_are_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a gateway that was to ask for keys would let everybody in."""
    monkeypatch.setenv("KEYS", " , ,")

    with pytest.raises(UsageError, match="KEYS"):
        _ = Config.model_validate(WHOLE).client_keys


def test_a_directory_is_its_file_or_its_bundle(bundles: Path, tmp_path: Path) -> None:
    assert [model.bundle for model in load(bundles).models] == [
        model.bundle for model in load(bundles / "gateway.yaml").models
    ]
    alone = bundles / "q4-bot"
    config = load(alone)
    assert (config.bundle_of(config.models[0]), config.upstreams["vllm"].urls[0][:17]) == (alone, "http://127.0.0.1:")
    with pytest.raises(NotFound):
        load(tmp_path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    twice = "upstreams:\n  a: {url: 'http://h:1'}\n  a: {url: 'http://h:2'}\n"
    path.write_text(twice + "models: [{bundle: ., upstream: a}]\n")
    with pytest.raises(BadInput, match="'a' stands there twice"):
        load(path)
