"""DeepSeek V3, R1 and what shares their class (Kimi K2, Moonlight): V2 with experts chosen by biased sigmoid scores."""

from __future__ import annotations

from dataclasses import replace

from migrate.architectures import deepseek_v2
from migrate.architectures.base import Config, Source
from migrate.architectures.common import MLP
from migrate.architectures.tensors import FLOAT32, Tensor

_BIAS = Tensor("blk.{i}.exp_probs_b.bias", f"{MLP}.gate.e_score_correction_bias", ("experts",), FLOAT32, kind="moe")
_AFTER = next(i for i, tensor in enumerate(deepseek_v2.TENSORS) if tensor.target.endswith("mlp.gate.weight")) + 1


def config(source: Source) -> Config:
    return deepseek_v2.decoder(source) | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "rope_interleave": True}


ARCHITECTURE = replace(
    deepseek_v2.ARCHITECTURE,
    model_type="deepseek_v3",
    class_name="DeepseekV3ForCausalLM",
    tensors=(*deepseek_v2.TENSORS[:_AFTER], _BIAS, *deepseek_v2.TENSORS[_AFTER:]),
    config=config,
    matches=deepseek_v2.is_v3,
)
