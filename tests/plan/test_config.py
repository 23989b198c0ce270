from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput, MigrateError, NotFound
from migrate.plan import config as configs
from migrate.plan import weights
from migrate.plan.config import Config
from migrate.plan.layers import growing_bytes_per_token, layer_caches
from tests.plan.published import LLAMA_8B


def test_the_text_part_of_a_model_with_eyes_counts() -> None:
    found = Config({"model_type": "mistral3", "vision_config": {}, "text_config": {"model_type": "mistral", **_SIZES}})
    assert found.model_type == "mistral"
    assert (found.layers, found.heads, found.head_dim) == (2, 4, 8)


_SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}


@pytest.mark.parametrize(
    ("text", "parameters", "token"),
    [
        (
            {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
            3_880_263_168,
            5 * 4 * 2 * 256 * 2,
        ),
        (
            {"hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "num_attention_heads": 32,
             "num_key_value_heads": 16, "head_dim": 128},
            27_009_346_304,
            10 * 16 * 2 * 128 * 2,
        ),
    ],
)  # fmt: skip
def test_gemma3_as_published_leaves_sizes_to_its_class(text: dict[str, int], parameters: int, token: int) -> None:
    """Gemma 3 4B and 27B: no vocab_size, and of the small one no heads either."""
    config = Config(
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024, **text}}
    )
    assert sum(size.parameters for size in weights.from_config(config)) == parameters
    assert growing_bytes_per_token(layer_caches(config)) == token


def test_names_of_older_classes() -> None:
    found = Config({"model_type": "x", "n_layer": 3, "n_head": 2, "n_embd": 16})
    assert (found.layers, found.heads, found.head_dim, found.kv_heads) == (3, 2, 8, 2)


def test_dtype_by_its_old_and_new_name() -> None:
    assert Config({"torch_dtype": "float16"}).dtype == "float16"
    assert Config({"torch_dtype": "torch.float32"}).dtype == "float32"
    assert Config({"dtype": "bfloat16", "torch_dtype": "float32"}).dtype == "bfloat16"
    assert Config({}).dtype == "bfloat16"


def test_sizes_of_full_layers_as_transformers_saves_gemma4() -> None:
    found = Config({"per_layer_config": {"5": {"head_dim": 64}, "11": {"head_dim": 64}}})
    assert found.integer("global_head_dim") == 64


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size", "model_type"])
def test_a_missing_key_is_named(key: str) -> None:
    values = {name: value for name, value in LLAMA_8B.items() if name != key}
    with pytest.raises(BadInput, match=key):
        weights.from_config(Config(values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 10**30),
        ("vocab_size", 2**40),
        ("hidden_size", "4096"),
        ("hidden_size", 40.96),
        ("num_key_value_heads", True),
        ("sliding_window", -4),
        ("layer_types", "full_attention"),
        ("layer_types", ["full_attention"]),
        ("layer_types", [1] * 32),
    ],
)
def test_an_absurd_number_is_refused_before_it_costs_anything(key: str, value: Any) -> None:
    with pytest.raises(BadInput, match=key) as caught:
        layer_caches(Config(LLAMA_8B | {key: value}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("intermediate_size", None),
        ("moe_intermediate_size", -1),
        ("moe_intermediate_size", 1.5),
        ("shared_expert_intermediate_size", -1),
        ("q_lora_rank", -1),
        ("n_shared_experts", 1.5),
        ("first_k_dense_replace", 10**30),
        ("num_experts_per_tok", 10**6),
        ("torch_dtype", "x"),
        ("torch_dtype", ["bfloat16"]),
    ],
)
def test_a_size_that_would_be_counted_wrongly_is_refused(key: str, value: Any) -> None:
    values = {name: kept for name, kept in LLAMA_8B.items() if name != key} | ({} if value is None else {key: value})
    with pytest.raises(BadInput) as caught:
        weights.from_config(Config(values))
    named = {"intermediate_size": "mlp.gate_proj", "torch_dtype": "dtype"}.get(key, key)
    assert named in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("values", [[], "text", 3, None])
def test_what_is_no_object(values: Any) -> None:
    with pytest.raises(BadInput, match="not an object"):
        Config(values)


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(NotFound):
        configs.read(path)
    path.write_text(json.dumps(LLAMA_8B))
    assert configs.read(path).layers == configs.read(tmp_path).layers == 32
    path.write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        configs.read(path)
    path.write_text("[" * 100_000)
    with pytest.raises(BadInput, match="not JSON"):
        configs.read(path)
    with path.open("wb") as file:
        file.truncate(configs.MAX_BYTES + 1)
    with pytest.raises(BadInput, match="larger than"):
        configs.read(path)


_KEYS = st.sampled_from([*LLAMA_8B, "layer_types", "sliding_window", "num_experts", "kv_lora_rank", "text_config"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_any_config_is_read_or_refused_in_words(changes: dict[str, Any]) -> None:
    with contextlib.suppress(MigrateError):
        config = Config(LLAMA_8B | changes)
        layer_caches(config)
        weights.weigh(weights.from_config(config), config, exact=False, origin="config")
