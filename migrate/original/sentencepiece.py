"""The pieces of a `tokenizer.model`: SentencePiece's protobuf, as far as a vocabulary needs it. Standard library only.

ModelProto has the pieces as field 1, each a message of its own: piece (1, text), score (2, float), type (3, number).
Everything else in it is skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from migrate.errors import BadInput

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
MAX_PIECES = 1 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float


def read_pieces(data: bytes, name: str) -> list[Piece]:
    """The pieces in order of their ids. Raises BadInput when `data` is no SentencePiece model."""
    pieces: list[Piece] = []
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                pieces.append(_piece(value))
            if len(pieces) > MAX_PIECES:
                raise BadInput(f"{name}: more than {MAX_PIECES} pieces")
    except (ValueError, IndexError, struct.error):
        raise BadInput(f"{name}: not a SentencePiece model") from None
    if not pieces:
        raise BadInput(f"{name}: not a SentencePiece model: there are no pieces in it")
    return pieces


def _piece(data: bytes) -> Piece:
    text, score = "", 0.0
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif field == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
    return Piece(text, score)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of the fields of a message; numbers of fixed width as their bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("the message ends early")
        yield field, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the position behind it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
