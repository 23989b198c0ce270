"""Parameters: types, defaults by version, and who set what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import ModelfileError, StoreError
from migrate.ollama import options
from migrate.ollama.model import OllamaModel, Parameter
from migrate.ollama.store import Store


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_ctx", "4096", 4096),
        ("num_ctx", "+4", 4),
        ("seed", "-1", -1),
        ("temperature", "0.1", 0.1),
        ("temperature", "1", 1.0),
        ("temperature", ".5", 0.5),
        ("temperature", "1e-3", 0.001),
        ("temperature", "0.123456789012", 0.12345679),
        ("use_mmap", "T", True),
        ("use_mmap", "false", False),
        ("stop", "anything # at all", "anything # at all"),
        ("mirostat", "2", None),
        ("penalize_newline", "whatever", None),
    ],
)
def test_check(name: str, text: str, value: object) -> None:
    checked = options.check(name, text)
    assert checked == value
    assert type(checked) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("temprature", "1", "unknown parameter 'temprature'", "Did you mean temperature?"),
        ("TEMPERATURE", "1", "unknown parameter", "lower-case: temperature"),
        ("max_tokens", "1", "unknown parameter", "num_predict"),
        ("keep_alive", "5m", "unknown parameter", "OLLAMA_KEEP_ALIVE"),
        ("tfs_z", "1", "unknown parameter", "once"),
        ("miristat", "1", "unknown parameter", "mirostat"),
        ("zzz", "1", "unknown parameter", "Ollama knows"),
        (
            "",
            "temperature 1",
            "unknown parameter ''",
            'Exactly one blank goes between PARAMETER and the name: "PARAMETER t',
        ),
        ("temperature", "0.1  # low", "must be a number, not '0.1  # low'", "A comment needs its own line"),
        ("num_ctx", "4096.0", "must be a whole number", "PARAMETER num_ctx 4096"),
        ("num_ctx", "1e3", "must be a whole number", "PARAMETER num_ctx 1000"),
        ("num_ctx", "9223372036854775808", "must be a whole number", ""),
        ("temperature", "1e39", "must be a number", ""),
        ("temperature", "0,5", "must be a number", ""),
        ("use_mmap", "yes", "must be true or false", ""),
    ],
)
def test_check_refuses(name: str, text: str, message: str, hint: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        options.check(name, text)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


@given(st.sampled_from([*options.OPTIONS, "", "x"]), st.text(max_size=60))
def test_any_value_is_typed_or_refused(name: str, text: str) -> None:
    try:
        value = options.check(name, text)
    except ModelfileError:
        return
    assert isinstance(value, {"int": int, "float": float, "bool": bool, "strings": str}[options.OPTIONS[name].kind])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_ctx", 4096.0, 4096),
        ("temperature", 0, 0.0),
        ("temperature", 0.20000000298023224, 0.2),
        ("stop", ["a"], ["a"]),
        ("main_gpu", None, None),
        ("num_gqa", 8, 8),
    ],
)
def test_stored(name: str, value: object, expected: object) -> None:
    assert options.stored(name, value) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("stop", "a"), ("stop", [1]), ("temperature", "hot"), ("num_ctx", True), ("num_ctx", 10**30), ("top_p", 1e300)],
)
def test_stored_refuses_what_ollama_would_not_run(name: str, value: object) -> None:
    with pytest.raises(StoreError, match=name):
        options.stored(name, value)


@pytest.mark.parametrize(
    ("version", "penalty"),
    [(None, 1.0), ("0.33.0-rc2", 1.0), ("0.32.10", 1.0), ("0.32.9", 1.1), ("v0.5.1", 1.1), ("nonsense", 1.0)],
)
def test_repeat_penalty_by_version(version: str | None, penalty: float) -> None:
    assert options.default("repeat_penalty", version) == penalty


def effective(model: OllamaModel, **more: Any) -> dict[str, Parameter]:
    return {p.name: p for p in options.effective(model, **more)}


def test_defaults_are_named_with_the_version_they_are_of() -> None:
    found = effective(OllamaModel("m", "gguf"), version="0.31.2")
    assert list(found) == list(options.OPTIONS)
    assert found["repeat_penalty"] == Parameter("repeat_penalty", 1.1, "Ollama default (0.31.2)")
    assert all(p.is_default for p in found.values())
    assert found["num_ctx"].value is None
    assert "VRAM" in found["num_ctx"].origin
    assert effective(OllamaModel("m", "gguf"))["top_k"].origin == "Ollama default (0.33)"


@pytest.mark.parametrize(
    ("model", "name", "value", "origin"),
    [
        ("support-bot", "repeat_penalty", 1.1, "Modelfile"),
        ("support-bot", "stop", ["<|im_end|>", "<|im_start|>", "User:"], "Modelfile"),
        ("support-bot", "presence_penalty", 0.0, "Ollama default (0.33)"),
        ("child-bot", "top_k", 20, "parent support-bot:latest"),
        ("child-bot", "temperature", 0.0, "Modelfile"),
        ("child-bot", "stop", ["<|im_end|>"], "Modelfile"),
        ("native-bot", "stop", ["<|im_start|>", "<|im_end|>"], "autodetected template (chatml)"),
        ("renderer-bot", "stop", ["<|im_start|>", "<|im_end|>"], "autodetected template (chatml)"),
        ("q4-bot", "stop", ["<|im_start|>", "<|im_end|>"], "Modelfile or autodetected template"),
    ],
)
def test_origins(shared: Path, model: str, name: str, value: object, origin: str) -> None:
    found = effective(Store(shared / "ollama" / "store").load(model))[name]
    assert (found.value, found.origin) == (value, origin)


def test_gemma4_gets_its_stop_from_create(shared: Path) -> None:
    found = effective(Store(shared / "ollama" / "modern" / "store").load("gemma-bot"))["stop"]
    assert (found.value, found.origin) == (["<turn|>"], "ollama create, for every gemma4")


def test_drafts_are_used_only_when_there() -> None:
    assert effective(OllamaModel("m", "gguf"))["draft_num_predict"].value == 0


def test_what_old_stores_still_have_is_dropped_and_said() -> None:
    model = OllamaModel("m", "store", parameters={"tfs_z": 1, "mirostat": 2, "zzz": 3, "top_k": 4})
    assert [(f.item, f.status) for f in options.ignored(model)] == [
        ("PARAMETER tfs_z", "dropped"),
        ("PARAMETER mirostat", "dropped"),
        ("PARAMETER zzz", "dropped"),
    ]
    assert "zzz" not in effective(model)
