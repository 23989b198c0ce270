"""One pass over the header of one GGUF file. Standard library only.

Format (ggml/docs/gguf.md), little-endian: magic "GGUF", u32 version, u64 tensor count, u64 metadata count, the
metadata (key, type, value), the tensor table (name, dimensions, type, offset), padding, the data. Versions 2 and 3 are
the same here. Everything is checked before it is believed: a count is compared with what the file could hold before
anything is allocated for it, every offset with the size of the file, and the whole with what any real model has.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from migrate.errors import GGUFError, NotFound
from migrate.gguf.arrays import ARRAY, SCALARS, STRING, U32, U64, LazyArray, decode_array
from migrate.gguf.contents import GGUFHeader, TensorInfo
from migrate.gguf.types import REMOVED_TYPES, GGMLType

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

MAX_KEY_BYTES = 65_535
MAX_TENSOR_NAME_BYTES = 64
MAX_DIMENSIONS = 4
MAX_METADATA = 1 << 14
MAX_TENSORS = 1 << 16
MAX_ELEMENTS = 1 << 22
"""Array elements in the whole file. The largest real vocabularies have a quarter of a million tokens and twice as many
merges; the bound keeps the time to walk a hostile file below a second."""
MAX_VALUE_BYTES = 1 << 27
"""Bytes of all metadata values together. Real files have tens of megabytes."""
EAGER_LENGTH = 256
"""Arrays up to this length are read at once, as a tuple; longer ones when somebody looks at them."""

# Smallest possible entry: key or name (u64 length and one byte), type, and one byte of value / one dimension, offset.
_MIN_METADATA_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8


def parse_file(path: Path) -> GGUFHeader:
    """The header of one file, whether whole or part of a model.

    Raises:
        NotFound: there is no such file.
        GGUFError: the file is not a GGUF, is damaged, or is of a version that cannot be read.
    """
    try:
        with _open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            _check_magic(path, file, size)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _Parser(path, mapped, size).parse()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open_regular(path: Path) -> BinaryIO:
    """Opens files only: a named pipe would wait for its writer."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise GGUFError(f"{path}: cannot be read: it is no regular file")
    return path.open("rb")


def _check_magic(path: Path, file: BinaryIO, size: int) -> None:
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
        self.elements_left, self.bytes_left = MAX_ELEMENTS, MAX_VALUE_BYTES

    def parse(self) -> GGUFHeader:
        version = self._version()
        tensor_count, metadata_count = self._number(U64, "tensor count"), self._number(U64, "metadata count")
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
        length = self._number(U64, f"length of {what}")
        if limit is not None and length > limit:
            raise self.error(f"{what} is {length} bytes long, more than the {limit} the format allows")
        end = self._extent(what, self.position, length)
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

    def _extent(self, what: str, start: int, length: int) -> int:
        """The end of `length` bytes, which are in the file and, with all before, no more than any model needs."""
        if start + length > self.size:
            raise self.error(f"{what} claims {length} bytes; the file ends before that")
        self.bytes_left -= length
        if self.bytes_left < 0:
            raise self.error(f"{what} claims {length} bytes; metadata of more than {MAX_VALUE_BYTES} bytes is not read")
        return start + length

    # -- parts --------------------------------------------------------------------------------------------------

    def _version(self) -> int:
        version: int = self._number(U32, "version")
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
        kind = self._number(U32, f"type of {key!r}")
        if kind == STRING:
            return self._string(f"the value of {key!r}")
        if kind == ARRAY:
            return self._array(key)
        if (scalar := SCALARS.get(kind)) is None:
            raise self.error(f"metadata {key!r} has unknown value type {kind}")
        return self._number(scalar, f"value of {key!r}")

    def _array(self, key: str) -> Sequence[Any]:
        kind = self._number(U32, f"element type of {key!r}")
        length = self._number(U64, f"length of {key!r}")
        if kind == ARRAY:
            raise self.error(f"metadata {key!r} is an array of arrays, which llama.cpp does not read either")
        if kind != STRING and kind not in SCALARS:
            raise self.error(f"metadata {key!r} is an array of unknown type {kind}")
        smallest = 8 if kind == STRING else SCALARS[kind].size
        if length > (self.size - self.position) // smallest:
            raise self.error(f"array {key!r} claims {length} elements; the file ends before that")
        if length > self.elements_left:
            raise self.error(f"array {key!r} claims {length} elements, more than any tokenizer needs")
        self.elements_left -= length
        start = self.position
        end = self._end_of_strings(key, length) if kind == STRING else start + length * smallest
        self.position = self._extent(f"array {key!r}", start, end - start)
        if length <= EAGER_LENGTH:
            return decode_array(self.data, start, kind, length, key, self.path)
        return LazyArray(self.path, key, kind, length, start, end - start)

    def _end_of_strings(self, key: str, length: int) -> int:
        # The one loop that counts: a vocabulary has 10^5 tokens and more merges.
        data, position, unpack = self.data, self.position, U64.unpack_from
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
            dimensions = self._number(U32, f"dimension count of tensor {name!r}")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise self.error(f"tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
            shape = tuple(self._number(U64, f"shape of tensor {name!r}") for _ in range(dimensions))
            kind = self._tensor_type(name, self._number(U32, f"type of tensor {name!r}"))
            offset = self._number(U64, f"offset of tensor {name!r}")
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
