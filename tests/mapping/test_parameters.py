"""What every PARAMETER becomes: a table of cases."""

from __future__ import annotations

from typing import Any

import pytest

from migrate.errors import UsageError
from migrate.findings import Ledger, Status
from migrate.mapping.parameters import PENALTIES, Client, Penalties, map_context, map_sampling
from migrate.ollama.model import Parameter

MODELFILE, DEFAULT = "Modelfile", "Ollama default (0.33)"


def sample(
    *parameters: tuple[str, Any], client: Client = "native", penalties: Penalties = "ollama"
) -> tuple[dict[str, Any], Ledger]:
    ledger = Ledger()
    rows = [Parameter(name, value, MODELFILE) for name, value in parameters]
    sampling = map_sampling(rows, ledger, client=client, penalties=penalties)
    return {name: getattr(sampling, name) for name in sampling.__slots__}, ledger


@pytest.mark.parametrize(
    ("name", "value", "field", "expected", "status"),
    [
        ("temperature", 0.0, "temperature", 0.0, Status.EXACT),
        ("temperature", 1.0, "temperature", 1.0, Status.EXACT),
        ("temperature", 0.7, "temperature", 0.7, Status.APPROXIMATE),
        ("temperature", -1.0, "temperature", 0.0, Status.EQUIVALENT),
        ("min_p", -0.5, "min_p", 0.0, Status.EQUIVALENT),
        ("temperature", 2.5, "temperature", 2.0, Status.APPROXIMATE),
        ("top_k", 40, "top_k", 40, Status.EXACT),
        ("top_k", 0, "top_k", 0, Status.EXACT),
        ("top_k", -1, "top_k", 0, Status.EXACT),
        ("top_p", 0.95, "top_p", 0.95, Status.EXACT),
        ("top_p", 0.0, "top_k", 1, Status.EQUIVALENT),
        ("top_p", 1.5, "top_p", 1.0, Status.EXACT),
        ("min_p", 0.05, "min_p", 0.05, Status.EXACT),
        ("typical_p", 1.0, "temperature", 1.0, Status.EXACT),
        ("typical_p", 0.9, "temperature", 1.0, Status.DROPPED),
        ("repeat_penalty", 1.0, "repetition_penalty", 1.0, Status.EXACT),
        ("repeat_penalty", 1.1, "penalties", {**PENALTIES, "repeat_penalty": 1.1}, Status.EXACT),
        ("repeat_penalty", 1.1, "repetition_penalty", 1.0, Status.EXACT),
        ("repeat_penalty", 0.0, "repetition_penalty", 1.0, Status.DROPPED),
        ("presence_penalty", 0.0, "presence_penalty", 0.0, Status.EXACT),
        ("presence_penalty", 1.5, "penalties", {**PENALTIES, "presence_penalty": 1.5}, Status.EXACT),
        ("presence_penalty", 1.5, "presence_penalty", 0.0, Status.EXACT),
        ("frequency_penalty", 3.0, "penalties", {**PENALTIES, "frequency_penalty": 3.0}, Status.EXACT),
        ("num_predict", 64, "max_new_tokens", 64, Status.EQUIVALENT),
        ("num_predict", -1, "max_new_tokens", None, Status.APPROXIMATE),
        ("num_predict", 0, "max_new_tokens", None, Status.APPROXIMATE),
        ("seed", 42, "seed", 42, Status.APPROXIMATE),
        ("seed", 0, "seed", 0, Status.APPROXIMATE),
        ("seed", -1, "seed", None, Status.EXACT),
        ("repeat_last_n", 128, "penalties", {}, Status.EXACT),
        ("num_gpu", 99, "temperature", 1.0, Status.DROPPED),
        ("num_thread", 8, "temperature", 1.0, Status.DROPPED),
        ("num_keep", 24, "temperature", 1.0, Status.DROPPED),
    ],
)
def test_one_parameter(name: str, value: Any, field: str, expected: Any, status: Status) -> None:
    sampling, ledger = sample((name, value))
    assert sampling[field] == expected
    assert [f.status for f in ledger] == [status]
    assert next(iter(ledger)).item == f"PARAMETER {name}"


