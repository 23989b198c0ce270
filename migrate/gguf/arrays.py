"""Values of a GGUF's metadata: the scalar types, and arrays that are read when somebody looks at them."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from migrate.errors import GGUFError

STRING, ARRAY = 8, 9
SCALARS: dict[int, struct.Struct] = {
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
"""Value type id -> how it is stored."""
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")


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
        return self._type == STRING

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
            self._values = decode_array(data, 0, self._type, self._length, self._key, self._path)
        return self._values


def decode_array(data: bytes | mmap.mmap, start: int, kind: int, length: int, key: str, path: Path) -> tuple[Any, ...]:
    """The elements of an array whose extent has been checked.

    Raises GGUFError for a string that is not UTF-8, or that does not end where it did when it was checked.
    """
    if kind != STRING:
        return struct.unpack_from(f"<{length}{SCALARS[kind].format[-1]}", data, start)
    values: list[str] = []
    position = start
    for index in range(length):
        begin = position + 8
        try:
            position = begin + U64.unpack_from(data, position)[0]
        except struct.error:
            raise GGUFError(f"{path.name}: the file changed while {key!r} was being read") from None
        raw = data[begin:position]
        try:
            values.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            raise GGUFError(f"{path.name}: element {index} of {key!r} is not UTF-8: {raw[:40]!r}") from None
    return tuple(values)
