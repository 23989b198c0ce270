"""Configs of published models, as their config.json has them (what computes)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from migrate.plan import weights
from migrate.plan.advise import Model
from migrate.plan.config import Config
from migrate.plan.layers import layer_caches

FIXTURES = Path(__file__).parent.parent.parent / "fixtures" / "architectures"

LLAMA_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 131072,
    "max_window_layers": 28,
}
MISTRAL_7B_V01: dict[str, Any] = {
    **{key: LLAMA_8B[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
    "model_type": "mistral",
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}
GEMMA2_9B: dict[str, Any] = {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "torch_dtype": "bfloat16",
}
DEEPSEEK_V2_LITE: dict[str, Any] = {
    "model_type": "deepseek_v2",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "vocab_size": 102400,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def model(values: dict[str, Any], way: str = "dense") -> Model:
    """A model of a bare config."""
    return _model(json.dumps(values), way)


@cache
def _model(values: str, way: str) -> Model:
    config = Config(json.loads(values))
    found = weights.weigh(weights.from_config(config), config, way, exact=False, origin="config")
    return Model("model", config, layer_caches(config), found)


def fixtures() -> list[str]:
    """Names of the tiny families that have their original's tensors."""
    return sorted(path.parent.name for path in FIXTURES.glob("*/tensors.json"))


def tensors(name: str) -> dict[str, tuple[str, list[int]]]:
    """name -> (dtype, shape) of a tiny family's original."""
    found: dict[str, tuple[str, list[int]]] = json.loads((FIXTURES / name / "tensors.json").read_text())
    return found
