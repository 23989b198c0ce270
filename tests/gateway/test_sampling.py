"""Each option by what it does at vLLM, within what vLLM takes; and what is told where that is not the same."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.gateway import sampling as module
from migrate.gateway.catalog import Catalog
from migrate.gateway.decode import check_options
from migrate.gateway.sampling import CACHED_CHARACTERS, sampling, structured
from migrate.gateway.types import ApiError
from migrate.mapping.parameters import Penalties
from migrate.ollama.options import OPTIONS

PENALTY = {"repeat_penalty", "repeat_last_n"}
"""Of support-bot's own parameters, which every request to it has."""


def body(
    catalog: Catalog, options: dict[str, Any], name: str = "support-bot", *, penalties: Penalties = "none"
) -> dict[str, Any]:
    known, _ = check_options(options)
    return dict(sampling(replace(catalog.require(name), penalties=penalties), known).body)


def notes(catalog: Catalog, options: dict[str, Any], name: str = "q4-bot") -> set[str]:
    known, _ = check_options(options)
    return set(sampling(catalog.require(name), known).notes)


def test_every_field_is_sent_so_that_no_default_of_the_server_counts(catalog: Catalog) -> None:
    assert body(catalog, {}) == {
        "temperature": 0.2,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.05,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": 42,
        "stop": ["User:"],
        "stop_token_ids": [733, 732],
    }


@pytest.mark.parametrize(
    ("option", "value", "field", "sent"),
    [
        ("temperature", 0.7, "temperature", 0.7),
        ("temperature", 0, "temperature", 0.0),
        ("temperature", -1, "temperature", 0.0),
        ("temperature", 1e30, "temperature", 2.0),
        ("temperature", 1e-30, "temperature", 1e-30),
        ("top_k", 7.9, "top_k", 7),
        ("top_k", 0, "top_k", 0),
        ("top_k", -1, "top_k", 0),
        ("top_k", -(10**30), "top_k", 0),
        ("top_k", 10**12, "top_k", 10**12),
        ("top_p", 0.5, "top_p", 0.5),
        ("top_p", 0, "top_k", 1),
        ("top_p", -1, "top_k", 1),
        ("top_p", 7, "top_p", 1.0),
        ("min_p", 0.1, "min_p", 0.1),
        ("min_p", 5, "min_p", 1.0),
        ("min_p", -5, "min_p", 0.0),
        ("seed", 7, "seed", 7),
        ("seed", 0, "seed", 0),
        ("seed", 2**63 - 1, "seed", 2**63 - 1),
        ("presence_penalty", 1.5, "presence_penalty", 1.5),
        ("presence_penalty", 99, "presence_penalty", 2.0),
        ("frequency_penalty", -99, "frequency_penalty", -2.0),
        ("repeat_penalty", 1.5, "repetition_penalty", 1.0),
        ("repeat_penalty", 0, "repetition_penalty", 1.0),
        ("repeat_penalty", -3, "repetition_penalty", 1.0),
        ("stop", [], "stop", []),
        ("stop", ["a", "a", "", "b"], "stop", ["a", "b"]),
        ("stop", ["<|im_end|>", "x"], "stop", ["x"]),
        ("stop", ["<|im_end|>", "x"], "stop_token_ids", [733, 732]),
    ],
)  # fmt: skip
def test_options(catalog: Catalog, option: str, value: Any, field: str, sent: Any) -> None:
    assert body(catalog, {option: value})[field] == sent


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**63, 2**64])
def test_a_seed_below_zero_is_none(catalog: Catalog, seed: int) -> None:
    """Beyond int64 too: there Go's conversion gives the least int64."""
    assert "seed" not in body(catalog, {"seed": seed})


def test_penalties_can_be_kept(catalog: Catalog) -> None:
    assert body(catalog, {}, penalties="vllm")["repetition_penalty"] == pytest.approx(1.1)
    assert body(catalog, {"repeat_penalty": 1.3}, penalties="vllm")["repetition_penalty"] == 1.3
    assert body(catalog, {"repeat_last_n": 0}, penalties="vllm")["repetition_penalty"] == 1.0
    assert body(catalog, {"repeat_penalty": 0}, penalties="vllm")["repetition_penalty"] == 1.0


@given(st.dictionaries(
    st.sampled_from(sorted(OPTIONS)),
    st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**40), 10**40) | st.booleans() | st.none()
    | st.lists(st.text(max_size=3), max_size=3), max_size=6))  # fmt: skip
