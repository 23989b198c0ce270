"""Writing a checkpoint by a plan, as the conversion does, for tests of the plan's parts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.checkpoint.config import model_config
from migrate.checkpoint.repack import RepackPlan, Way, plan_repack
from migrate.checkpoint.tokenizer import write_tokenizer
from migrate.checkpoint.weights import output_tensors, write_weights
from migrate.checkpoint.writer import CheckpointWriter
from migrate.gguf.header import GGUFHeader
from migrate.gguf.types import DType
from migrate.gguf.vocab import read_vocabulary


@dataclass(frozen=True)
class Written:
    header: GGUFHeader
    layout: ModelLayout
    plan: RepackPlan
    config: dict[str, Any]


def write_packed(header: GGUFHeader, out_dir: Path, way: Way, dtype: DType | None = None) -> Written:
    layout = architectures.read(header)
    plan = plan_repack(layout, way=way, dtype=dtype)
    config = model_config(layout, read_vocabulary(layout.header), plan.dtype)
    if plan.quantization_config:
        config["quantization_config"] = plan.quantization_config
    write_tokenizer(layout.header, out_dir)
    (out_dir / "config.json").write_text(json.dumps(config, indent=2))
    with CheckpointWriter(out_dir, output_tensors(plan.assignments), durable=False) as writer:
        write_weights(layout.header, plan.assignments, writer, threads=2)
    return Written(layout.header, layout, plan, config)
