"""What each layer of a model keeps while it answers: keys and values per token, or a state per request.

Follows the classes of vLLM 0.32 (`model_executor/models`), which decide by `layer_types` and, where a config leaves
that to its class, by the class's own pattern in transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from migrate.errors import Refused
from migrate.plan.config import Config

DTYPE_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4, "fp8": 1}


class Kind(StrEnum):
    FULL = "full attention"
    SLIDING = "sliding window"
    LATENT = "latent attention (MLA)"
    STATE = "state of linear attention or convolution"


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer. `values` are numbers per token and head (keys and values together), `heads` the kv heads; of latent
    attention there is one head that no GPU shares out. A STATE has `state_bytes` per request and nothing per token.
    """

    kind: Kind
    heads: int = 0
    values: int = 0
    window: int = 0
    state_bytes: int = 0

    def token_bytes(self, item_bytes: int = 2, tensor_parallel: int = 1) -> int:
        """Bytes of one token on one GPU. Heads are shared out; when there are fewer than GPUs, each keeps one."""
        heads = self.heads if self.kind is Kind.LATENT else max(1, self.heads // tensor_parallel)
        return heads * self.values * item_bytes if self.heads else 0


MLA_TYPES = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "pangu_ultra_moe", "longcat_flash"})
"""Those of vLLM's list (`is_deepseek_mla`) that have nothing but latent attention and no index of their own."""
UNKNOWN_STATE = (
    *("mamba_d_state", "ssm_state_size", "mamba_num_heads", "state_size", "compress_ratios", "index_topk"),
    *("attn_layer_period", "hybrid_override_pattern", "kda_layers", "linear_attn_config"),
)
"""Keys of models that keep states or indexes which this module cannot size."""

_LAYER_KINDS: Mapping[str, Kind] = {
    "full_attention": Kind.FULL,
    "attention": Kind.FULL,
    "sliding_attention": Kind.SLIDING,
    "linear_attention": Kind.STATE,
    "conv": Kind.STATE,
}


def _every(period_key: str, default: int) -> Callable[[Config], list[str]]:
    """Each `period`-th layer sees everything, the others a window."""

    def pattern(config: Config) -> list[str]:
        period = config.count(period_key) or default
        return ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(config.layers)]

    return pattern


def _exaone(config: Config) -> list[str]:
    """The period is a number, or a pattern of letters: "LLLG"."""
    value = config.values.get("sliding_window_pattern", 4)
    if isinstance(value, str) and value and set(value) <= {"L", "G"}:
        letters = [value[i % len(value)] for i in range(config.layers)]
        return ["full_attention" if letter == "G" else "sliding_attention" for letter in letters]
    return _every("sliding_window_pattern", 4)(config)


def _linear(config: Config) -> list[str]:
    period = config.count("full_attention_interval") or 4
    return ["full_attention" if (i + 1) % period == 0 else "linear_attention" for i in range(config.layers)]


_PATTERNS: Mapping[str, Callable[[Config], list[str]]] = {
    "gemma2": _every("", 2),
    "gemma3": _every("sliding_window_pattern", 6),
    "gemma4": lambda config: [*_every("", 6)(config)[:-1], "full_attention"],
    "gpt_oss": _every("", 2),
    "cohere2": _every("sliding_window_pattern", 4),
    "olmo3": _every("", 4),
    "exaone4": lambda config: _exaone(config),
    "qwen3_next": _linear,
    "qwen3_5": _linear,
    "qwen3_5_moe": _linear,
}
"""Where the config may leave `layer_types` to the class."""
_ENCODERS = frozenset({"bert", "nomic_bert", "roberta", "xlm-roberta", "modernbert"})


