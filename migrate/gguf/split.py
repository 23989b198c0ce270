"""Models in several files, as llama-gguf-split writes them.

Each part is a GGUF of its own with some of the tensors. Three keys tie them together: `split.no` (from 0),
`split.count` and `split.tensors.count` (of all parts). The first part has the model's metadata, the others only these
keys. Their names are PREFIX-00001-of-00003.gguf, counted from 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from migrate.errors import GGUFError
from migrate.gguf.contents import GGUFHeader, TensorInfo
from migrate.gguf.parser import parse_file

MAX_PARTS = 512
"""All parts are open at once while tensors are read; most systems let a process have 1,024 files open."""

_PART = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def with_siblings(header: GGUFHeader) -> GGUFHeader:
    """`header` itself, or, for a part named as parts are, all parts of the model joined.

    Raises GGUFError: a part is missing, damaged or of another model.
    """
    path, count = header.path, header.split_count
    if count == 1:
        return header
    _check_count(header)
    name = _PART.fullmatch(path.name)
    if name is None:
        return header
    number, named_count = int(name["number"]), int(name["count"])
    if (number, named_count) != (found := _number(header) + 1, count):
        raise GGUFError(
            f"{path.name}: the name says part {number} of {named_count}, the file says {found} of {count}",
            hint="Give the parts the names they were made with.",
        )
    paths = [path.with_name(f"{name['prefix']}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    _check_present(path, paths)
    return join_headers([header if part == path else parse_file(part) for part in paths])


def join_headers(headers: Sequence[GGUFHeader]) -> GGUFHeader:
    """One header for a model whose parts were read one by one, in any order. A whole file alone is returned as it is.

    Raises GGUFError: a part is missing or there twice, a file is no part of this model, two parts have a tensor of the
    same name, or the tensors are not as many as the parts say.
    """
    if len(headers) == 1 and headers[0].is_complete:
        return headers[0]
    if not headers:
        raise ValueError("no headers to join")
    _check_count(headers[0])
    count = headers[0].split_count
    parts: dict[int, GGUFHeader] = {}
    for header in headers:
        _check_belongs(header, headers[0])
        number = _number(header)
        if number in parts:
            raise GGUFError(f"{parts[number].path.name} and {header.path.name} are both part {number + 1} of {count}")
        parts[number] = header
    if missing := [str(n + 1) for n in range(count) if n not in parts]:
        raise GGUFError(f"{headers[0].path.name}: one of {count} parts; missing: part {_some(missing)}")
    return _joined([parts[n] for n in range(count)])


def _joined(parts: Sequence[GGUFHeader]) -> GGUFHeader:
    first = parts[0]
    tensors: dict[str, TensorInfo] = {}
    for index, part in enumerate(parts):
        for name, info in part.tensors.items():
            if name in tensors:
                where = f"{parts[tensors[name].file].path.name} and {part.path.name}"
                raise GGUFError(f"duplicate tensor name {name!r}: it is in {where}")
            tensors[name] = replace(info, file=index)
    for part in parts:
        announced = part.metadata.get("split.tensors.count", len(tensors))
        if announced != len(tensors):
            raise GGUFError(
                f"{part.path.name}: the parts should have {announced} tensors together, they have {len(tensors)}",
                hint="Some parts are of another model, or were not copied completely.",
            )
    return replace(first, tensors=MappingProxyType(tensors), files=tuple(part.path for part in parts))


def _check_count(header: GGUFHeader) -> None:
    if header.split_count > MAX_PARTS:
        raise GGUFError(f"{header.path.name}: one of {header.split_count} parts; more than {MAX_PARTS} are not read")


def _check_belongs(header: GGUFHeader, first: GGUFHeader) -> None:
    if len(header.files) > 1:
        raise GGUFError(f"{header.path.name}: its parts have been joined already")
    if header.split_count != first.split_count:
        ours, theirs = (_described(each) for each in (first, header))
        raise GGUFError(f"{first.path.name} is {ours}, {header.path.name} is {theirs}: not parts of one model")


def _described(header: GGUFHeader) -> str:
    return "a whole file" if header.split_count == 1 else f"one of {header.split_count} parts"


def _number(header: GGUFHeader) -> int:
    """`split.no`, from 0."""
    number = header.metadata.get("split.no")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < header.split_count:
        raise GGUFError(f"{header.path.name}: one of {header.split_count} parts, but its split.no is {number!r}")
    return number


def _check_present(path: Path, paths: Iterable[Path]) -> None:
    missing = [part.name for part in paths if not part.is_file()]
    if missing:
        raise GGUFError(
            f"{path.name}: a model in parts, of which {len(missing)} cannot be found: {_some(missing)}",
            hint=f"Put all parts into {path.parent}.",
        )


def _some(items: Sequence[str]) -> str:
    shown = ", ".join(items[:3])
    return f"{shown} and {len(items) - 3} more" if len(items) > 3 else shown
