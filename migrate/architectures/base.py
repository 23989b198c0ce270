"""What one architecture is, as data, and the reading of a GGUF by that data. Standard library only.

An architecture file declares an `Architecture`: a table of tensors, a function from metadata to `config.json`, and a
few facts that inspect, plan and repack need. `Architecture.read` applies it to a header and checks everything: a tensor
that is not in the table, is missing, or has another shape than the config implies is an error that names it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from migrate.errors import GGUFError, Refused
from migrate.findings import Finding, Ledger, Status
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.types import GGMLType

Config = dict[str, Any]
"""What computes in a `config.json`: everything but token ids, dtype and bookkeeping."""

Dimensions = Mapping[str, int]
"""Sizes by name ("hidden", "vocab", ...) in which a tensor table writes its shapes."""


class RowTransform(Protocol):
    """A layout change that only moves rows: the same on numbers and on quantized blocks, which run along a row."""

    def row_order(self, rows: int, dimensions: Dimensions) -> list[int]:
        """For every row of the checkpoint, the row of the GGUF it is."""
        ...


@dataclass(frozen=True, slots=True)
class Unpermute:
    """Undo the row order llama.cpp gives q and k of the llama family.

    llama.cpp rotates neighbouring pairs (2i, 2i + 1) of a head, transformers rotates (i, i + head_dim / 2); so the
    converter of llama.cpp interleaves the two halves of each head's rows. `heads` names the dimension counting heads.
    """

    heads: str

    def row_order(self, rows: int, dimensions: Dimensions) -> list[int]:
        head_dim = rows // dimensions[self.heads]
        within_head = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
        return [first + row for first in range(0, rows, head_dim) for row in within_head]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One line of a tensor table.

    `source` and `target` are names in GGUF and checkpoint; "{i}" stands for the layer. `shape` names dimensions in
    torch order. Tensors of one `group` are optional, and are there all together, in every layer, or not at all.
    """

    source: str
    target: str
    shape: tuple[str, ...]
    transform: RowTransform | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """A tensor of the checkpoint and where it comes from. `shape` is torch's.

    `row_order`, where rows move, says for every index of the first dimension which one of the source it is.
    """

    target: str
    source: TensorInfo
    shape: tuple[int, ...]
    row_order: Sequence[int] | None = None

    @property
    def row_weights(self) -> int:
        """Weights that stay together: an index of the first dimension where rows move, else a contiguous run."""
        return self.source.shape[0] if self.row_order is None else math.prod(self.shape[1:])


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A GGUF read by its architecture: everything known before a weight is touched."""

    architecture: Architecture
    config: Config
    dimensions: Dimensions
    tensors: Sequence[MappedTensor]
    findings: Sequence[Finding]

    @property
    def parameter_count(self) -> int:
        """Weights of the checkpoint (helper tensors such as `rope_freqs` are none)."""
        return sum(tensor.source.parameters for tensor in self.tensors)

    def kv_bytes_per_token(self, cache_bytes: int = 2) -> int:
        return self.architecture.kv_bytes_per_token(self.config, cache_bytes)


class Source:
    """What a config builder reads from: the metadata of one architecture, remembering what was asked for."""

    def __init__(self, header: GGUFHeader, groups: frozenset[str]) -> None:
        self.header, self.groups, self.ledger = header, groups, Ledger()
        self._seen: set[str] = set()

    def has(self, group: str) -> bool:
        """Whether the optional tensors of `group` are in the file."""
        return group in self.groups

    def get(self, key: str, default: Any = None) -> Any:
        """The value of "<architecture>.<key>", or `default`."""
        self._seen.add(key)
        return self.header.field(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; a per-layer array counts when all layers agree."""
        value = self.get(key, default)
        if isinstance(value, Sequence) and not isinstance(value, str) and value and len(set(value)) == 1:
            value = value[0]
        if isinstance(value, Sequence) and not isinstance(value, str):
            raise Refused(
                f"{self._name(key)} differs between layers; {self.header.architecture} checkpoints have one value"
            )
        return int(self._checked(key, value, int))

    def number(self, key: str, default: float | None = None) -> float:
        """A number, stored as float32: returned as the decimal its author wrote (1e-05, not 9.9999997e-06)."""
        value = float(self._checked(key, self.get(key, default), (int, float)))
        if not math.isfinite(value):
            raise GGUFError(f"{self._name(key)} is {value}")
        return shortest_float(value)

    def floats(self, tensor: str) -> tuple[float, ...] | None:
        """The values of a small float32 helper tensor; None when the file has none."""
        info = self.header.tensors.get(tensor)
        return None if info is None else read_float32(self.header, info)

    def unread(self) -> list[str]:
        """Keys of this architecture nobody asked for."""
        prefix = f"{self.header.architecture}."
        return [key for key in self.header.metadata if key.startswith(prefix) and key[len(prefix) :] not in self._seen]

    def _name(self, key: str) -> str:
        return f"{self.header.path.name}: metadata '{self.header.architecture}.{key}'"

    def _checked(self, key: str, value: Any, kind: type | tuple[type, ...]) -> Any:
        if value is None:
            raise GGUFError(f"{self._name(key)} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise GGUFError(f"{self._name(key)} is {value!r}, not a number")
        return value


def attention_kv_bytes(config: Mapping[str, Any], cache_bytes: int = 2) -> int:
    """Bytes one token takes in the cache when every layer keeps full keys and values of every kv head."""
    per_layer = 2 * int(config["num_key_value_heads"]) * int(config["head_dim"])
    return int(config["num_hidden_layers"]) * per_layer * cache_bytes


@dataclass(frozen=True, slots=True)
class Architecture:
    """One `model_type` of transformers and how to make it out of a GGUF.

    `config` builds what computes; `dimensions` turns it into the sizes `tensors` uses. `fused` maps the layers vLLM
    fuses to their parts, which must share one quantization scheme. `float16` is False where vLLM refuses float16.
    `consumed` are tensors the config builder reads; they do not appear in a checkpoint. `ignored_keys` are metadata
    keys without influence on the computation.
    """

    model_type: str
    class_name: str
    gguf_names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    config: Callable[[Source], Config]
    dimensions: Callable[[Config], dict[str, int]]
    kv_bytes_per_token: Callable[[Mapping[str, Any], int], int] = attention_kv_bytes
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    float16: bool = True
    lora_targets: tuple[str, ...] = ()
    consumed: tuple[str, ...] = ()
    ignored_keys: tuple[str, ...] = ("vocab_size",)

    def read(self, header: GGUFHeader) -> ModelLayout:
        """Config and tensor map of a GGUF of this architecture.

        Raises:
            GGUFError: metadata is missing or malformed; a tensor is unknown, missing or of the wrong shape.
            Refused: the file is sound, but this architecture has no words for what it says.
        """
        source = Source(header, self._present_groups(header))
        config = self.config(source)
        for key in self.ignored_keys:
            source.get(key)
        for key in source.unread():
            reason = f"not known for {self.model_type}; llama.cpp ignores what it does not know, and so does this"
            source.ledger.add(key, Status.DROPPED, header.get(key), "", reason)
        dimensions = self.dimensions(config)
        tensors = self._map(header, config["num_hidden_layers"], dimensions, source.groups)
        return ModelLayout(self, config, dimensions, tensors, tuple(source.ledger))

    def _present_groups(self, header: GGUFHeader) -> frozenset[str]:
        return frozenset(t.group for t in self.tensors if t.group and t.source.format(i=0) in header.tensors)

    def _map(
        self, header: GGUFHeader, layers: int, dimensions: Dimensions, groups: frozenset[str]
    ) -> list[MappedTensor]:
        wanted = [t for t in self.tensors if not t.group or t.group in groups]
        if layers > len(header.tensors):
            raise GGUFError(f"{header.path.name}: {layers} layers announced, {len(header.tensors)} tensors present")
        mapped: list[MappedTensor] = []
        for rule, layer in _expand(wanted, layers):
            mapped.append(_map_one(header, rule, layer, dimensions))
        known = {tensor.source.name for tensor in mapped} | set(self.consumed)
        if unknown := [name for name in header.tensors if name not in known]:
            raise GGUFError(
                f"{header.path.name}: {_named(unknown)} not known for architecture {header.architecture!r}",
                hint="A checkpoint without it would be another model. Report the file's origin.",
            )
        return mapped


def _expand(rules: Iterable[Tensor], layers: int) -> Iterable[tuple[Tensor, int]]:
    """Tables are written per role; checkpoints are written per layer: embeddings, layer 0, layer 1, ..., the rest."""
    rules = list(rules)
    per_layer = [index for index, rule in enumerate(rules) if "{i}" in rule.source]
    first, last = (per_layer[0], per_layer[-1] + 1) if per_layer else (len(rules), len(rules))
    yield from ((rule, 0) for rule in rules[:first])
    yield from ((rule, layer) for layer in range(layers) for rule in rules[first:last])
    yield from ((rule, 0) for rule in rules[last:])


def _map_one(header: GGUFHeader, rule: Tensor, layer: int, dimensions: Dimensions) -> MappedTensor:
    name = rule.source.format(i=layer)
    info = header.tensors.get(name)
    if info is None:
        others = f", though others of its kind ({rule.group}) are there" if rule.group else ""
        raise GGUFError(f"{header.path.name}: tensor {name!r} is missing{others}")
    shape = tuple(dimensions[size] for size in rule.shape)
    if info.torch_shape != shape:
        raise GGUFError(f"{header.path.name}: tensor {name!r} has shape {info.torch_shape}, the metadata imply {shape}")
    order = rule.transform.row_order(shape[0], dimensions) if rule.transform else None
    return MappedTensor(rule.target.format(i=layer), info, shape, order)


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more} {'are' if len(names) > 1 else 'is'}"


def read_float32(header: GGUFHeader, info: TensorInfo) -> tuple[float, ...]:
    """A float32 tensor's values, read from the file. For helper tensors of a few hundred numbers."""
    if info.type is not GGMLType.F32:
        raise GGUFError(f"{header.path.name}: tensor {info.name!r} is {info.type.name}, expected F32")
    if info.nbytes > 1 << 20:
        raise GGUFError(f"{header.path.name}: tensor {info.name!r} has {info.parameters} values, far too many")
    with header.path.open("rb") as file:
        file.seek(info.offset)
        data = file.read(info.nbytes)
    if len(data) < info.nbytes:
        raise GGUFError(f"{header.path.name}: the file shrank while {info.name!r} was being read")
    return struct.unpack(f"<{info.parameters}f", data)


def shortest_float(value: float) -> float:
    """The shortest decimal that is the same float32."""
    try:
        stored = struct.pack("<f", value)
    except OverflowError:
        return value
    for digits in range(1, 9):
        candidate = float(f"{value:.{digits}g}")
        if struct.pack("<f", candidate) == stored:
            return candidate
    return value
