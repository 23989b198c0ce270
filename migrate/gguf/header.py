"""The header of a GGUF file: metadata and the table of tensors. Standard library only, so that `inspect` starts fast.

Format (ggml/docs/gguf.md), little-endian: magic "GGUF", u32 version, u64 tensor count, u64 metadata count, the
metadata (key, type, value), the tensor table (name, dimensions, type, offset), padding, the data. Versions 2 and 3 are
the same here. Everything is checked before it is believed: a count is compared with what the file could hold before
anything is allocated for it, and every offset with the size of the file.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from migrate.errors import GGUFError, NotFound
from migrate.gguf.types import REMOVED_TYPES, GGMLType, file_type_name

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

MAX_KEY_BYTES = 65_535
MAX_TENSOR_NAME_BYTES = 64
MAX_DIMENSIONS = 4
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 18
MAX_STRINGS = 1 << 23
"""String-array elements in the whole file. The largest real vocabularies have half a million merges; the bound keeps
the time to walk a hostile file near a second."""
EAGER_LENGTH = 256
"""Arrays up to this length are read at once, as a tuple; longer ones when somebody looks at them."""

_STRING, _ARRAY = 8, 9
_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

# Smallest possible entry: key or name (u64 length and one byte), type, and one byte of value / one dimension, offset.
_MIN_METADATA_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


class LazyArray(Sequence[Any]):
    """A long array of the metadata: its length is known, its elements are read from the file on first access."""

    __slots__ = ("_key", "_length", "_nbytes", "_offset", "_path", "_type", "_values")

    def __init__(self, path: Path, key: str, element_type: int, length: int, offset: int, nbytes: int) -> None:
        self._path, self._key, self._type = path, key, element_type
        self._length, self._offset, self._nbytes = length, offset, nbytes
        self._values: tuple[Any, ...] | None = None

    @property
    def holds_strings(self) -> bool:
        """Whether the elements are texts; known without reading them."""
        return self._type == _STRING

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self._load()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._load())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, LazyArray | tuple | list):
            return self._length == len(other) and self._load() == tuple(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<LazyArray {self._key!r} of {self._length}>"

    def _load(self) -> tuple[Any, ...]:
        if self._values is None:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(self._nbytes)
            if len(data) != self._nbytes:
                raise GGUFError(f"{self._path.name}: the file shrank while {self._key!r} was being read")
            self._values = _decode_array(data, 0, self._type, self._length, self._key, self._path)
        return self._values


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table.

    `shape` is GGUF's ne: the contiguous dimension first, so a linear layer is (in_features, out_features); numpy and
    torch write the same tensor reversed (`torch_shape`). `offset` is absolute, in the file; `nbytes` without padding.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    offset: int
    nbytes: int

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape as numpy, torch and safetensors write it: the contiguous dimension last."""
        return self.shape[::-1]

    @property
    def parameters(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class TypeShare:
    """How much of a file is stored as one type."""

    type: GGMLType
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """Everything a GGUF says about itself; the tensors' data stays in the file.

    `metadata` has the keys as written; arrays are tuples, long ones `LazyArray`. `data_offset` is where tensor data
    begins, in bytes from the start of the file.
    """

    path: Path
    size: int
    version: int
    alignment: int
    data_offset: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(key, default)

    def field(self, key: str, default: Any = None) -> Any:
        """The value of "<architecture>.<key>", e.g. `field("attention.head_count")`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def architecture(self) -> str:
        """`general.architecture`; "" when the file has none (some adapters and projectors)."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    @property
    def chat_template(self) -> str | None:
        """The Jinja template the file carries, if any."""
        value = self.metadata.get("tokenizer.chat_template")
        return value if isinstance(value, str) else None

    @property
    def tool_use_template(self) -> str | None:
        """The variant of the Jinja template for requests with tools, if the file carries one."""
        value = self.metadata.get("tokenizer.chat_template.tool_use")
        return value if isinstance(value, str) else None

    @property
    def kind(self) -> str:
        """`general.type`: "model", "adapter", "mmproj", ...; "model" when the file does not say."""
        return str(self.metadata.get("general.type", "model"))

    @property
    def file_type(self) -> str | None:
        """The name of `general.file_type` ("Q4_K_M"); None when absent or unknown."""
        value = self.metadata.get("general.file_type")
        return file_type_name(value) if isinstance(value, int) else None

    @property
    def split_count(self) -> int:
        """Number of files the model was split into; 1 for a whole one."""
        value = self.metadata.get("split.count", 1)
        return value if isinstance(value, int) and value > 1 else 1

    @property
    def parameter_count(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.parameters for tensor in self.tensors.values())

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def type_shares(self) -> list[TypeShare]:
        """What the file really consists of, the largest part first."""
        groups: dict[GGMLType, list[TensorInfo]] = {}
        for tensor in self.tensors.values():
            groups.setdefault(tensor.type, []).append(tensor)
        shares = [
            TypeShare(kind, len(group), sum(t.parameters for t in group), sum(t.nbytes for t in group))
            for kind, group in groups.items()
        ]
        return sorted(shares, key=lambda share: (-share.nbytes, share.type))


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file. Touches only the header's pages, however large the file is.

    Raises:
        NotFound: there is no such file.
        GGUFError: the file is not a GGUF, is damaged, or is of a version that cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            _check_magic(path, file, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _Parser(path, mapped, size).parse()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_magic(path: Path, file: Any, size: int) -> None:
    file.seek(0)
    start = file.read(4)
    if start != MAGIC:
        found = "an empty file" if not size else f"{start!r}"
        raise GGUFError(f"{path.name}: not a GGUF file: it starts with {found}, not {MAGIC!r}")
    if size < 24:
        raise GGUFError(f"{path.name}: truncated: {size} bytes do not hold a GGUF header")


class _Parser:
    """One pass over the header, with a cursor."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path, self.data, self.size = path, data, size
        self.position = 4
        self.strings_left = MAX_STRINGS

    def parse(self) -> GGUFHeader:
        version = self._version()
        tensor_count, metadata_count = self._number(_U64, "tensor count"), self._number(_U64, "metadata count")
        self._check_count("metadata entries", metadata_count, MAX_METADATA, _MIN_METADATA_BYTES)
        self._check_count("tensors", tensor_count, MAX_TENSORS, _MIN_TENSOR_BYTES)
        metadata = self._metadata(metadata_count)
        alignment = self._alignment(metadata)
        entries = self._tensor_table(tensor_count)
        data_offset = -(-self.position // alignment) * alignment
        tensors = self._place(entries, data_offset, alignment)
        return GGUFHeader(
            path=self.path,
            size=self.size,
            version=version,
            alignment=alignment,
            data_offset=data_offset,
            metadata=MappingProxyType(metadata),
            tensors=MappingProxyType(tensors),
        )

    def error(self, message: str, hint: str | None = None) -> GGUFError:
        return GGUFError(f"{self.path.name}: {message}", hint=hint)

    # -- primitives ---------------------------------------------------------------------------------------------

    def _number(self, kind: struct.Struct, what: str) -> Any:
        try:
            (value,) = kind.unpack_from(self.data, self.position)
        except struct.error:
            raise self.error(f"truncated: the file ends inside the {what}") from None
        self.position += kind.size
        return value

    def _string(self, what: str, limit: int | None = None) -> str:
        length = self._number(_U64, f"length of {what}")
        if limit is not None and length > limit:
            raise self.error(f"{what} is {length} bytes long, more than the {limit} the format allows")
        end = self.position + length
        if end > self.size:
            raise self.error(f"{what} claims {length} bytes; the file ends before that")
        raw = self.data[self.position : end]
        self.position = end
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{what} is not UTF-8: {raw[:40]!r}") from None

    def _check_count(self, what: str, count: int, limit: int, smallest: int) -> None:
        room = (self.size - self.position) // smallest
        if count > min(limit, room):
            reason = f"{self.size} bytes cannot hold them" if count > room else f"more than {limit}"
            raise self.error(f"the header announces {count} {what}: {reason}")

    # -- parts --------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        version: int = self._number(_U32, "version")
        if version in (2, 3):
            return version
        if version and not version & 0xFFFF:
            raise self.error("big-endian GGUF (made for s390x)", "Convert the model again on a little-endian machine.")
        if version == 1:
            raise self.error("GGUF version 1, which llama.cpp no longer reads", "Convert the model again.")
        raise self.error(f"GGUF version {version}; versions 2 and 3 are known")

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for index in range(count):
            key = self._string(f"metadata key {index}", MAX_KEY_BYTES)
            if not key:
                raise self.error(f"metadata key {index} is empty")
            if key in metadata:
                raise self.error(f"duplicate metadata key {key!r}")
            metadata[key] = self._value(key)
        return metadata

    def _value(self, key: str) -> Any:
        kind = self._number(_U32, f"type of {key!r}")
        if kind == _STRING:
            return self._string(f"the value of {key!r}")
        if kind == _ARRAY:
            return self._array(key)
        if (scalar := _SCALARS.get(kind)) is None:
            raise self.error(f"metadata {key!r} has unknown value type {kind}")
        return self._number(scalar, f"value of {key!r}")

    def _array(self, key: str) -> Sequence[Any]:
        kind = self._number(_U32, f"element type of {key!r}")
        length = self._number(_U64, f"length of {key!r}")
        start = self.position
        if kind == _STRING:
            end = self._skip_strings(key, length)
        elif (scalar := _SCALARS.get(kind)) is not None:
            end = start + length * scalar.size
        elif kind == _ARRAY:
            raise self.error(f"metadata {key!r} is an array of arrays, which llama.cpp does not read either")
        else:
            raise self.error(f"metadata {key!r} is an array of unknown type {kind}")
        if end > self.size:
            raise self.error(f"array {key!r} claims {length} elements; the file ends before that")
        self.position = end
        if length <= EAGER_LENGTH:
            return _decode_array(self.data, start, kind, length, key, self.path)
        return LazyArray(self.path, key, kind, length, start, end - start)

    def _skip_strings(self, key: str, length: int) -> int:
        if length > self.strings_left or length > (self.size - self.position) // 8:
            raise self.error(f"array {key!r} claims {length} strings, more than the file can hold or anybody needs")
        self.strings_left -= length
        # The one loop that counts: a vocabulary has 10^5 tokens and more merges.
        data, position, unpack = self.data, self.position, _U64.unpack_from
        try:
            for _ in range(length):
                position += 8 + unpack(data, position)[0]
        except (struct.error, OverflowError):
            raise self.error(f"truncated: the file ends inside the array {key!r}") from None
        return position

    def _alignment(self, metadata: Mapping[str, Any]) -> int:
        value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value & (value - 1):
            raise self.error(f"general.alignment is {value!r}, not a power of two")
        return value

    def _tensor_table(self, count: int) -> list[TensorInfo]:
        """The entries with `offset` still relative to the data section."""
        entries: list[TensorInfo] = []
        names: set[str] = set()
        for index in range(count):
            name = self._string(f"the name of tensor {index}", MAX_TENSOR_NAME_BYTES)
            if name in names:
                raise self.error(f"duplicate tensor name {name!r}")
            names.add(name)
            dimensions = self._number(_U32, f"dimension count of tensor {name!r}")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise self.error(f"tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
            shape = tuple(self._number(_U64, f"shape of tensor {name!r}") for _ in range(dimensions))
            kind = self._tensor_type(name, self._number(_U32, f"type of tensor {name!r}"))
            offset = self._number(_U64, f"offset of tensor {name!r}")
            entries.append(TensorInfo(name, shape, kind, offset, self._tensor_bytes(name, shape, kind)))
        return entries

    def _tensor_type(self, name: str, type_id: int) -> GGMLType:
        if type_id in REMOVED_TYPES:
            raise self.error(
                f"tensor {name!r} is stored as {REMOVED_TYPES[type_id]}, which llama.cpp no longer reads",
                "Quantize the model again with a current llama.cpp.",
            )
        try:
            return GGMLType(type_id)
        except ValueError:
            raise self.error(f"tensor {name!r} has unknown type {type_id}") from None

    def _tensor_bytes(self, name: str, shape: tuple[int, ...], kind: GGMLType) -> int:
        if 0 in shape:
            raise self.error(f"tensor {name!r} has an empty dimension: {shape}")
        if shape[0] % kind.block_size:
            raise self.error(f"tensor {name!r}: rows of {shape[0]} are not whole {kind.name} blocks")
        return prod(shape) // kind.block_size * kind.block_bytes

    def _place(self, entries: list[TensorInfo], data_offset: int, alignment: int) -> dict[str, TensorInfo]:
        """Entries with absolute offsets, each aligned, inside the file, and apart from the others."""
        previous_end, previous_name = 0, ""
        for entry in sorted(entries, key=lambda entry: entry.offset):
            if entry.offset % alignment:
                raise self.error(f"tensor {entry.name!r}: offset {entry.offset} is not a multiple of {alignment}")
            if entry.offset < previous_end:
                raise self.error(f"tensors {previous_name!r} and {entry.name!r} overlap")
            previous_end, previous_name = entry.offset + entry.nbytes, entry.name
            if data_offset + previous_end > self.size:
                missing = data_offset + previous_end - self.size
                raise self.error(
                    f"truncated: tensor {entry.name!r} ends {missing} bytes past the end of the file",
                    "Download or copy the file again.",
                )
        return {e.name: TensorInfo(e.name, e.shape, e.type, data_offset + e.offset, e.nbytes) for e in entries}


def _decode_array(data: bytes | mmap.mmap, start: int, kind: int, length: int, key: str, path: Path) -> tuple[Any, ...]:
    if kind != _STRING:
        return struct.unpack_from(f"<{length}{_SCALARS[kind].format[-1]}", data, start)
    values: list[str] = []
    position = start
    for index in range(length):
        begin = position + 8
        position = begin + _U64.unpack_from(data, position)[0]
        raw = data[begin:position]
        try:
            values.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise GGUFError(f"{path.name}: element {index} of {key!r} is not UTF-8: {raw[:40]!r}") from None
    return tuple(values)
