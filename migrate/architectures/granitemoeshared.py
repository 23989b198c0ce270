"""Granite MoE with a shared expert beside the routed ones; llama.cpp keeps architecture "granitemoe" for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from migrate.architectures import granitemoe
from migrate.architectures.base import Config, Source
from migrate.architectures.common import LAYER
from migrate.architectures.tensors import Fuse, Tensor

SHARED_SIZE = "expert_shared_feed_forward_length"
_WIDE = ("shared", "hidden")
SHARED_EXPERT = (
    Tensor(
        (("blk.{i}.ffn_gate_shexp.weight", _WIDE), ("blk.{i}.ffn_up_shexp.weight", _WIDE)),
        f"{LAYER}.shared_mlp.input_linear.weight",
        transform=Fuse(),
    ),
    Tensor("blk.{i}.ffn_down_shexp.weight", f"{LAYER}.shared_mlp.output_linear.weight", ("hidden", "shared")),
)


def config(source: Source) -> Config:
    return granitemoe.config(source) | {"shared_intermediate_size": source.integer(SHARED_SIZE)}


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    return granitemoe.sizes(config) | {"shared": config["shared_intermediate_size"]}


ARCHITECTURE = replace(
    granitemoe.ARCHITECTURE,
    model_type="granitemoeshared",
    class_name="GraniteMoeSharedForCausalLM",
    tensors=(*granitemoe.TENSORS[:-2], *SHARED_EXPERT, *granitemoe.TENSORS[-2:]),
    config=config,
    dimensions=sizes,
    matches=lambda header: bool(header.field(SHARED_SIZE)),
)