def layer_caches(config: Config) -> tuple[LayerCache, ...]:
    """One entry per layer that keeps something; empty for an encoder.

    Raises:
        BadInput: a key is missing or absurd.
        Refused: the model keeps something whose size is not known here.
    """
    model_type = config.model_type
    if model_type in _ENCODERS:
        return ()
    if config.has("kv_lora_rank") and model_type in MLA_TYPES:
        values = config.integer("kv_lora_rank") + config.integer("qk_rope_head_dim")
        return (LayerCache(Kind.LATENT, 1, values),) * config.layers
    unknown = next((key for key in UNKNOWN_STATE if config.has(key)), None)
    if unknown is not None:
        raise Refused(
            f"{config.name}: model_type {model_type!r} has {unknown}; how much its layers keep is not known here",
            hint="start vLLM once with the model: its log says how many tokens the cache holds",
        )
    return tuple(cache for i, kind in enumerate(layer_kinds(config)) if (cache := _layer(config, i, kind)) is not None)


def growing_bytes_per_token(layers: tuple[LayerCache, ...], item_bytes: int = 2, tensor_parallel: int = 1) -> int:
    """Bytes that one more token takes at long context, on one GPU: layers with a window have stopped growing.

    Where every layer has a window, what a token takes until the window is full.
    """
    whole = [layer for layer in layers if layer.kind in (Kind.FULL, Kind.LATENT)]
    counted = whole or [layer for layer in layers if layer.kind is Kind.SLIDING]
    return sum(layer.token_bytes(item_bytes, tensor_parallel) for layer in counted)


def layer_kinds(config: Config) -> list[str]:
    count = config.layers
    kinds = config.words("layer_types", count)
    if kinds is None and (pattern := _PATTERNS.get(config.model_type)) is not None:
        kinds = pattern(config)
    if kinds is None:
        # One window for all layers: Mistral 7B v0.1, Phi-3. Qwen's classes leave the first `max_window_layers` whole.
        first = config.count("max_window_layers") if config.model_type.startswith("qwen") else 0
        kinds = ["full_attention"] * min(first, count) + ["sliding_attention"] * max(0, count - first)
    unknown = next((kind for kind in kinds if kind not in _LAYER_KINDS), None)
    if unknown is not None:
        raise Refused(f"{config.name}: layers of type {unknown!r} are not known here")
    if not config.values.get("use_sliding_window", not config.model_type.startswith(("qwen", "smollm3"))):
        window = 0
    else:
        window = config.count("sliding_window")
    if not window:
        kinds = ["full_attention" if kind == "sliding_attention" else kind for kind in kinds]
    return kinds


def _layer(config: Config, index: int, name: str) -> LayerCache | None:
    kind = _LAYER_KINDS[name]
    if kind is Kind.STATE:
        return LayerCache(kind, state_bytes=_conv_state(config) if name == "conv" else _delta_state(config))
    if config.model_type == "gemma4" and index >= config.layers - config.count("num_kv_shared_layers"):
        return None
    heads, size = config.kv_heads, config.head_dim
    if config.model_type == "gemma4" and kind is Kind.FULL:
        size = config.integer("global_head_dim", 512)
        if config.values.get("attention_k_eq_v"):
            heads = config.integer("num_global_key_value_heads", heads)
    window = config.integer("sliding_window") if kind is Kind.SLIDING else 0
    if window and config.model_type == "cohere2":
        window += 1  # its layers see the token `sliding_window` places back, too (models/commandr.py)
    return LayerCache(kind, heads, 2 * size, window)


def _delta_state(config: Config) -> int:
    """Gated delta rule: the last inputs of the convolution, and one matrix per value head (mamba_utils.py)."""
    keys, values = config.integer("linear_num_key_heads"), config.integer("linear_num_value_heads")
    key_dim, value_dim = config.integer("linear_key_head_dim"), config.integer("linear_value_head_dim")
    width = 2 * keys * key_dim + values * value_dim
    item = DTYPE_BYTES.get(config.dtype, 2)
    state_item = DTYPE_BYTES.get(str(config.values.get("mamba_ssm_dtype") or ""), item)
    return width * (config.integer("linear_conv_kernel_dim") - 1) * item + values * value_dim * key_dim * state_item


def _conv_state(config: Config) -> int:
    """Short convolution of LFM2: its last inputs."""
    width = config.count("conv_dim") or config.integer("hidden_size")
    return width * (config.integer("conv_L_cache") - 1) * DTYPE_BYTES.get(config.dtype, 2)