def test_whatever_is_asked_vllm_takes(catalog: Catalog, options: dict[str, Any]) -> None:
    """The bounds of vLLM 0.32's SamplingParams (_verify_args) and of JSON."""
    fitting: dict[str, Any] = {}
    for name, value in options.items():
        with contextlib.suppress(ApiError):
            fitting |= check_options({name: value})[0]
    made = sampling(catalog.require("support-bot"), fitting)
    sent = made.body

    assert 0 <= sent["temperature"] <= 2
    assert 0 < sent["top_p"] <= 1
    assert 0 <= sent["min_p"] <= 1
    assert sent["top_k"] >= 0
    assert sent["repetition_penalty"] > 0
    assert -2 <= sent["presence_penalty"] <= 2
    assert -2 <= sent["frequency_penalty"] <= 2
    assert -(2**63) <= sent.get("seed", 0) < 2**63
    assert "" not in sent["stop"]
    assert 4 <= made.num_ctx <= 1024
    assert 0 <= made.num_predict <= 10 * made.num_ctx
    assert json.loads(json.dumps(sent)) == sent


# ---- context and length ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "asked", "num_ctx", "told"),
    [
        ("support-bot", None, 1024, False),
        ("support-bot", 0, 1024, False),
        ("support-bot", -5, 1024, False),
        ("support-bot", 1, 4, False),  # Ollama's minimum
        ("support-bot", 100, 100, False),
        ("support-bot", 1024, 1024, False),
        ("support-bot", 1025, 1024, True),  # the server was started with 1024
        ("support-bot", 10**9, 1024, True),
        ("q4-bot", 2048, 2048, False),
        ("q4-bot", 10**9, 2048, False),  # the model's own maximum, in Ollama as well
    ],
)
def test_num_ctx(catalog: Catalog, name: str, asked: int | None, num_ctx: int, told: bool) -> None:
    made = sampling(catalog.require(name), {} if asked is None else {"num_ctx": asked})

    assert made.num_ctx == num_ctx
    assert ("num_ctx" in made.notes) is told


@pytest.mark.parametrize(
    ("asked", "num_predict"),
    [(None, 64), (0, 0), (1, 1), (-1, 10_240), (-2, 10_240), (10_240, 10_240), (10_241, 10_240)],
)
def test_num_predict_is_bounded_as_ollama_bounds_it(catalog: Catalog, asked: int | None, num_predict: int) -> None:
    options = {} if asked is None else {"num_predict": asked}
    assert sampling(catalog.require("support-bot"), options).num_predict == num_predict


def test_num_keep(catalog: Catalog) -> None:
    model = catalog.require("support-bot")
    assert [sampling(model, o).num_keep for o in ({}, {"num_keep": -1}, {"num_keep": 9})] == [4, -1, 9]


# ---- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, set()),
        ({"temperature": 0}, set()),
        ({"temperature": 1}, set()),
        ({"temperature": 0.5}, {"temperature"}),
        ({"temperature": 3}, {"temperature"}),
        ({"typical_p": 0.5}, {"typical_p"}),
        ({"typical_p": 1}, set()),
        ({"repeat_penalty": 1.2}, {"repeat_penalty"}),
        ({"repeat_last_n": 10}, set()),
        ({"presence_penalty": 1}, {"presence_penalty"}),
        ({"seed": 3, "num_predict": 5, "num_thread": 2, "num_gpu": 1, "use_mmap": True}, set()),
        ({"min_p": 5, "top_k": 3, "stop": ["x"]}, set()),
    ],
)
def test_what_is_not_the_same_is_told(catalog: Catalog, options: dict[str, Any], told: set[str]) -> None:
    assert notes(catalog, options) == told


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_equal_options_of_a_model_are_worked_out_once(catalog: Catalog) -> None:
    support, child = catalog.require("support-bot"), catalog.require("child-bot")

    assert sampling(support, {"top_k": 3, "seed": 1}) is sampling(support, {"seed": 1, "top_k": 3})
    assert sampling(support, {"top_k": 3}) is not sampling(support, {"top_k": 4})
    assert sampling(support, {"top_k": 3}) is not sampling(replace(support, penalties="vllm"), {"top_k": 3})
    assert sampling(support, {"top_k": 3}) is not sampling(child, {"top_k": 3})


def test_what_a_client_sends_does_not_fill_the_memory(catalog: Catalog) -> None:
    model = catalog.require("support-bot")
    before = module._sampling.cache_info().currsize
    for number in range(5):
        made = sampling(model, {"stop": [f"{number}" + "x" * CACHED_CHARACTERS]})
        assert len(made.body["stop"]) == 1
    assert module._sampling.cache_info().currsize == before


# ---- structured output -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (None, {}),
        ("json", {"structured_outputs": {"grammar": module.JSON_OBJECT}}),
        ({}, {"structured_outputs": {"json": {}}}),
        ({"type": "object"}, {"structured_outputs": {"json": {"type": "object"}}}),
    ],
)
def test_formats(wanted: Any, field: dict[str, Any]) -> None:
    assert structured(wanted) == field
