"""Gemma 1, Qwen2 MoE, StarCoder2, StableLM, Cohere, OLMo, Granite MoE, Qwen3-Next: what the fixtures do not show.

Keys that old files lack, settings no class has words for, kinds of layers, sizes of the cache. Weights are zeros; that
they come back bit for bit is tested with the fixtures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from migrate.architectures import read
from migrate.architectures.base import ModelLayout
from migrate.errors import GGUFError, MigrateError, Refused
from migrate.findings import Status
from migrate.gguf.header import read_header
from tests.gguf.build import TensorSpec, build

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, VOCAB, LAYERS = 32, 4, 2, 8, 48, 40, 4
EXPERTS, EXPERT_SIZE, SHARED_SIZE = 3, 16, 24
Shapes = dict[str, tuple[int, ...] | None]
"""Torch's shapes; names without number stand for every layer."""

RMS, LAYER_NORM = "attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"
QKV: Shapes = {
    "blk.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "blk.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "blk.attn_output.weight": (HIDDEN, HIDDEN),
}
QKV_BIASES: Shapes = {
    "blk.attn_q.bias": (HIDDEN,),
    "blk.attn_k.bias": (KV_HEADS * HEAD_DIM,),
    "blk.attn_v.bias": (KV_HEADS * HEAD_DIM,),
}
MLP: Shapes = {
    "blk.ffn_gate.weight": (INTERMEDIATE, HIDDEN),
    "blk.ffn_up.weight": (INTERMEDIATE, HIDDEN),
    "blk.ffn_down.weight": (HIDDEN, INTERMEDIATE),
}
QK_NORMS_BY_HEAD: Shapes = {
    "blk.attn_q_norm.weight": (HEADS, HEAD_DIM),
    "blk.attn_k_norm.weight": (KV_HEADS, HEAD_DIM),
}
EMBEDDING: Shapes = {"token_embd.weight": (VOCAB, HIDDEN)}
OUTPUT: Shapes = {"output.weight": (VOCAB, HIDDEN)}


def vectors(*names: str) -> Shapes:
    return dict.fromkeys(names, (HIDDEN,))


def without(*names: str) -> Shapes:
    return dict.fromkeys(names)


def expert_shapes(size: int) -> Shapes:
    return {
        "blk.ffn_gate_inp.weight": (EXPERTS, HIDDEN),
        "blk.ffn_gate_exps.weight": (EXPERTS, size, HIDDEN),
        "blk.ffn_up_exps.weight": (EXPERTS, size, HIDDEN),
        "blk.ffn_down_exps.weight": (EXPERTS, HIDDEN, size),
    }


SHARED: Shapes = {
    "blk.ffn_gate_shexp.weight": (SHARED_SIZE, HIDDEN),
    "blk.ffn_up_shexp.weight": (SHARED_SIZE, HIDDEN),
    "blk.ffn_down_shexp.weight": (HIDDEN, SHARED_SIZE),
}
WEIGHTED_NORMS = vectors("blk.attn_norm.weight", "blk.ffn_norm.weight", "output_norm.weight")
BIASED_NORMS = WEIGHTED_NORMS | vectors("blk.attn_norm.bias", "blk.ffn_norm.bias", "output_norm.bias")
ONE_NORM = vectors("blk.attn_norm.weight", "output_norm.weight")
KEY_HEADS, VALUE_HEADS, LINEAR_DIM, KERNEL = 2, 4, 8, 4
KEYS, VALUES = KEY_HEADS * LINEAR_DIM, VALUE_HEADS * LINEAR_DIM
NUMBERED = {
    # Layer 3 of 0 to 3 has full attention.
    **{f"blk.{i}.{name}": shape for i in range(3) for name, shape in {
        "attn_qkv.weight": (2 * KEYS + VALUES, HIDDEN),
        "attn_gate.weight": (VALUES, HIDDEN),
        "ssm_conv1d.weight": (2 * KEYS + VALUES, KERNEL),
        "ssm_dt.bias": (VALUE_HEADS,),
        "ssm_a": (VALUE_HEADS,),
        "ssm_ba.weight": (2 * VALUE_HEADS, HIDDEN),
        "ssm_norm.weight": (LINEAR_DIM,),
        "ssm_out.weight": (HIDDEN, VALUES),
    }.items()},
    "blk.3.attn_q.weight": (2 * HIDDEN, HIDDEN),
    "blk.3.attn_k.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "blk.3.attn_v.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
    "blk.3.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.3.attn_q_norm.weight": (HEAD_DIM,),
    "blk.3.attn_k_norm.weight": (HEAD_DIM,),
}  # fmt: skip

