"""Token ids and the bytes they stand for, out of a tokenizer.json: the bridge to engines that tell no ids (Ollama)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from migrate.errors import BadInput, NotFound

MAX_BYTES = 256 << 20
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """`pieces`: id -> bytes in running text; `special`: ids that are never printed; `names`: id -> token as written."""

    pieces: dict[int, bytes]
    special: frozenset[int]
    names: dict[int, str]
    by_bytes: dict[bytes, int | None]
    """bytes -> id of the ordinary token, None where several tokens have the same bytes."""

    def id_of(self, text: bytes) -> int | None:
        """The one ordinary token with these bytes; None for special tokens and ambiguous bytes."""
        return self.by_bytes.get(text) if text else None

    def text(self, ids: Iterable[int]) -> str:
        """Running text of ids, without special tokens."""
        return b"".join(self.pieces.get(i, b"") for i in ids if i not in self.special).decode("utf-8", "replace")

    def show(self, token: int | None) -> str:
        """One token for people: quoted text, or the name of a special one."""
        if token is None:
            return "(unknown)"
        if token in self.special:
            return self.names[token]
        return repr(self.pieces.get(token, b"?").decode("utf-8", "replace"))

    def show_all(self, ids: Sequence[int]) -> str:
        return "".join(
            self.names[i] if i in self.special else self.pieces.get(i, b"?").decode("utf-8", "replace") for i in ids
        )


def read_vocabulary(path: Path) -> Vocabulary:
    """Of a tokenizer.json. Raises NotFound, or BadInput when it is damaged."""
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="the bundle's model directory is incomplete: convert again")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: larger than {MAX_BYTES >> 20} MiB")
    try:
        content = json.loads(path.read_bytes())
        return _vocabulary(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path}: not a tokenizer.json: {type(error).__name__}: {error}") from None


def _vocabulary(content: dict[str, Any]) -> Vocabulary:
    vocab = content["model"]["vocab"]
    names: dict[int, str] = (
        {int(i): str(token) for token, i in vocab.items()}
        if isinstance(vocab, dict)
        else {i: str(entry[0]) for i, entry in enumerate(vocab)}
    )
    byte_level = '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
    decode = _byte_level if byte_level else _sentencepiece
    pieces = {i: decode(name) for i, name in names.items()}
    special = set()
    for token in content.get("added_tokens") or []:
        i, text = int(token["id"]), str(token["content"])
        names[i], pieces[i] = text, text.encode()
        if token.get("special"):
            special.add(i)
    by_bytes: dict[bytes, int | None] = {}
    for i, piece in pieces.items():
        if i not in special:
            by_bytes[piece] = None if piece in by_bytes else i
    return Vocabulary(pieces, frozenset(special), names, by_bytes)


@cache
def _byte_of_character() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE uses for bytes: printable Latin-1 stands for itself, the others
    follow from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(0x100 + n): b for n, b in enumerate(others)}


def _byte_level(token: str) -> bytes:
    table = _byte_of_character()
    if all(character in table for character in token):
        return bytes(table[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    if found := _BYTE_TOKEN.fullmatch(token):
        return bytes([int(found[1], 16)])
    return token.replace("\u2581", " ").encode()
