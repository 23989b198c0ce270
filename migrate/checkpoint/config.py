"""`config.json`: what the architecture computes, plus token ids, dtype and the names transformers looks for."""

from __future__ import annotations

from typing import Any

from migrate.architectures.base import ModelLayout
from migrate.gguf.types import DType
from migrate.gguf.vocab import Vocabulary


def model_config(layout: ModelLayout, vocabulary: Vocabulary, dtype: DType) -> dict[str, Any]:
    """The whole `config.json`, keys sorted.

    `rope_parameters` is how transformers 5 writes rotary settings; `rope_theta`, `rope_scaling` and
    `partial_rotary_factor` repeat them for version 4, which knows nothing else.
    """
    config: dict[str, Any] = {
        **layout.config,
        "architectures": [layout.architecture.class_name],
        "model_type": layout.architecture.model_type,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": layout.config.get("pad_token_id") if vocabulary.pad is None else vocabulary.pad,
        "dtype": dtype.value,
        "torch_dtype": dtype.value,
        "use_cache": True,
    }
    config |= _legacy_rope(config.get("rope_parameters"))
    return dict(sorted(config.items()))


def _legacy_rope(parameters: dict[str, Any] | None) -> dict[str, Any]:
    if not parameters or "rope_theta" not in parameters:
        return {}
    legacy: dict[str, Any] = {"rope_theta": parameters["rope_theta"]}
    if parameters["rope_type"] != "default":
        legacy["rope_scaling"] = {key: value for key, value in parameters.items() if key != "rope_theta"}
    part = parameters.get("partial_rotary_factor", 1.0)
    return legacy if part == 1.0 else legacy | {"partial_rotary_factor": part}