HEAD_KEYS = {"attention.key_length": HEAD_DIM, "attention.value_length": HEAD_DIM}
WIDTH_KEYS = {"expert_feed_forward_length": EXPERT_SIZE, "expert_shared_feed_forward_length": SHARED_SIZE}
MOE_KEYS = {"expert_count": EXPERTS, "expert_used_count": 2}
FAMILIES: dict[str, tuple[dict[str, Any], Shapes]] = {
    # general.architecture: keys beyond the sizes every file has, tensors
    "gemma": ({RMS: 1e-6, **HEAD_KEYS}, EMBEDDING | QKV | MLP | WEIGHTED_NORMS),
    "qwen2moe": (
        {RMS: 1e-6, **MOE_KEYS, **WIDTH_KEYS},
        EMBEDDING | QKV | QKV_BIASES | WEIGHTED_NORMS | expert_shapes(EXPERT_SIZE) | SHARED | OUTPUT
        | {"blk.ffn_gate_inp_shexp.weight": (1, HIDDEN)},
    ),
    "starcoder2": (
        {LAYER_NORM: 1e-5},
        EMBEDDING | QKV | QKV_BIASES | BIASED_NORMS | vectors("blk.attn_output.bias", "blk.ffn_down.bias")
        | {name: MLP[name] for name in ("blk.ffn_up.weight", "blk.ffn_down.weight")}
        | {"blk.ffn_up.bias": (INTERMEDIATE,)},
    ),
    "stablelm": (
        {LAYER_NORM: 1e-5, "rope.dimension_count": 2, "use_parallel_residual": True},
        EMBEDDING | QKV | MLP | BIASED_NORMS | OUTPUT,
    ),
    "command-r": ({LAYER_NORM: 1e-5, "logit_scale": 0.0625}, EMBEDDING | QKV | MLP | ONE_NORM),
    "cohere2": (
        {LAYER_NORM: 1e-5, "logit_scale": 0.25, "attention.sliding_window": 16, "rope.dimension_count": HEAD_DIM},
        EMBEDDING | QKV | MLP | ONE_NORM,
    ),
    "olmo": ({LAYER_NORM: 1e-5}, EMBEDDING | QKV | MLP | OUTPUT),
    "olmo2": (
        {RMS: 1e-6, "rope.freq_base": 500000.0},
        EMBEDDING | QKV | MLP | OUTPUT | vectors("output_norm.weight", "blk.attn_q_norm.weight")
        | vectors("blk.post_attention_norm.weight", "blk.post_ffw_norm.weight")
        | {"blk.attn_k_norm.weight": (KV_HEADS * HEAD_DIM,)},
    ),
    "granitemoe": (
        {RMS: 1e-6, "logit_scale": 6.0, **MOE_KEYS},
        EMBEDDING | QKV | WEIGHTED_NORMS | expert_shapes(INTERMEDIATE),
    ),
    "qwen3next": (
        {
            RMS: 1e-6,
            **MOE_KEYS,
            **WIDTH_KEYS,
            **HEAD_KEYS,
            "rope.dimension_count": 2,
            "ssm.conv_kernel": KERNEL,
            "ssm.state_size": LINEAR_DIM,
            "ssm.group_count": KEY_HEADS,
            "ssm.time_step_rank": VALUE_HEADS,
            "ssm.inner_size": VALUES,
        },
        EMBEDDING | OUTPUT | NUMBERED | SHARED | expert_shapes(EXPERT_SIZE)
        | vectors("blk.attn_norm.weight", "blk.post_attention_norm.weight", "output_norm.weight")
        | {"blk.ffn_gate_inp_shexp.weight": (1, HIDDEN)},
    ),
}  # fmt: skip


