"""config.json for planning: read within bounds, merged with its text part, and every number checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from migrate.errors import BadInput, NotFound

MAX_BYTES = 16 << 20
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
    "hidden_size": ("n_embd", "d_model"),
    "intermediate_size": ("n_inner", "ffn_hidden_size", "ffn_dim"),
    "max_position_embeddings": ("n_positions", "max_sequence_length", "seq_length"),
}
_LIMITS: Mapping[str, int] = {
    "num_hidden_layers": 1024,
    "num_attention_heads": 1 << 14,
    "num_key_value_heads": 1 << 14,
    "num_global_key_value_heads": 1 << 14,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "vocab_size": 1 << 24,
    "head_dim": 1 << 16,
    "global_head_dim": 1 << 16,
    "max_position_embeddings": 1 << 30,
    "sliding_window": 1 << 30,
    "num_experts": 1 << 14,
    "num_local_experts": 1 << 14,
    "n_routed_experts": 1 << 14,
    "num_experts_per_tok": 1 << 14,
    "top_k_experts": 1 << 14,
    "moe_intermediate_size": 1 << 24,
    "shared_expert_intermediate_size": 1 << 24,
    "shared_intermediate_size": 1 << 24,
    "n_shared_experts": 1 << 14,
    "first_k_dense_replace": 1024,
    "q_lora_rank": 1 << 24,
    "kv_lora_rank": 1 << 24,
    "qk_nope_head_dim": 1 << 16,
    "qk_rope_head_dim": 1 << 16,
    "v_head_dim": 1 << 16,
}
"""Far above any model; what is larger is a mistake, and would cost time and memory here."""
_MAY_BE_ZERO = frozenset(
    {"sliding_window", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "top_k_experts"}
    | {"shared_expert_intermediate_size", "shared_intermediate_size", "n_shared_experts", "first_k_dense_replace"}
    | {"q_lora_rank"}
)
_CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma3": {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
    }
}
"""Published configs of the larger Gemma 3 name only what differs from these (transformers, Gemma3TextConfig)."""
_DTYPES = frozenset({"bfloat16", "float16", "float32", "half", "float"})


class Config:
    """The keys of a config.json. `name` is how errors call it."""

    def __init__(self, values: Mapping[str, Any], name: str = "config.json") -> None:
        """Raises BadInput when it is no object, or a size in it is absurd."""
        if not isinstance(values, Mapping):
            raise BadInput(f"{name}: not an object")
        self.name = name
        inner = values.get("text_config")
        merged: dict[str, Any] = dict(values)
        if isinstance(inner, Mapping):
            merged |= {key: value for key, value in inner.items() if value is not None or key not in merged}
        for key, others in _ALIASES.items():
            if merged.get(key) is None:
                found = next((merged[other] for other in others if merged.get(other) is not None), None)
                if found is not None:
                    merged[key] = found
        if isinstance(inner, Mapping):
            kind = str(merged.get("model_type")).removesuffix("_text")
            for key, value in _CLASS_DEFAULTS.get(kind, {}).items():
                if merged.get(key) is None:
                    merged[key] = value
        self.values: Mapping[str, Any] = merged | _of_full_layers(merged)
        for key in _LIMITS:
            if self.has(key):
                self.integer(key)

    @property
    def model_type(self) -> str:
        """As the table of architectures has it: without the suffix of a text part."""
        value = self.values.get("model_type")
        if not isinstance(value, str) or not value:
            raise BadInput(
                f"{self.name}: it has no model_type", hint="is this the config.json of a Hugging Face model?"
            )
        return value.removesuffix("_text")

    @property
    def dtype(self) -> str:
        """Of the weights: torch_dtype, or dtype in newer files; bfloat16 when neither is there. Raises BadInput."""
        value = self.values.get("dtype") or self.values.get("torch_dtype") or "bfloat16"
        name = str(value).removeprefix("torch.")
        if name not in _DTYPES:
            raise BadInput(f"{self.name}: dtype is {_short(value)}: not known here", hint="pass --dtype")
        return name

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 (or 0, for a window) to its limit. Raises BadInput, which names the key."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                raise BadInput(f"{self.name}: {key} is missing", hint="pass the model's whole config.json")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{self.name}: {key} is {_short(value)}, not a whole number")
        low = 0 if key in _MAY_BE_ZERO else 1
        high = _LIMITS.get(key, 1 << 24)
        if not low <= value <= high:
            raise BadInput(f"{self.name}: {key} is {_short(value)}, which is not from {low:,} to {high:,}")
        return value

    def count(self, key: str) -> int:
        """A whole number that may be absent or zero."""
        value = self.values.get(key)
        if value in (None, 0):
            return 0
        return self.integer(key)

    def words(self, key: str, length: int) -> list[str] | None:
        """A list of words, one per layer; None when it is absent. Raises BadInput."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(w, str) for w in value):
            raise BadInput(f"{self.name}: {key} is {_short(value)}, not a list of words")
        if len(value) < length:
            raise BadInput(f"{self.name}: {key} has {len(value)} entries for {length} layers")
        return list(value[:length])

    @property
    def layers(self) -> int:
        return self.integer("num_hidden_layers")

    @property
    def heads(self) -> int:
        return self.integer("num_attention_heads")

    @property
    def kv_heads(self) -> int:
        return self.integer("num_key_value_heads", self.heads)

    @property
    def head_dim(self) -> int:
        """`head_dim`, else width / heads. Raises BadInput when that is no whole number."""
        if self.has("head_dim"):
            return self.integer("head_dim")
        size, rest = divmod(self.integer("hidden_size"), self.heads)
        if rest or not size:
            raise BadInput(f"{self.name}: hidden_size is no multiple of num_attention_heads, and there is no head_dim")
        return size


def _of_full_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 4 saved by transformers 5: sizes of the full layers are in `per_layer_config`, by the layer's number."""
    layers = values.get("per_layer_config")
    if values.get("global_head_dim") is not None or not isinstance(layers, Mapping) or not layers:
        return {}
    own = next(iter(layers.values()))
    if not isinstance(own, Mapping):
        return {}
    names = {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}
    return {names[key]: value for key, value in own.items() if key in names and value is not None}


def read(path: Path) -> Config:
    """A config.json, or the one in a directory. Raises NotFound and BadInput."""
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="pass the config.json of a Hugging Face model")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB: not a model's config.json")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise BadInput(f"{path}: not JSON") from None
    return Config(values, str(path))


def _short(value: Any) -> str:
    """A value for an error, however long it is."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**12:
        return "an absurd number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
