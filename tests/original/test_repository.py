"""Repositories: of a local server that speaks the Hub's endpoints, and directories."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrate.errors import BadInput, MigrateError, NotFound, Refused, ServerError, ServerUnreachable
from migrate.original.repository import Directory, HubRepository, parse, read_json, read_tensors
from tests.original.hub import SHA, Hub, serving

pytest.importorskip("huggingface_hub")


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    entries, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    weights = {"a": ("BF16", [2, 3], bytes(range(12))), "b": ("F32", [1], b"abcd")}
    (directory / "model.safetensors").write_bytes(safetensors(weights))
    return directory


@pytest.fixture
def hub(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving(Hub({"acme/tiny": files, "acme/secret": files}, gated=frozenset(["acme/secret"]))) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def test_a_pinned_revision_and_ranges(hub: Hub) -> None:
    found = parse("acme/tiny@main")
    assert found.revision == SHA
    assert read_json(found, "config.json") == {"model_type": "llama"}
    tensors = read_tensors(found)
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in tensors.items()} == {
        "a": ("BF16", (2, 3), 12),
        "b": ("F32", (1,), 4),
    }
    served = hub.served
    assert found.read("model.safetensors", tensors["a"].offset + 2, 4) == bytes([2, 3, 4, 5])
    assert hub.served - served == 4
    asked = [path for _, path, _ in hub.asked if "resolve" in path]
    assert asked
    assert all(f"/resolve/{SHA}/" in path for path in asked)


def test_a_download_has_what_vllm_needs(hub: Hub, files: Path) -> None:
    (files / "pytorch_model.bin").write_bytes(b"no")
    where = parse("acme/tiny").fetched()
    assert sorted(path.name for path in where.iterdir()) == ["config.json", "model.safetensors"]
    assert (where / "model.safetensors").read_bytes() == (files / "model.safetensors").read_bytes()


def test_a_gated_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="gated") as caught:
        read_json(parse("acme/secret"), "config.json")
    assert "HF_TOKEN" in str(caught.value.hint)
    hub.token = "hf_abc"
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert read_tensors(parse("acme/secret"))["b"].nbytes == 4
    assert hub.leaked == []


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("acme/none", NotFound, "no such repository"),
        ("acme/tiny@v9", NotFound, "no such revision"),
        ("../../etc", NotFound, "no name of a repository"),
        ("acme/../tiny", NotFound, "no name of a repository"),
        ("acme", NotFound, "no name of a repository"),
    ],
)
def test_what_is_not_there(hub: Hub, name: str, kind: type[MigrateError], said: str) -> None:
    with pytest.raises(kind, match=said):
        read_json(parse(name), "config.json")


@pytest.mark.parametrize(
    ("behaviour", "kind", "said"),
    [
        ("no ranges", ServerError, "cannot be read in parts"),
        ("short", ServerError, "bytes of .* instead of"),
        ("hangs", ServerUnreachable, "cannot be reached"),
        ("breaks", ServerUnreachable, "cannot be reached"),
    ],
)
def test_servers_that_misbehave(
    hub: Hub, behaviour: str, kind: type[MigrateError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    found = HubRepository("acme/tiny", timeout=0.3)
    assert found.sizes["model.safetensors"] > 0
    hub.behaviour = behaviour
    with pytest.raises(kind, match=said):
        found.read("model.safetensors", 0, 8)


def test_a_server_that_fails_once(hub: Hub) -> None:
    hub.behaviour = "503 once"
    assert len(read_tensors(parse("acme/tiny"))) == 2
    assert hub.failed == 1


def test_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ServerUnreachable, match="acme/tiny: HF_HUB_OFFLINE is set") as caught:
        read_json(parse("acme/tiny"), "config.json")
    assert "--hf-path" in str(caught.value.hint)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found = HubRepository("acme/tiny", endpoint="http://127.0.0.1:9", timeout=1)
    with pytest.raises(ServerUnreachable, match="cannot be reached"):
        _ = found.sizes


@pytest.mark.parametrize(
    ("given", "name", "revision"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None),
        ("Qwen/Qwen3-0.6B@abc", "Qwen/Qwen3-0.6B", "abc"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/", "Qwen/Qwen3-0.6B", None),
        ("hf.co/Qwen/Qwen3-0.6B/tree/dev", "Qwen/Qwen3-0.6B", "dev"),
    ],
)
def test_ways_to_name_a_repository(given: str, name: str, revision: str | None) -> None:
    found = parse(given)
    assert (found.name, found.asked) == (name, revision)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "JSON"),
        (safetensors({"a": ("BF16", [2, 3], bytes(12))})[:-1], "damaged"),
        (safetensors({"a": ("BF16", [2, 2], bytes(12))}), "damaged"),
        (safetensors({"a": ("BF16", [2, -3], bytes(12))}), "damaged"),
    ],
)
def test_damaged_safetensors(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(MigrateError, match=said):
        read_tensors(Directory(tmp_path))


def test_a_directory_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(Refused, match=r"no safetensors \(but \.bin\)"):
        read_tensors(Directory(tmp_path))
    with pytest.raises(BadInput, match=r"no config\.json"):
        read_json(Directory(tmp_path), "config.json")
    with pytest.raises(NotFound, match="no such directory"):
        _ = Directory(tmp_path / "none").sizes
