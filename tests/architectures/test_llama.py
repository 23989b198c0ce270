"""Architecture llama: config, tensor table, and everything that must not pass silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrate.architectures import for_model_type, read
from migrate.architectures.base import shortest_float
from migrate.architectures.tensors import unpermuted
from migrate.errors import GGUFError, Refused
from migrate.findings import Status
from migrate.gguf.header import read_header
from tests.architectures.tiny import BIASES, HEAD_DIM, HIDDEN, KV_HEADS, LAYERS, SHAPES, tiny_llama

BOOKKEEPING = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "attention_dropout", "initializer_range", "pretraining_tp"),
}


@pytest.mark.parametrize("model", ["tinychat", "llama3rope", "mistral"])
def test_config_computes_what_the_original_computes(shared: Path, model: str) -> None:
    name = "tinychat-f16" if model == "tinychat" else "model-bf16"
    header = read_header(shared / "models" / model / "gguf" / f"{name}.gguf")
    config = read(header).config
    original = json.loads((shared / "models" / model / "hf" / "config.json").read_text())
    expected = {key: value for key, value in original.items() if key not in BOOKKEEPING}
    # A mistral without a window is a llama without biases.
    no_words_for = {"attention_bias": False, "mlp_bias": False, "sliding_window": None}
    assert no_words_for | config == no_words_for | expected


def test_sizes_from_the_header_alone(shared: Path) -> None:
    header = read_header(shared / "models" / "llama3rope" / "gguf" / "model-q4_k_m.gguf")
    layout = read(header)
    assert layout.parameter_count == header.parameter_count - 32  # rope_freqs is no weight
    assert layout.kv_bytes_per_token() == 2 * 2 * 2 * 64 * 2
    assert layout.kv_bytes_per_token(cache_bytes=1) == layout.kv_bytes_per_token() // 2


def test_layout_follows_the_layers(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path)
    names = [tensor.target for tensor in read(header).tensors]
    assert names[0] == "model.embed_tokens.weight"
    assert names[1:3] == ["model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"]
    assert names[-2:] == ["model.norm.weight", "lm_head.weight"]
    assert len(names) == len(SHAPES)


def test_optional_parts(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path, tensors={"output.weight": None, **BIASES})
    layout = read(header)
    assert layout.config["tie_word_embeddings"] is True
    assert layout.config["attention_bias"] is True
    assert layout.config["mlp_bias"] is False
    by_name = {tensor.target: tensor for tensor in layout.tensors}
    assert "lm_head.weight" not in by_name
    assert by_name["model.layers.1.self_attn.k_proj.bias"].pieces[0].rows != range(KV_HEADS * HEAD_DIM)
    assert by_name["model.layers.1.self_attn.v_proj.bias"].pieces[0].contiguous


def test_unpermute_undoes_what_llama_cpp_does() -> None:
    heads, head_dim = 3, 8
    original = np.arange(heads * head_dim)
    in_gguf = original.reshape(heads, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)
    order = unpermuted(len(original), len(original) // heads)
    np.testing.assert_array_equal(in_gguf[order], original)


WRONG_TENSORS: dict[str, tuple[dict[str, tuple[int, ...] | None], str]] = {
    "missing": ({"blk.1.ffn_up.weight": None}, r"tensor 'blk\.1\.ffn_up\.weight' is missing"),
    "unknown": ({"blk.0.attn_q_norm.weight": (8,)}, r"tensor 'blk\.0\.attn_q_norm\.weight' is not known"),
    "unknown layer": ({"blk.2.attn_norm.weight": (HIDDEN,)}, r"'blk\.2\.attn_norm\.weight' is not known"),
    "several unknown": (
        {f"odd.{i}": (4,) for i in range(5)},
        r"tensors 'odd\.0', 'odd\.1', 'odd\.2' and 2 more are not known",
    ),
    "shape": ({"blk.0.attn_k.weight": (HIDDEN, 24)}, r"'blk\.0\.attn_k\.weight' has shape \(24, 32\).* \(16, 32\)"),
    "transposed": ({"blk.0.ffn_down.weight": (HIDDEN, 64)}, r"'blk\.0\.ffn_down\.weight' has shape"),
    "half the biases": ({"blk.0.attn_q.bias": (HIDDEN,)}, r"'blk\.0\.attn_k\.bias' is missing, though others"),
    "long rope": ({"rope_factors_long.weight": (4,)}, r"'rope_factors_long\.weight' is not known"),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_wrong_tensors_are_named(tmp_path: Path, name: str) -> None:
    tensors, message = WRONG_TENSORS[name]
    header = tiny_llama(tmp_path, tensors=tensors)
    with pytest.raises(GGUFError, match=message):
        read(header)


WRONG_METADATA: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "missing": ({"llama.feed_forward_length": None}, GGUFError, "'llama.feed_forward_length' is missing"),
    "text": ({"llama.block_count": "two"}, GGUFError, "'llama.block_count' is 'two', not a number"),
    "too many layers": ({"llama.block_count": 1 << 31}, GGUFError, "layers announced"),
    "NaN": ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, GGUFError, "is nan"),
    "no heads": ({"llama.attention.head_count": 0}, Refused, "heads of 0 values"),
    "per layer": ({"llama.attention.head_count_kv": [2, 1]}, Refused, "differs between layers"),
    "experts": ({"llama.expert_count": 8, "llama.expert_used_count": 2}, GGUFError, "ffn_gate_inp.* is missing"),
    "value length": ({"llama.attention.value_length": 16}, Refused, "one size"),
    "partial rotary": ({"llama.rope.dimension_count": 4}, Refused, "4 of 8 values per head are rotated"),
    "unknown scaling": ({"llama.rope.scaling.type": "longrope"}, Refused, "rope scaling 'longrope'"),
    "other architecture": ({"general.architecture": "grok"}, Refused, "architecture 'grok' is not supported"),
    "split": ({"split.count": 2}, Refused, "one of 2 parts"),
    "adapter": ({"general.type": "adapter"}, Refused, "of type 'adapter'"),
}


@pytest.mark.parametrize("name", WRONG_METADATA)
def test_wrong_metadata_is_named(tmp_path: Path, name: str) -> None:
    metadata, error, message = WRONG_METADATA[name]
    header = tiny_llama(tmp_path, metadata)
    with pytest.raises(error, match=message):
        read(header)


def test_the_same_value_for_each_layer_is_one_value(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path, {"llama.attention.head_count_kv": [KV_HEADS] * LAYERS})
    assert read(header).config["num_key_value_heads"] == KV_HEADS


def test_unknown_metadata_is_reported(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path, {"llama.mystery": 7})
    findings = read(header).findings
    assert [(f.item, f.status) for f in findings] == [("llama.mystery", Status.DROPPED)]


def test_a_sliding_window_makes_a_mistral(tmp_path: Path) -> None:
    header = tiny_llama(tmp_path, {"llama.attention.sliding_window": 128})
    layout = read(header)
    assert (layout.architecture.model_type, layout.config["sliding_window"]) == ("mistral", 128)
    assert layout.architecture.class_name == "MistralForCausalLM"
    assert [f.status for f in layout.findings] == [Status.APPROXIMATE]


def test_by_model_type() -> None:
    assert for_model_type("llama").class_name == "LlamaForCausalLM"
    with pytest.raises(Refused, match=r"model_type 'os' is not supported \(supported: .*llama, .*mistral, mixtral, "):
        for_model_type("os")


def test_head_dim_is_its_own_key(tmp_path: Path) -> None:
    wide = {
        f"blk.{i}.{name}.weight": shape
        for i in range(LAYERS)
        for name, shape in (
            ("attn_q", (HIDDEN, 64)),
            ("attn_k", (HIDDEN, 32)),
            ("attn_v", (HIDDEN, 32)),
            ("attn_output", (64, HIDDEN)),
        )
    }
    header = tiny_llama(tmp_path, {"llama.attention.key_length": 16, "llama.attention.value_length": 16}, wide)
    assert read(header).config["head_dim"] == 16 != HEAD_DIM


@pytest.mark.parametrize("decimal", [1e-5, 1e-6, 0.1, 10000.0, 500000.0, 1000000.0, 0.0, 8.0, 1.25, 3.3e-7])
def test_floats_come_back_as_their_author_wrote_them(decimal: float) -> None:
    assert shortest_float(float(np.float32(decimal))) == decimal
