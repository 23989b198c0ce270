"""Tiny models of every family: what they are made of, and what has to come back out of their GGUFs.

`fixtures/architectures/NAME` holds a GGUF by llama.cpp's own converter, the config.json and the names and shapes of the
checkpoint it was made from, and what transformers computes with it. The weights are a function of their names
(`expected_bits`), so the checkpoint itself need not be kept. `make_families.py` makes the directories.

    python -m tests.architectures.families [NAME ...]     compares and prints the first differences
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from migrate.checkpoint.convert import CheckpointReport, convert_weights
from migrate.errors import MigrateError
from migrate.gguf.header import read_header

ROOT = Path(__file__).parent.parent.parent / "fixtures" / "architectures"
VOCAB = 96
IGNORED = frozenset(
    [
        *("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "model_type"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "output_router_logits"),
        *("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "classifier_dropout", "resid_dropout"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "residual_dropout", "embedding_dropout"),
        *("router_aux_loss_coef", "router_jitter_noise", "router_z_loss_coef", "aux_loss_alpha", "seq_aux"),
        *(
            "pretraining_tp",
            "num_mtp_layers",
            "num_nextn_predict_layers",
            "ep_size",
            "auto_map",
            "n_positions",
            "rotary_pct",
            "attn_implementation",
            "full_attention_interval",  # layer_types says it
        ),
        *("is_decoder", "add_cross_attention", "position_embedding_type"),
    ]
)
"""Keys without influence on what a model answers: bookkeeping, training, and the tokenizer's business."""
FOR_VLLM = frozenset(
    [
        *("moe_layer_freq", "scoring_func", "topk_method", "tie_word_embeddings", "rope_parameters"),
        *("layer_norm_epsilon", "n_embd", "n_head", "n_inner", "n_layer", "block_dim", "conv_dim"),
        "llama_4_scaling",
        "partial_rotary_factor",  # of phi3, which has it in rope_parameters
    ]
)
"""What an original may leave to its class, or call otherwise, and vLLM wants to be told."""


def expected(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The weights of a tensor, by its name: bfloat16 numbers as float32, of a size that keeps a model alive."""
    rng = np.random.default_rng(crc32(name.encode()))
    count = prod(shape)
    numbers = rng.standard_normal(count)
    if name.endswith("A_log"):
        numbers = np.log(rng.uniform(0.05, 8.0, count))
    elif len(shape) == 1 and "norm" in name.lower() and name.endswith("weight"):
        numbers = 1.0 + 0.3 * numbers
    elif name.endswith("e_score_correction_bias"):
        numbers = 0.1 * numbers
    else:
        numbers = numbers * (0.5 if len(shape) == 1 else min(0.5, 1.5 / shape[-1] ** 0.5))
    return from_bits(to_bits(numbers.astype(np.float32))).reshape(shape)


def to_bits(floats: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """bfloat16, rounded to nearest even, as numbers of 16 bits."""
    words = np.ascontiguousarray(floats).reshape(-1).view(np.uint32).astype(np.uint64)
    return ((words + 0x7FFF + ((words >> 16) & 1)) >> 16).astype(np.uint16)


def from_bits(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class Family:
    """One directory of the fixtures, or one model of the shared data."""

    name: str
    gguf: Path
    config: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]]
    """dtype, shape and bytes by name."""


def names() -> list[str]:
    return sorted(path.name for path in ROOT.iterdir() if (path / "model.gguf").is_file())


def load(name: str) -> Family:
    """A family of the fixtures, its weights made again."""
    directory = ROOT / name
    tensors = {}
    for tensor, (dtype, shape) in json.loads((directory / "tensors.json").read_text()).items():
        floats = expected(tensor, tuple(shape))
        data = floats.tobytes() if dtype == "F32" else to_bits(floats).tobytes()
        tensors[tensor] = (dtype, tuple(shape), data)
    return Family(name, directory / "model.gguf", json.loads((directory / "config.json").read_text()), tensors)


def load_shared(directory: Path) -> Family:
    """A model of the shared data: `hf` is the original."""
    tensors = read_tensors(directory / "hf")
    config = json.loads((directory / "hf" / "config.json").read_text())
    return Family(directory.name, directory / "gguf" / "model-bf16.gguf", config, tensors)


def read_tensors(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of all tensors of a checkpoint, without a library that would interpret them."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        entries = json.loads(data[8:start])
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            found[name] = (entry["dtype"], tuple(entry["shape"]), data[start + begin : start + end])
    return found


def convert(family: Family, directory: Path) -> CheckpointReport:
    return convert_weights(read_header(family.gguf), directory, durable=False)


def differing_tensors(family: Family, directory: Path) -> list[str]:
    """What is not as it was, in words. Values whose sign of zero got lost in a shifted norm count as equal."""
    ours = read_tensors(directory)
    told = [f"missing: {name}" for name in family.tensors if name not in ours]
    told += [f"unexpected: {name}" for name in ours if name not in family.tensors]
    for name, (dtype, shape, data) in family.tensors.items():
        if name in ours and ours[name][:2] != (dtype, shape):
            told.append(f"{name}: {ours[name][0]} {ours[name][1]} instead of {dtype} {shape}")
        elif name in ours and ours[name][2] != data:
            a, b = (np.frombuffer(part, np.uint16) for part in (ours[name][2], data))
            told.append(f"{name}: {int((a != b).sum())} of {a.size} numbers differ")
    return told


def differing_config(family: Family, directory: Path) -> list[str]:
    """Keys that compute and are not equal, both read as transformers reads them (defaults filled in)."""
    ours = json.loads((directory / "config.json").read_text())
    mine, theirs = _as_transformers_reads(ours), _as_transformers_reads(family.config)
    keys = sorted((mine.keys() | theirs.keys()) - IGNORED - (FOR_VLLM - theirs.keys()))
    return [
        f"{key}: {mine.get(key, 'absent')!r} instead of {theirs.get(key, 'absent')!r}"
        for key in keys
        if not _same(mine.get(key), theirs.get(key))
    ]


def _as_transformers_reads(config: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        known = AutoConfig.for_model(**config)
    except ValueError:  # a family whose code is not in transformers
        return config
    read: dict[str, Any] = known.to_dict()
    if not read.get("head_dim") and read.get("num_attention_heads"):
        read["head_dim"] = read["hidden_size"] // read["num_attention_heads"]
    for key in ("n_group", "topk_group"):
        if key in read:
            read[key] = read[key] or 1
    return read


def _same(a: Any, b: Any) -> bool:
    """Equal, but for what float32 in between takes from a number."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) or isinstance(b, float):
        return a is not None and b is not None and bool(np.float32(a) == np.float32(b))
    return bool(a == b)


def main(arguments: list[str]) -> int:
    failed = 0
    for name in arguments or names():
        with tempfile.TemporaryDirectory() as scratch:
            family = load(name)
            try:
                report = convert(family, Path(scratch))
                told = differing_tensors(family, Path(scratch)) + differing_config(family, Path(scratch))
                told += [f"finding {f.status}: {f.item}: {f.reason}" for f in report.findings if f.status == "dropped"]
            except MigrateError as error:
                told = [f"{type(error).__name__}: {error}"]
        failed += bool(told)
        print(name, "OK" if not told else "")
        for line in told[:8]:
            print("   ", line[:300])
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