def tiny(
    directory: Path, family: str, keys: Mapping[str, Any] | None = None, tensors: Shapes | None = None, name: str = ""
) -> ModelLayout:
    """Write a model of a family and read it. `keys` and `tensors` add and replace; None takes away."""
    family_keys, family_tensors = FAMILIES[family]
    name = name or family
    own = {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": HIDDEN,
        "feed_forward_length": INTERMEDIATE,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        **family_keys,
        **(keys or {}),
    }
    metadata = {"general.architecture": name} | {f"{name}.{k}": v for k, v in own.items() if v is not None}
    shapes = {k: v for k, v in (family_tensors | (tensors or {})).items() if v is not None}
    layers = own["block_count"]
    specs = [TensorSpec(full, shape[::-1]) for stem, shape in shapes.items() for full in _numbered(stem, layers)]
    path = directory / "tiny.gguf"
    path.write_bytes(build(metadata, specs))
    return read(read_header(path))


def _numbered(name: str, layers: int) -> list[str]:
    if name.startswith("blk.") and not name[4].isdecimal():
        return [f"blk.{i}.{name.removeprefix('blk.')}" for i in range(layers)]
    return [name]


def dropped(layout: ModelLayout) -> list[str]:
    return [finding.item for finding in layout.findings if finding.status is Status.DROPPED]


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_read(tmp_path: Path, family: str) -> None:
    layout = tiny(tmp_path, family)
    assert dropped(layout) == []
    assert layout.parameter_count == layout.header.parameter_count
    assert layout.config["max_position_embeddings"] == 512
    assert family in layout.architecture.gguf_names


