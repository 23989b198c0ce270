"""Does a candidate's tokenizer stand for the GGUF's vocabulary? Ids, texts, and the merges of BPE.

Of a tokenizer.json, or, in repositories that have none, of SentencePiece's tokenizer.model, whose scores take the place
of merges.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from migrate.checkpoint import adopted
from migrate.errors import BadInput, MigrateError, Refused
from migrate.gguf.header import GGUFHeader
from migrate.gguf.vocab import read_vocabulary
from migrate.original.repository import MAX_SMALL_BYTES, Repository, read_json
from migrate.original.sentencepiece import read_pieces

if TYPE_CHECKING:
    from migrate.original.prove import Check

FILE, PIECES_FILE = "tokenizer.json", "tokenizer.model"
_BY_CLASS = dict.fromkeys(("qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe"), "<|endoftext|>")
"""By model_type, the token that transformers' class appends to a tokenizer without it; a converter then saw it."""
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def check(header: GGUFHeader, repository: Repository) -> Iterator[Check]:
    """One or two checks: the vocabulary, and the merges where there are any."""
    from migrate.original.prove import Check

    content = read_json(repository, FILE, required=False)
    if content is None and PIECES_FILE in repository.sizes and header.get("tokenizer.ggml.model") == "llama":
        yield from _check_pieces(header, repository)
        return
    if content is None:
        others = [name for name in ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
                  if name in repository.sizes]  # fmt: skip
        yield Check("tokenizer", None, f"no {FILE} in it{f', only {others[0]}' if others else ''}")
        return
    try:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / FILE
            path.write_bytes(repository.read(FILE, 0, repository.sizes[FILE]))
            tokenizer = adopted.load(path)
        settings = read_json(repository, "tokenizer_config.json", required=False) or {}
        # transformers appends special tokens that tokenizer.json does not have.
        tokenizer.add_special_tokens([text for role in _ROLES if (text := _text(settings.get(role)))])
        tokenizer.add_special_tokens(_appended_by_class(header, repository))
        count = adopted.check_same_vocabulary(tokenizer, header, repository.name)
    except Refused as error:
        yield Check("tokenizer", False, str(error))
        return
    except BadInput:
        raise
    except MigrateError as error:
        yield Check("tokenizer", None, str(error))
        return
    yield Check("tokenizer", True, f"{count:,} ids stand for the same texts")
    ours, theirs = header.get("tokenizer.ggml.merges"), _merges(content)
    if ours and theirs is not None:
        same = list(ours) == theirs
        yield Check("merges", same, f"{len(theirs):,} merges" if same else "the merges of BPE are others")


def _appended_by_class(header: GGUFHeader, repository: Repository) -> list[str]:
    """At most one token, and only one that the GGUF has, too."""
    config = read_json(repository, "config.json", required=False) or {}
    text = _BY_CLASS.get(str(config.get("model_type")))
    return [text] if text is not None and text in header.get("tokenizer.ggml.tokens", ()) else []


def _check_pieces(header: GGUFHeader, repository: Repository) -> Iterator[Check]:
    """Against a tokenizer.model: texts by id, then scores, which decide what is merged first."""
    from migrate.original.prove import Check

    size = repository.sizes[PIECES_FILE]
    if size > MAX_SMALL_BYTES:
        raise BadInput(f"{repository.name}: {PIECES_FILE} has {size} bytes")
    pieces = read_pieces(repository.read(PIECES_FILE, 0, size), f"{repository.name}: {PIECES_FILE}")
    added = read_json(repository, "added_tokens.json", required=False) or {}
    known = dict(enumerate(piece.text for piece in pieces)) | {i: text for text, i in added.items()}
    vocabulary = read_vocabulary(header, known_pre=False)
    others = [
        (i, text)
        for i, text in enumerate(vocabulary.tokens)
        if known.get(i) != text and not (i not in known and adopted.is_padding(text))
    ]
    if others:
        i, text = others[0]
        reason = f"{repository.name}: id {i} is {known.get(i)!r}, in the GGUF it is {text!r}: another model's tokenizer"
        yield Check("tokenizer", False, reason)
        return
    yield Check("tokenizer", True, f"{len(vocabulary.tokens):,} ids stand for the same texts")
    ours = struct.pack(f"<{len(vocabulary.scores)}f", *vocabulary.scores)[: 4 * len(pieces)]
    same = ours == struct.pack(f"<{len(pieces)}f", *(piece.score for piece in pieces))[: len(ours)]
    yield Check("scores", same, f"{len(pieces):,} scores" if same else "the scores of its pieces are others")


def _merges(content: dict[str, Any]) -> list[str] | None:
    """Each as llama.cpp writes it: both halves with a space between."""
    model = content.get("model")
    merges: Sequence[Any] | None = model.get("merges") if isinstance(model, dict) else None
    if not merges:
        return None
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _text(token: Any) -> str | None:
    """Of an entry of tokenizer_config.json: a string, or an object with the string in it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
