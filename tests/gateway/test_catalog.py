"""What the gateway says of its models, beside what the real Ollama said of the same; and who is meant by a name."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput, UsageError
from migrate.gateway import catalog as shown
from migrate.gateway import wire
from migrate.gateway.catalog import Catalog, go_time, parameters_text
from migrate.gateway.types import ApiError
from tests.gateway import bench
from tests.ollama.replay import recordings

NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)
STORES = {"catalog": "recordings.jsonl", "modern_catalog": "modern/recordings.jsonl"}
HERE = {"modified_at"}
"""When the bundle was written; the order of what Go keeps in a map is no difference."""
MEMORY = {"size", "size_vram", "expires_at"}
"""What the model takes in Ollama's memory, and until when. vLLM's are for ever, and of the size of the weights."""


def said(shared: Path, store: str, name: str) -> Any:
    rows = recordings(shared / "ollama" / STORES[store])
    return json.loads(next(row for row in rows if row["name"] == name)["response"]["body"])


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> tuple[str, Catalog]:
    return request.param, request.getfixturevalue(request.param)


def test_tags_are_ollamas(store: tuple[str, Catalog], shared: Path) -> None:
    name, catalog = store
    wanted = {model["name"]: model for model in said(shared, name, "tags")["models"]}
    wanted.pop("oss-bot:latest", None)
    got = {model["name"]: model for model in shown.tags(catalog)["models"]}

    assert got.keys() == wanted.keys()
    for key, model in wanted.items():
        assert list(got[key]) == list(model)
        assert {k: v for k, v in got[key].items() if k not in HERE} == {k: v for k, v in model.items() if k not in HERE}
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", got[key]["modified_at"])


@pytest.mark.parametrize(
    ("fixture", "row", "count"), [("catalog", "ps-after", 3), ("modern_catalog", "ps", 3)]
)  # fmt: skip
def test_ps_is_ollamas(request: pytest.FixtureRequest, shared: Path, fixture: str, row: str, count: int) -> None:
    got = {model["name"]: model for model in shown.ps(request.getfixturevalue(fixture).models, NOW)["models"]}
    wanted = [model for model in said(shared, fixture, row)["models"] if model["name"] != "oss-bot:latest"]

    assert len(wanted) == count
    for model in wanted:
        mine = got[model["name"]]
        assert list(mine) == list(model)
        assert {k: v for k, v in mine.items() if k not in MEMORY} == {k: v for k, v in model.items() if k not in MEMORY}
        assert mine["expires_at"].startswith("2318-")


def test_shows_are_ollamas(store: tuple[str, Catalog], shared: Path) -> None:
    name, catalog = store
    for model in catalog.models:
        wanted = said(shared, name, f"show/{model.name.model}")
        got = json.loads(wire.go_json(shown.show(model)))

        assert list(got) == list(wanted)
        assert list(got["model_info"]) == list(wanted["model_info"])
        assert _comparable(got) == _comparable(wanted)


def test_a_verbose_show_has_the_tokenizer_but_for_the_types_of_tokens(catalog: Catalog, shared: Path) -> None:
    """The bundle's tokenizer.json does not tell all of llama.cpp's kinds of tokens."""
    wanted = said(shared, "catalog", "show-verbose/support-bot")
    model = catalog.require("support-bot")
    got = json.loads(wire.go_json(shown.show(model, verbose=True)))
    del wanted["model_info"]["tokenizer.ggml.token_type"], got["model_info"]["tokenizer.ggml.token_type"]

    assert len(got["model_info"]["tokenizer.ggml.tokens"]) == 768
    assert _comparable(got) == _comparable(wanted)


def _comparable(answer: dict[str, Any]) -> dict[str, Any]:
    """Without times; parameters, which Ollama keeps in a map, in order; blobs by name, wherever they lie."""
    answer = {key: value for key, value in answer.items() if key not in HERE}
    if "parameters" in answer:
        answer["parameters"] = sorted(answer["parameters"].split("\n"))
    head, *parameters = re.split(r"\n(?=PARAMETER )", re.sub(r"\S*/blobs/", "", answer["modelfile"]))
    last, _, rest = parameters[-1].partition("\n") if parameters else ("", "", "")
    answer["modelfile"] = [head, sorted([*parameters[:-1], last]), rest]
    return answer


# ---- names -----------------------------------------------------------------------------------------------------------

SUPPORT = ["support-bot", "support-bot:latest", "SUPPORT-BOT:Latest", "library/support-bot", "support-bot:local",
           "registry.ollama.ai/library/support-bot:latest", "Registry.Ollama.AI/Library/Support-Bot",
           "https://registry.ollama.ai/library/support-bot", "  support-bot \n"]  # fmt: skip
NOBODY = ["support-bot:7b", "other/support-bot", "example.com/library/support-bot", "support-bot:cloud",
          "support-bot:latest-cloud", "support", "", ":", "/", "a/b/c/d", "../support-bot", "support-bot:",
          "súpport-bot", "x" * 100_000]  # fmt: skip


@pytest.mark.parametrize("name", SUPPORT)
def test_a_model_by_any_of_its_names(catalog: Catalog, name: str) -> None:
    assert catalog.require(name).name.short == "support-bot:latest"


@pytest.mark.parametrize("name", NOBODY)
def test_names_of_nobody(catalog: Catalog, name: str) -> None:
    assert catalog.find(name) is None
    with pytest.raises(ApiError) as caught:
        catalog.require(name)
    assert (caught.value.status, caught.value.message) == (404, f"model '{name}' not found")


@given(st.text(max_size=30))
def test_no_text_is_more_than_a_name(text: str) -> None:
    assert Catalog([]).find(text) is None
    assert isinstance(shown.short_name(text), str)


@pytest.mark.parametrize(("name", "status"), [("", 400), ("a/b/c/d", 400), ("nope", 404), ("nope:cloud", 404)])
def test_a_name_that_is_none_can_have_an_error_of_its_own(catalog: Catalog, name: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        catalog.require(name, empty=ApiError(400, "model is required"))
    assert caught.value.status == status


def test_names_that_clash_are_refused(bundles: Path) -> None:
    config = bench.config(bundles, only=["support-bot"])
    twice = config.model_copy(update={"models": (*config.models, *config.models)})

    with pytest.raises(UsageError, match="support-bot:latest is in two bundles"):
        shown.read_catalog(twice)


def test_a_name_that_the_bundle_does_not_have_is_refused(bundles: Path) -> None:
    config = bench.config(bundles, only=["q4-bot"])
    (model,) = config.models
    other = config.model_copy(update={"models": (model.model_copy(update={"names": ("q4-bot", "typo")}),)})

    with pytest.raises(UsageError, match="has not all of q4-bot, typo"):
        shown.read_catalog(other)


def test_bundles_from_before_the_gateway_are_refused(bundles: Path, tmp_path: Path) -> None:
    content = json.loads((bundles / "q4-bot" / "migration.json").read_text())
    content["source"]["details"] = {}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "migration.json").write_text(json.dumps(content))

    with pytest.raises(BadInput, match="before there was a gateway"):
        bench.catalog(tmp_path)


def test_variants_of_a_set_have_their_own_names_contexts_and_stops(catalog: Catalog) -> None:
    support, child = catalog.require("support-bot"), catalog.require("child-bot")

    assert (support.bundle, support.tokens.path) == (child.bundle, child.tokens.path)
    assert (support.served_name, child.served_name) == ("support-bot", "child-bot")
    assert (support.num_ctx, support.max_model_len, support.context_length) == (1024, 1024, 2048)
    assert support.parameters["stop"] != child.parameters["stop"]


# ---- how Go writes things --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.2"),
        (0.0, "0"),
        (1.0, "1"),
        (1024, "1024"),
        (-1, "-1"),
        (0.1 + 0.2, "0.3"),
        (1e-05, "1e-05"),
        (0.123456789, "0.12345679"),
        (131072, "131072"),
        (2000000, "2e+06"),
        (1048576, "1.048576e+06"),
        (True, "true"),
        ("<|im_end|>", '"<|im_end|>"'),
        ('a"b\n', '"a\\"b\\n"'),
        ("Ünïcödé", '"Ünïcödé"'),
        (["a", "b"], '"a"\nx                              "b"'),
    ],
)
def test_parameters_as_show_prints_them(value: Any, text: str) -> None:
    assert parameters_text([("x", value)]) == f"x                              {text}"


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0, "2026-11-25T10:20:30Z"), (500_000, "2026-11-25T10:20:30.5Z"), (1, "2026-11-25T10:20:30.000001Z")],
)
def test_times_without_zeros_at_their_end(microseconds: int, text: str) -> None:
    when = datetime.datetime(2026, 11, 25, 12, 20, 30, microseconds, datetime.timezone(datetime.timedelta(hours=2)))
    assert go_time(when) == text