Expected = dict[str, Any]
DEFAULTS: dict[str, tuple[str, dict[str, Any], Shapes, Expected]] = {
    # what llama.cpp's loader takes when a key is absent
    "gemma's only frequency": ("gemma", {}, {}, {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "no kv heads, so all": (
        "stablelm",
        {"attention.head_count_kv": None},
        {"blk.attn_k.weight": (HIDDEN, HIDDEN), "blk.attn_v.weight": (HIDDEN, HIDDEN)},
        {"num_key_value_heads": HEADS},
    ),
    "experts share the width of old files": (
        "qwen2moe",
        {"expert_feed_forward_length": None, "expert_shared_feed_forward_length": None},
        expert_shapes(INTERMEDIATE // 2)
        | {name: MLP[name.replace("_shexp", "")] for name in SHARED}
        | {"blk.ffn_gate_inp_shexp.weight": (HIDDEN,)},
        {"moe_intermediate_size": INTERMEDIATE // 2, "shared_expert_intermediate_size": INTERMEDIATE},
    ),
    "an absent scale is one": ("command-r", {"logit_scale": None}, {}, {"logit_scale": 1.0}),
    "no clipping": ("olmo", {"attention.clamp_kqv": 0.0}, {}, {"clip_qkv": None}),
    "clipping": ("olmo", {"attention.clamp_kqv": 8.0}, {}, {"clip_qkv": 8.0}),
    "multipliers of granite": (
        "granitemoe",
        {},
        {},
        {
            "attention_multiplier": 0.35355339,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 6.0,
        },
    ),
    "whole heads are rotated": (
        "stablelm",
        {"rope.dimension_count": None},
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}},
    ),
    "biases of q, k and v": ("stablelm", {}, QKV_BIASES, {"use_qkv_bias": True}),
    "an own output matrix": ("starcoder2", {}, OUTPUT, {"tie_word_embeddings": False}),
    "heads of a size of their own": (
        "command-r",
        {"attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16},
        {
            "blk.attn_q.weight": (2 * HIDDEN, HIDDEN),
            "blk.attn_k.weight": (KV_HEADS * 16, HIDDEN),
            "blk.attn_v.weight": (KV_HEADS * 16, HIDDEN),
            "blk.attn_output.weight": (HIDDEN, 2 * HIDDEN),
        },
        {"head_dim": 16, "num_attention_heads": HEADS},
    ),
    "Command R+": (
        "command-r",
        {},
        QK_NORMS_BY_HEAD,
        {"use_qk_norm": True, "tie_word_embeddings": True},
    ),
}


@pytest.mark.parametrize(("family", "keys", "tensors", "expected"), DEFAULTS.values(), ids=list(DEFAULTS))
def test_config(tmp_path: Path, family: str, keys: dict[str, Any], tensors: Shapes, expected: Expected) -> None:
    config = tiny(tmp_path, family, keys, tensors).config
    assert {key: config[key] for key in expected} == expected


def test_shared_gate_is_one_row_also_when_the_file_has_a_vector(tmp_path: Path) -> None:
    layout = tiny(tmp_path, "qwen2moe", {}, {"blk.ffn_gate_inp_shexp.weight": (HIDDEN,)})
    by_name = {tensor.target: tensor.shape for tensor in layout.tensors}
    assert by_name["model.layers.2.mlp.shared_expert_gate.weight"] == (1, HIDDEN)


WRONG: dict[str, tuple[str, dict[str, Any], Shapes, type[MigrateError], str]] = {
    "StableLM 2 12B": ("stablelm", {}, QK_NORMS_BY_HEAD, Refused, "norms on the heads of q and k"),
    "side by side": ("stablelm", {}, without("blk.ffn_norm.weight", "blk.ffn_norm.bias"), Refused, "side by side"),
    "odd rotation": ("stablelm", {"rope.dimension_count": 3}, {}, Refused, "3 of 8 values per head are rotated"),
    "rotated beyond the head": ("stablelm", {"rope.dimension_count": 10}, {}, Refused, "10 of 8 values"),
    "partly rotated": ("cohere2", {"rope.dimension_count": 4}, {}, Refused, "4 of 8 values per head are rotated"),
    "no window": ("cohere2", {"attention.sliding_window": None}, {}, GGUFError, "sliding_window' is missing"),
    "short pattern": ("cohere2", {"attention.sliding_window_pattern": [1, 0]}, {}, GGUFError, "2 values for 4 layers"),
    "pattern of words": ("cohere2", {"attention.sliding_window_pattern": "1"}, {}, GGUFError, "not a list of truth"),
    "layers of words": ("qwen3next", {"attention.recurrent_layers": "1"}, {}, GGUFError, "not a list of truth"),
    "tied family with an output": ("command-r", {}, OUTPUT, GGUFError, "'output.weight' is not known"),
    "biases nobody has": ("command-r", {}, QKV_BIASES, GGUFError, "attn_q.bias'.* not known"),
    "another epsilon": ("olmo", {LAYER_NORM: 1e-6}, {}, Refused, "epsilon of 1e-06; the class has 1e-05"),
    "head size of its own": ("olmo2", dict.fromkeys(HEAD_KEYS, 16), {}, Refused, "the class has no head_dim"),
    "no rotation": ("granitemoe", {"rope.scaling.finetuned": False}, {}, Refused, "not rotated at all"),
    "half of a pair": (
        "granitemoe",
        {},
        without("blk.ffn_up_exps.weight"),
        GGUFError,
        "ffn_up_exps.weight' is missing",
    ),
    "missing bias": ("starcoder2", {}, without("blk.ffn_up.bias"), GGUFError, r"ffn_up\.bias' is missing"),
    "qwen2moe without biases": ("qwen2moe", {}, without(*QKV_BIASES), GGUFError, r"attn_q\.bias' is missing"),
    "unequal heads": ("qwen3next", {"ssm.group_count": 3}, {}, Refused, "4 value heads for 3 key heads"),
    "no heads": ("qwen3next", {"ssm.group_count": 0}, {}, Refused, "4 value heads for 0 key heads"),
    "only full attention": (
        "qwen3next",
        {"full_attention_interval": 1},
        without(*(name for name in NUMBERED if "blk.3" not in name)),
        Refused,
        "no layers of linear attention",
    ),
}


@pytest.mark.parametrize(("family", "keys", "tensors", "error", "message"), WRONG.values(), ids=list(WRONG))
def test_refused(
    tmp_path: Path, family: str, keys: dict[str, Any], tensors: Shapes, error: type[MigrateError], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny(tmp_path, family, keys, tensors)


PER_LAYER = 2 * KV_HEADS * HEAD_DIM * 2
"""Bytes a token takes in one layer that sees everything."""
WINDOWS = {
    # keys: layers that see everything
    "three of four": ({}, [3]),
    "period": ({"attention.sliding_window_pattern": 2}, [1, 3]),
    "period of none": ({"attention.sliding_window_pattern": 0}, []),
    "list": ({"attention.sliding_window_pattern": [1, 1, 1, 0]}, [3]),
    "other list": ({"attention.sliding_window_pattern": [0, 1, 1, 1]}, [0]),
}


@pytest.mark.parametrize(("keys", "full"), WINDOWS.values(), ids=list(WINDOWS))
@pytest.mark.parametrize("family", ["cohere2", "olmo2"])
def test_windows(tmp_path: Path, family: str, keys: dict[str, Any], full: list[int]) -> None:
    layout = tiny(tmp_path, family, {"attention.sliding_window": 16, **keys})
    types = layout.config["layer_types"]
    assert [i for i, kind in enumerate(types) if kind == "full_attention"] == full
    assert layout.config["sliding_window"] == 16
    assert layout.kv_bytes_per_token() == len(full) * PER_LAYER
    told = [f.item for f in layout.findings if f.status is Status.APPROXIMATE]
    assert told == (["attention.sliding_window_pattern"] if full == [0] else [])


def test_all_layers_count_without_a_window(tmp_path: Path) -> None:
    layout = tiny(tmp_path, "olmo2")
    assert layout.architecture.model_type == "olmo2"
    assert layout.kv_bytes_per_token() == LAYERS * PER_LAYER
    assert layout.kv_bytes_per_token(1) == LAYERS * PER_LAYER // 2


YARN = {
    "attention.sliding_window": 16,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 8.0,
    "rope.scaling.original_context_length": 64,
}
USUAL = 1.2079442
"""1 + 0.1 ln 8, as a float32."""
FACTORS: dict[str, tuple[str, dict[str, Any], float, bool]] = {
    "llama.cpp's converter": ("olmo2", {"rope.scaling.yarn_attn_factor": USUAL}, USUAL, True),
    "Ollama's converter": ("olmo3", {"rope.scaling.attn_factor": USUAL}, USUAL, False),
    "none named": ("olmo2", {}, USUAL, True),
    "an own one": ("olmo2", {"rope.scaling.yarn_attn_factor": 1.5}, 1.5, False),
}


@pytest.mark.parametrize(("name", "keys", "factor", "same"), FACTORS.values(), ids=list(FACTORS))
def test_attention_factor_of_olmo3(tmp_path: Path, name: str, keys: dict[str, Any], factor: float, same: bool) -> None:
    layout = tiny(tmp_path, "olmo2", YARN | keys, name=name)
    assert layout.architecture.model_type == "olmo3"
    rope = layout.config["rope_parameters"]
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 500000.0}
    assert rope["full_attention"].get("attention_factor", USUAL) == pytest.approx(factor)
    assert ("attention_factor" in rope["full_attention"]) == bool(keys), "a config that names it gets it back"
    assert rope["full_attention"]["original_max_position_embeddings"] == 64
    told = [f.item for f in layout.findings if f.status is Status.APPROXIMATE]
    assert told == ([] if same else list(keys))


def test_granite_with_a_shared_expert(tmp_path: Path) -> None:
    layout = tiny(tmp_path, "granitemoe", {"expert_shared_feed_forward_length": SHARED_SIZE}, SHARED)
    assert layout.architecture.model_type == "granitemoeshared"
    assert layout.config["shared_intermediate_size"] == SHARED_SIZE
    shapes = {tensor.target: tensor.shape for tensor in layout.tensors}
    assert shapes["model.layers.0.block_sparse_moe.input_linear.weight"] == (EXPERTS, 2 * INTERMEDIATE, HIDDEN)
    assert shapes["model.layers.0.shared_mlp.input_linear.weight"] == (2 * SHARED_SIZE, HIDDEN)


def test_kinds_of_layers_of_qwen3_next(tmp_path: Path) -> None:
    layout = tiny(tmp_path, "qwen3next")
    assert layout.config["layer_types"] == ["linear_attention"] * 3 + ["full_attention"]
    assert layout.kv_bytes_per_token() == PER_LAYER
    by_name = {tensor.target: tensor for tensor in layout.tensors}
    assert "model.layers.3.self_attn.q_proj.weight" in by_name
    assert "model.layers.3.linear_attn.out_proj.weight" not in by_name
    joint = by_name["model.layers.0.linear_attn.in_proj_qkvz.weight"]
    rows = [(piece.sources[0].name, piece.rows[0], len(piece.rows)) for piece in joint.pieces]
    per_head = VALUES // KEY_HEADS
    assert rows == [
        ("blk.0.attn_qkv.weight", 0, LINEAR_DIM),
        ("blk.0.attn_qkv.weight", KEYS, LINEAR_DIM),
        ("blk.0.attn_qkv.weight", 2 * KEYS, per_head),
        ("blk.0.attn_gate.weight", 0, per_head),
        ("blk.0.attn_qkv.weight", LINEAR_DIM, LINEAR_DIM),
        ("blk.0.attn_qkv.weight", KEYS + LINEAR_DIM, LINEAR_DIM),
        ("blk.0.attn_qkv.weight", 2 * KEYS + per_head, per_head),
        ("blk.0.attn_gate.weight", per_head, per_head),
    ]


def test_first_files_of_qwen3_next_have_the_joint_matrix(tmp_path: Path) -> None:
    separate = [name for name in NUMBERED if "attn_qkv" in name or "attn_gate" in name]
    joint: Shapes = {f"blk.{i}.ssm_in.weight": (2 * KEYS + 2 * VALUES, HIDDEN) for i in range(3)}
    layout = tiny(tmp_path, "qwen3next", {}, without(*separate) | joint)
    (tensor,) = (t for t in layout.tensors if t.target == "model.layers.1.linear_attn.in_proj_qkvz.weight")
    assert tensor.pieces[0].contiguous
    assert len(tensor.pieces) == 1


def test_prediction_layer_of_qwen3_next_is_left_out(tmp_path: Path) -> None:
    tensors = FAMILIES["qwen3next"][1]
    in_every_layer = [name for name in tensors if name.startswith("blk.") and not name[4].isdecimal()]
    numbered = {f"blk.{i}.{name[4:]}": tensors[name] for name in in_every_layer for i in range(LAYERS)}
    extra: Shapes = {"blk.4.nextn.eh_proj.weight": (HIDDEN, 2 * HIDDEN), "blk.4.attn_norm.weight": (HIDDEN,)}
    keys = {"block_count": LAYERS + 1, "nextn_predict_layers": 1}
    layout = tiny(tmp_path, "qwen3next", keys, without(*in_every_layer) | numbered | extra)
    assert layout.config["num_hidden_layers"] == LAYERS
    assert dropped(layout) == ["tensors left out"]
