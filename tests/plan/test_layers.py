from __future__ import annotations

import json
from typing import Any

import pytest

from migrate import architectures
from migrate.errors import Refused
from migrate.plan.config import Config
from migrate.plan.layers import Kind, growing_bytes_per_token, layer_caches, layer_kinds
from migrate.plan.weights import _defaults
from tests.plan.published import DEEPSEEK_V2_LITE, FIXTURES, GEMMA2_9B, LLAMA_8B, MISTRAL_7B_V01, QWEN_7B, fixtures


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (LLAMA_8B, 131_072),  # published
        (QWEN_7B, 57_344),  # published
        (MISTRAL_7B_V01, 131_072),  # until the window is full
        (GEMMA2_9B, 21 * 8 * 512 * 2),  # half of the layers grow
        (DEEPSEEK_V2_LITE, 27 * (512 + 64) * 2),  # one latent vector for all heads
        (LLAMA_8B | {"num_attention_heads": 32, "num_key_value_heads": 32}, 524_288),
    ],
)
def test_bytes_per_token(values: dict[str, Any], expected: int) -> None:
    assert growing_bytes_per_token(layer_caches(Config(values))) == expected


@pytest.mark.parametrize("name", fixtures())
def test_the_same_as_inspect_says(name: str) -> None:
    config = Config(json.loads((FIXTURES / name / "config.json").read_text()))
    values = {**config.values, **_defaults(config)}
    expected = architectures.for_model_type(config.model_type).kv_bytes_per_token(values, 2)
    assert growing_bytes_per_token(layer_caches(config)) == expected


def test_windows_where_the_class_knows_them() -> None:
    def kinds(**values: Any) -> list[str]:
        return layer_kinds(Config({**LLAMA_8B, "num_hidden_layers": 6, "sliding_window": 512, **values}))

    full, sliding = "full_attention", "sliding_attention"
    assert kinds(model_type="gemma2") == [sliding, full] * 3
    assert kinds(model_type="gpt_oss") == [sliding, full] * 3
    assert kinds(model_type="gemma3") == [sliding] * 5 + [full]
    assert kinds(model_type="gemma3", sliding_window_pattern=2) == [sliding, full] * 3
    assert kinds(model_type="cohere2", num_hidden_layers=4) == [sliding] * 3 + [full]
    assert kinds(model_type="gemma4", num_hidden_layers=7) == [sliding] * 5 + [full, full]
    assert kinds(model_type="exaone4", sliding_window_pattern="LLLG") == [sliding] * 3 + [full] + [sliding] * 2
    assert kinds(model_type="mistral") == [sliding] * 6
    assert kinds(model_type="mistral", sliding_window=None) == [full] * 6
    assert kinds(model_type="qwen2") == [full] * 6
    assert kinds(model_type="qwen2", use_sliding_window=True, max_window_layers=4) == [full] * 4 + [sliding] * 2
    assert kinds(model_type="qwen3_next") == ["linear_attention"] * 3 + [full] + ["linear_attention"] * 2


def test_states_of_linear_attention() -> None:
    values = {
        "model_type": "qwen3_next",
        "dtype": "bfloat16",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "hidden_size": 256,
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
    }
    layers = layer_caches(Config(values))
    # (2 key heads x 32 twice + 4 value heads x 16) x 3 inputs, and 4 x 16 x 32 numbers of the state, two bytes each
    assert [layer.kind for layer in layers] == [Kind.STATE] * 3 + [Kind.FULL]
    assert layers[0].state_bytes == (192 * 3 + 2048) * 2
    wide = layer_caches(Config(values | {"mamba_ssm_dtype": "float32"}))
    assert wide[0].state_bytes == 192 * 3 * 2 + 2048 * 4


def test_borrowing_layers_keep_nothing() -> None:
    config = Config(json.loads((FIXTURES / "gemma4" / "config.json").read_text()))
    borrowing = config.integer("num_kv_shared_layers")
    assert borrowing
    assert len(layer_caches(config)) == config.layers - borrowing


def test_heads_are_shared_out_but_never_split() -> None:
    (layer, *_) = layer_caches(Config(LLAMA_8B))
    assert [layer.token_bytes(2, gpus) for gpus in (1, 2, 8, 16)] == [4096, 2048, 512, 512]
    (latent, *_) = layer_caches(Config(DEEPSEEK_V2_LITE))
    assert latent.token_bytes(2, 8) == latent.token_bytes(2, 1) == 1152


def test_encoders_have_no_cache() -> None:
    assert layer_caches(Config({"model_type": "bert", "num_hidden_layers": 12})) == ()


@pytest.mark.parametrize("key", ["mamba_d_state", "compress_ratios", "hybrid_override_pattern"])
def test_what_cannot_be_sized_is_refused(key: str) -> None:
    with pytest.raises(Refused, match=key):
        layer_caches(Config(LLAMA_8B | {key: 16}))


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(Refused, match="chunked"):
        layer_caches(Config(LLAMA_8B | {"layer_types": ["chunked_attention"] * 32}))
