"""Model names as Ollama reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import UsageError
from migrate.ollama.names import ModelName, split_source


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"),
        ("me/mine:v1", "registry.ollama.ai/me/mine:v1", "me/mine:v1"),
        ("hf.co/user/repo:Q4_K_M", "hf.co/user/repo:Q4_K_M", "hf.co/user/repo:Q4_K_M"),
        ("localhost:5000/ns/m", "localhost:5000/ns/m:latest", "localhost:5000/ns/m:latest"),
        ("https://hf.co/user/repo", "hf.co/user/repo:latest", "hf.co/user/repo:latest"),
        ("Library/Llama", "registry.ollama.ai/Library/Llama:latest", "Llama:latest"),
        ("_private", "registry.ollama.ai/library/_private:latest", "_private:latest"),
        ("m" * 80, f"registry.ollama.ai/library/{'m' * 80}:latest", f"{'m' * 80}:latest"),
    ],
)
def test_parse(text: str, full: str, short: str) -> None:
    name = ModelName.parse(text)
    assert (str(name), name.short) == (full, short)
    assert ModelName.parse(full) == ModelName.parse(name.short) or name.namespace == "Library"


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "m:", ":tag", "/m", "ns/", "a/b/c/d", "-m", ".m", "..", "../m", "../../m", "a/../m", "ns.dot/m", "m m",
        "m\n", "é", "m:..", "m:a/b", "m@sha256:00", "m" * 81, "~/m", "C:\\m", "m\0", "host//m", "h" * 351 + "/n/m",
    ],
)  # fmt: skip
def test_invalid(text: str) -> None:
    assert not ModelName.valid(text)
    with pytest.raises(UsageError) as caught:
        ModelName.parse(text)
    assert caught.value.hint
    assert len(str(caught.value)) < 300


def test_case_does_not_matter() -> None:
    assert ModelName.parse("Me/Mine:V1").key == ModelName.parse("me/mine:v1").key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("m:cloud", ("m", "cloud")),
        ("m:8b-cloud", ("m:8b", "cloud")),
        ("m:8b-Cloud", ("m:8b", "cloud")),
        ("m:local", ("m", "local")),
        ("m:cloudy", ("m:cloudy", None)),
        ("cloud", ("cloud", None)),
        ("host:5/x-cloud", ("host:5/x-cloud", None)),
    ],
)
def test_source(text: str, expected: tuple[str, str | None]) -> None:
    assert split_source(text) == expected


@given(st.text() | st.text(alphabet="ab.:/_-@", max_size=12))
def test_any_text_is_a_name_inside_the_store_or_a_usage_error(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except UsageError:
        return
    assert ModelName.parse(str(name)) == name
    assert len(name.path.parts) == 4
    assert ".." not in name.path.parts
    root = Path("/root-of-manifests")
    assert (root / name.path).is_relative_to(root)
