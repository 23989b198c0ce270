"""The header of a GGUF: metadata and the table of tensors. Standard library only, so that `inspect` starts fast.

header = read_header(Path("model-00001-of-00003.gguf"))   # any part: the others are found by name
header.get("general.name"), header.tensors["output.weight"].type
"""

from __future__ import annotations

from pathlib import Path

from migrate.gguf.arrays import LazyArray
from migrate.gguf.contents import GGUFHeader, TensorInfo, TypeShare
from migrate.gguf.parser import DEFAULT_ALIGNMENT, EAGER_LENGTH, MAGIC, parse_file
from migrate.gguf.raw import read_raw
from migrate.gguf.split import join_headers, with_siblings

__all__ = [
    "DEFAULT_ALIGNMENT",
    "EAGER_LENGTH",
    "MAGIC",
    "GGUFHeader",
    "LazyArray",
    "TensorInfo",
    "TypeShare",
    "join_headers",
    "read_header",
    "read_raw",
]


def read_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF. Touches only the header's pages, however large the file is.

    Of a model in parts (NAME-00001-of-00003.gguf) any part will do: the others are taken from the same directory and
    the result describes all of them. A part under another name (a blob of an Ollama store) is returned alone, with
    `is_complete` False; `join_headers` puts such parts together.

    Raises:
        NotFound: there is no such file.
        GGUFError: the file is not a GGUF, is damaged, or is of a version that cannot be read; a part is missing or
            does not belong to the others.
    """
    return with_siblings(parse_file(Path(path)))