@pytest.mark.parametrize(("penalties", "repetition"), [("vllm", 1.1), ("none", 1.0)])
def test_penalties_of_vllms_own(penalties: Penalties, repetition: float) -> None:
    asked = (("repeat_penalty", 1.1), ("repeat_last_n", 32), ("presence_penalty", 1.5), ("frequency_penalty", 3.0))
    sampling, ledger = sample(*asked, penalties=penalties)
    assert sampling["penalties"] == {}
    assert sampling["repetition_penalty"] == repetition
    assert (sampling["presence_penalty"], sampling["frequency_penalty"]) == (1.5, 2.0)
    assert len(ledger.of(Status.APPROXIMATE)) == 3
    assert len(ledger.of(Status.DROPPED)) == 1


def test_penalties_of_ollama_are_of_one_window() -> None:
    sampling, ledger = sample(("repeat_penalty", 1.1), ("repeat_last_n", -1), ("frequency_penalty", 0.5))
    assert sampling["penalties"] == {
        "repeat_penalty": 1.1,
        "repeat_last_n": -1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.5,
    }
    assert {f.status for f in ledger} == {Status.EXACT}


def test_penalty_with_an_empty_window_is_off() -> None:
    sampling, ledger = sample(("repeat_last_n", 0), ("repeat_penalty", 1.3))
    assert sampling["repetition_penalty"] == 1.0
    assert next(f for f in ledger if f.item == "PARAMETER repeat_penalty").status is Status.EXACT


def test_openai_clients_never_saw_the_modelfile() -> None:
    sampling, _ = sample(("temperature", 0.2), ("top_p", 0.5), ("top_k", 20), client="openai")
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (1.0, 1.0, 20)


def test_defaults_nobody_wrote_are_carried_over_and_named() -> None:
    ledger = Ledger()
    rows = [Parameter("temperature", 0.8, DEFAULT), Parameter("top_k", 40, DEFAULT), Parameter("num_gpu", -1, DEFAULT)]
    sampling = map_sampling(rows, ledger)
    assert (sampling.temperature, sampling.top_k) == (0.8, 40)
    assert [f.item for f in ledger] == ["default temperature", "default top_k"]


@pytest.mark.parametrize(
    ("num_ctx", "origin", "maximum", "explicit", "loaded", "expected", "status"),
    [
        (8192, MODELFILE, 131072, None, None, 8192, Status.APPROXIMATE),
        (8192, MODELFILE, 2048, None, None, 2048, Status.APPROXIMATE),
        (2, MODELFILE, 2048, None, None, 4, Status.APPROXIMATE),
        (None, DEFAULT, 131072, None, None, 32768, Status.APPROXIMATE),
        (None, DEFAULT, 2048, None, None, 2048, Status.APPROXIMATE),
        (None, DEFAULT, 131072, None, 4096, 4096, Status.APPROXIMATE),
        (None, DEFAULT, 2048, None, 4096, 2048, Status.APPROXIMATE),
        (8192, MODELFILE, 131072, None, 4096, 8192, Status.APPROXIMATE),
        (8192, MODELFILE, 131072, 1000, None, 1000, Status.APPROXIMATE),
        (None, DEFAULT, 0, None, None, 32768, Status.APPROXIMATE),
    ],
)
def test_context(
    num_ctx: int | None,
    origin: str,
    maximum: int,
    explicit: int | None,
    loaded: int | None,
    expected: int,
    status: Status,
) -> None:
    ledger = Ledger()
    length, why = map_context(
        Parameter("num_ctx", num_ctx, origin), maximum, ledger, max_model_len=explicit, loaded_context=loaded
    )
    assert length == expected
    assert why
    assert [f.status for f in ledger] == [status]


def test_a_context_that_is_not_positive_is_not_there() -> None:
    ledger = Ledger()
    assert map_context(Parameter("num_ctx", -5, MODELFILE), 2048, ledger)[0] == 2048
    assert next(iter(ledger)).status is Status.DROPPED


def test_a_server_longer_than_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match="2048"):
        map_context(None, 2048, Ledger(), max_model_len=4096)


def test_an_empty_window_switches_all_penalties_off() -> None:
    sampling, ledger = sample(("repeat_last_n", 0), ("presence_penalty", 1.5))
    assert sampling["presence_penalty"] == 0
    assert next(f for f in ledger if f.item == "PARAMETER presence_penalty").status is Status.EXACT


def test_the_plugin_may_be_there_for_requests_alone() -> None:
    sampling, _ = sample(("temperature", 0.5), penalties="always")
    assert sampling["penalties"] == {}
