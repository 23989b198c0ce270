"""generation_config.json: the only sampling defaults that vLLM takes from a model directory.

Honoured keys (vllm/config/model.py, get_diff_sampling_param): temperature, top_k, top_p, min_p, repetition_penalty,
presence_penalty, frequency_penalty, max_new_tokens; and `eos_token_id`, whose ids all stop a generation. Stop
strings and seeds are ignored there. `max_new_tokens` in the model's own file is a default; passed through
`--override-generation-config` it would become a cap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Server-side sampling defaults. `top_k` 0 means off; `max_new_tokens` None means the rest of the context."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    max_new_tokens: int | None
    eos_token_id: Sequence[int]
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The file's content, in a fixed order, without the keys that are unset."""
        pairs: dict[str, Any] = {
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if len(self.eos_token_id) != 1 else self.eos_token_id[0],
            "pad_token_id": self.pad_token_id,
            "do_sample": self.temperature > 0,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "max_new_tokens": self.max_new_tokens,
        }
        return {k: v for k, v in pairs.items() if v is not None and v != []}
