"""A tensor's bytes as they are stored, without numpy: for the few small tensors that describe a model."""

from __future__ import annotations

from migrate.errors import GGUFError
from migrate.gguf.contents import GGUFHeader, TensorInfo


def read_raw(header: GGUFHeader, info: TensorInfo) -> bytes:
    """All `info.nbytes` bytes of a tensor, from the part it is in.

    Raises GGUFError when the file cannot be read, or has become shorter since its header was.
    """
    path = header.files[info.file]
    try:
        with path.open("rb") as file:
            file.seek(info.offset)
            data = file.read(info.nbytes)
    except OSError as error:
        raise GGUFError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) != info.nbytes:
        raise GGUFError(f"{path.name}: the file shrank while {info.name!r} was being read")
    return data
