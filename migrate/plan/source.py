"""What is to be served, from what was named: a config.json, a directory with a checkpoint, or a model of Ollama's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from migrate.errors import Refused, UsageError
from migrate.mapping.migration import Migration
from migrate.plan import config as configs
from migrate.plan import weights
from migrate.plan.advise import Model
from migrate.plan.config import Config
from migrate.plan.layers import layer_caches
from migrate.plan.weights import TensorSize, Weights

CONTEXT = 8192
"""max-model-len where nothing says it: enough for most chats, and the model's own maximum seldom fits."""
OWN_WAYS: tuple[Literal["dense", "repack", "requantize"], ...] = ("dense", "repack", "requantize")


@dataclass(frozen=True, slots=True)
class Named:
    """The model, and the context it is to be served with (tokens)."""

    model: Model
    max_model_len: int


def from_config(path: Path, way: str | None = None, dtype: str | None = None) -> Named:
    """A bare config.json: the tensors that a model with it has. Raises NotFound, BadInput, Refused and UsageError."""
    config = _with_dtype(configs.read(path), dtype)
    weights.check_known(config)
    sizes = weights.from_config(config)
    origin = "tensors of the architecture's table"
    if config.has("vision_config") or config.has("audio_config"):
        origin += "; the text part alone, without what sees or hears"
    return _named(str(path), config, sizes, way, exact=False, origin=origin)


def from_directory(
    directory: Path,
    way: str | None = None,
    dtype: str | None = None,
    *,
    name: str = "",
    max_model_len: int | None = None,
) -> Named:
    """A checkpoint directory: its config.json, and the headers of its safetensors files."""
    config = _with_dtype(configs.read(directory), dtype)
    sizes = weights.from_files(directory, config)
    found = _named(name or str(directory), config, sizes, way, exact=True, origin="headers of the safetensors files")
    return Named(found.model, max_model_len or found.max_model_len)


def from_migration(migration: Migration, way: str | None = None) -> Named:
    """A model of Ollama's as `migrate convert` would write it. `way`: dense, repack, requantize, or one that vLLM makes
    when it loads the model (fp8).

    Raises:
        Refused: the weights do not move, or not in this way.
        UsageError: another way.
    """
    name = migration.model.name
    if migration.model.checkpoint is not None:
        checkpoint = migration.model.checkpoint
        config = Config(checkpoint.config, f"config.json of {name}")
        rows = ((t.name, t.dtype, t.shape, t.nbytes) for t in checkpoint.tensors.values())
        sizes = weights.from_tensors(rows, config)
        found = _named(name, config, sizes, way, exact=True, origin="headers of the safetensors files")
        return Named(found.model, migration.max_model_len or found.max_model_len)
    if migration.layout is None:
        why = next((finding for finding in migration.refused), None)
        raise Refused(
            f"{name}: {why.reason if why else 'its weights do not move'}",
            hint="see `migrate inspect`; or plan from the original's config.json with --config",
        )
    if way is not None and way not in (*OWN_WAYS, "fp8"):
        raise UsageError(f"--weights {way}: must be dense, repack, requantize or fp8")
    own = way if way in OWN_WAYS else None
    config, sizes, label = _stored(migration, own)
    alternatives: dict[str, int] = {}
    for other in OWN_WAYS:
        try:
            alternatives[other] = sum(size.nbytes for size in _stored(migration, other)[1])
        except Refused:
            continue
    origin = "what `migrate convert` would write, tensor by tensor"
    dense_config, dense, _ = _stored(migration, "dense") if "dense" in alternatives else (config, sizes, label)
    eight = weights.weigh(dense, dense_config, "fp8", exact=True, origin=f"{origin}; matrices at one byte")
    alternatives["fp8"] = eight.nbytes
    chosen = eight if way == "fp8" else weights.weigh(sizes, config, exact=True, origin=origin, label=label)
    config = dense_config if way == "fp8" else config
    model = Model(name, config, layer_caches(config), chosen, alternatives)
    return Named(model, migration.max_model_len or _context(config))


def _stored(migration: Migration, way: str | None) -> tuple[Config, list[TensorSize], str]:
    """The config and tensors of a checkpoint written in one way, and the way's name."""
    from migrate.checkpoint.convert import plan_storage
    from migrate.checkpoint.weights import output_tensors

    layout = migration.layout
    assert layout is not None
    chosen = next((known for known in OWN_WAYS if known == way), None)
    plan = plan_storage(layout, chosen, migration.dtype if way in (None, "dense") else None)
    values: dict[str, Any] = {
        **layout.config,
        "model_type": layout.architecture.model_type,
        "dtype": plan.dtype.value,
    }
    if plan.quantization_config:
        values["quantization_config"] = plan.quantization_config
    config = Config(values, f"config of {migration.model.name}")
    rows = ((t.name, t.dtype.value, t.shape, t.nbytes) for t in output_tensors(plan.assignments))
    label = way or ("repack" if plan.quantization_config else "dense")
    return config, weights.from_tensors(rows, config), label


def _named(
    name: str, config: Config, sizes: Sequence[TensorSize], way: str | None, *, exact: bool, origin: str
) -> Named:
    quantized = any(size.packed for size in sizes) or isinstance(config.values.get("quantization_config"), Mapping)
    if quantized and way not in (None, "dense"):
        raise UsageError(f"--weights {way}: these weights are quantized already; they are planned as they are")
    kinds: dict[str, Weights] = {}
    for each in ("dense",) if quantized else weights.WAYS:
        label = "stored" if quantized else ""
        kinds[each] = weights.weigh(sizes, config, each, exact=exact, origin=origin, label=label)
    if way is not None and way not in kinds:
        raise UsageError(f"--weights {way}: must be {', '.join(weights.WAYS)}")
    chosen = kinds[way or "dense"]
    alternatives = {found.way: found.nbytes for found in kinds.values()}
    return Named(Model(name, config, layer_caches(config), chosen, alternatives), _context(config))


def _context(config: Config) -> int:
    return min(config.integer("max_position_embeddings", CONTEXT), CONTEXT)


def _with_dtype(config: Config, dtype: str | None) -> Config:
    if dtype is None:
        return config
    if dtype not in ("bfloat16", "float16", "float32"):
        raise UsageError(f"--dtype {dtype}: must be bfloat16, float16 or float32")
    return Config({**config.values, "dtype": dtype}, config.name)
