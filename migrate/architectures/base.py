"""What one architecture is, as data, and the reading of a GGUF by that data. Standard library only.

An architecture file declares an `Architecture`: a table of tensors, a function from metadata to `config.json`, and a
few facts that inspect, plan and repack need. `Architecture.read` applies it to a header and checks everything: a tensor
that is not in the table, is missing, or has another shape than the config implies is an error that names it.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from migrate.architectures.tensors import Dimensions, MappedTensor, Tensor, copied, resolve
from migrate.errors import GGUFError, Refused
from migrate.findings import Finding, Ledger, Status
from migrate.gguf.header import GGUFHeader, TensorInfo
from migrate.gguf.raw import read_raw
from migrate.gguf.types import GGMLType

Config = dict[str, Any]
"""What computes in a `config.json`: everything but token ids, dtype and bookkeeping."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What is special about one layer: its kinds (rows of the tensor table with that `kind` apply) and own sizes."""

    kinds: frozenset[str] = frozenset()
    sizes: Dimensions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A GGUF read by its architecture: everything known before a weight is touched.

    `header` is the file's, with the peculiarities of Ollama's own files mended (see `variants`).
    """

    header: GGUFHeader
    architecture: Architecture
    config: Config
    dimensions: Dimensions
    tensors: Sequence[MappedTensor]
    findings: Sequence[Finding]

    @property
    def parameter_count(self) -> int:
        """Weights of the checkpoint (helper tensors such as `rope_freqs` are none)."""
        return sum(tensor.parameters for tensor in self.tensors)

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

    def boolean(self, key: str, default: bool) -> bool:
        """A truth value; files of all ages write it as bool or as 0 and 1."""
        value = self.get(key, default)
        if not isinstance(value, bool | int):
            raise GGUFError(f"{self._name(key)} is {value!r}, not a truth value")
        return bool(value)

    def per_layer(self, key: str, layers: int, default: int | None = None) -> list[int]:
        """A whole number per layer; a single one counts for all."""
        value = self.get(key, default)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) < layers:
                raise GGUFError(f"{self._name(key)} has {len(value)} values for {layers} layers")
            return [int(self._checked(key, item, int)) for item in value[:layers]]
        return [int(self._checked(key, value, int))] * layers

    def flags(self, key: str, layers: int) -> list[bool]:
        """A truth value per layer, from a list of them."""
        value = self.get(key)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise GGUFError(f"{self._name(key)} is {value!r}, not a list of truth values")
        if len(value) < layers:
            raise GGUFError(f"{self._name(key)} has {len(value)} values for {layers} layers")
        return [bool(item) for item in value[:layers]]

    def layers(self) -> int:
        """Layers of the model proper: prediction layers at the end (MTP) are not counted."""
        return self.integer("block_count") - self.integer("nextn_predict_layers", 0)

    def shape(self, tensor: str) -> tuple[int, ...] | None:
        """torch's shape of a tensor; None when the file has none."""
        info = self.header.tensors.get(tensor)
        return None if info is None else info.torch_shape

    def refuse(self, what: str, hint: str = "Use the original checkpoint if it can be had.") -> Refused:
        """The error to raise for a sound file that the class in transformers has no words for."""
        return Refused(f"{self.header.path.name}: {what}", hint=hint)

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

    `config` builds what computes; `dimensions` turns it into the sizes `tensors` uses, `layer` says what is special
    about one layer. `fused` maps the layers vLLM fuses to their parts, which must share one quantization scheme.
    `float16` is False where vLLM refuses float16. `consumed` are tensors the config builder reads; they do not appear
    in a checkpoint. `left_out` are (expression for tensor names, reason): known, and told, but not carried over.
    `ignored_keys` are metadata keys without influence on the computation. `pooling`: an embedding model, which vLLM
    serves with `--runner pooling`. `more_files`: further files of the checkpoint, path -> text. `matches` tells apart
    model_types that share a `general.architecture`.
    """

    model_type: str
    class_name: str
    gguf_names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    config: Callable[[Source], Config]
    dimensions: Callable[[Config], dict[str, int]]
    layer: Callable[[Config, int], Layer] = lambda config, index: Layer()
    kv_bytes_per_token: Callable[[Mapping[str, Any], int], int] = attention_kv_bytes
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    float16: bool = True
    lora_targets: tuple[str, ...] = ()
    consumed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    ignored_keys: tuple[str, ...] = ("vocab_size",)
    pooling: bool = False
    more_files: Callable[[GGUFHeader], Mapping[str, str]] = lambda header: {}
    matches: Callable[[GGUFHeader], bool] = lambda header: True

    def read(self, header: GGUFHeader, findings: Sequence[Finding] = ()) -> ModelLayout:
        """Config and tensor map of a GGUF of this architecture. `findings`: what was mended in the header before.

        Raises:
            GGUFError: metadata is missing or malformed; a tensor is unknown, missing or of the wrong shape.
            Refused: the file is sound, but this architecture has no words for what it says.
        """
        source = Source(header, self._present_groups(header))
        source.ledger.extend(findings)
        config = self.config(source)
        for key in self.ignored_keys:
            source.get(key)
        for key in source.unread():
            reason = f"not known for {self.model_type}; llama.cpp ignores what it does not know, and so does this"
            source.ledger.add(key, Status.DROPPED, header.get(key), "", reason)
        dimensions = self.dimensions(config)
        mapped = list(self._map(source, config, dimensions))
        self._check_all_known(source, mapped)
        return ModelLayout(header, self, config, dimensions, mapped, tuple(source.ledger))

    def _present_groups(self, header: GGUFHeader) -> frozenset[str]:
        names = {_LAYER_NUMBER.sub("blk.{i}.", name) for name in header.tensors}
        return frozenset(t.group for t in self.tensors if t.group and t.sources[0][0] in names)

    def _map(self, source: Source, config: Config, dimensions: Dimensions) -> Iterator[MappedTensor]:
        header, layers = source.header, config["num_hidden_layers"]
        if layers > len(header.tensors):
            raise GGUFError(f"{header.path.name}: {layers} layers announced, {len(header.tensors)} tensors present")
        rules = [t for t in self.tensors if not t.group or t.group in source.groups]
        per_layer = [index for index, rule in enumerate(rules) if rule.per_layer]
        first, last = (per_layer[0], per_layer[-1] + 1) if per_layer else (len(rules), len(rules))
        for rule in rules[:first]:
            yield from _apply(header, rule, 0, dimensions)
        for index in range(layers):
            layer = self.layer(config, index)
            sizes = {**dimensions, **layer.sizes}
            for rule in rules[first:last]:
                if not rule.kind or rule.kind in layer.kinds:
                    yield from _apply(header, rule, index, sizes)
        for rule in rules[last:]:
            yield from _apply(header, rule, 0, dimensions)

    def _check_all_known(self, source: Source, mapped: Sequence[MappedTensor]) -> None:
        header = source.header
        known = {info.name for tensor in mapped for info in tensor.sources} | set(self.consumed)
        unknown = [name for name in header.tensors if name not in known]
        unknown = _without_prediction_layers(source, unknown)
        for expression, reason in self.left_out:
            matching = [name for name in unknown if re.fullmatch(expression, name)]
            if matching:
                what = f"{len(matching)} tensors ({matching[0]}, ...)" if len(matching) > 1 else matching[0]
                source.ledger.add("tensors left out", Status.DROPPED, what, "", reason)
                unknown = [name for name in unknown if name not in matching]
        if unknown:
            raise GGUFError(
                f"{header.path.name}: {_named(unknown)} not known for architecture {header.architecture!r}",
                hint="A checkpoint without it would be another model. Report the file's origin.",
            )


_LAYER_NUMBER = re.compile(r"^blk\.\d+\.")


def _without_prediction_layers(source: Source, unknown: list[str]) -> list[str]:
    """Layers after the last guess further tokens (MTP): llama.cpp uses them for speculation, or not at all."""
    count = source.integer("nextn_predict_layers", 0)
    prefixes = tuple(f"blk.{source.layers() + i}." for i in range(min(count, 64)))
    extra = [name for name in unknown if prefixes and name.startswith(prefixes)]
    if extra:
        reason = "layers that predict further tokens (MTP) speed up answers and do not change them"
        source.ledger.add("tensors left out", Status.DROPPED, f"{len(extra)} tensors of {count} layer(s)", "", reason)
    return [name for name in unknown if name not in extra]


def _apply(header: GGUFHeader, rule: Tensor, layer: int, sizes: Dimensions) -> Iterator[MappedTensor]:
    """The checkpoint tensors one line of the table makes of the tensors of one layer, after checking their shapes."""
    infos = []
    for name, words in rule.sources:
        name = name.replace("{i}", str(layer))
        info = header.tensors.get(name)
        if info is None:
            others = f", though others of its kind ({rule.group}) are there" if rule.group else ""
            raise GGUFError(f"{header.path.name}: tensor {name!r} is missing{others}")
        shape = resolve(words, sizes)
        if _significant(info.torch_shape) != _significant(shape):
            raise GGUFError(
                f"{header.path.name}: tensor {name!r} has shape {info.torch_shape}, the metadata imply {shape}"
            )
        infos.append(info)
    target = rule.target.replace("{i}", str(layer))
    if rule.transform is None:
        yield copied(target, infos[0])
        return
    result = rule.transform(target, tuple(infos), sizes)
    if isinstance(result, MappedTensor):
        yield result
    else:
        yield from result


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without ones at its front: ggml has four dimensions always, and old converters squeezed."""
    first = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


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
    data = read_raw(header, info)
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
