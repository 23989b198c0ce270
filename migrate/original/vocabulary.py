"""Does a candidate's tokenizer.json stand for the GGUF's vocabulary? Ids, texts, and the merges of BPE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from migrate.checkpoint import adopted
from migrate.errors import BadInput, MigrateError, Refused
from migrate.gguf.header import GGUFHeader
from migrate.original.repository import Repository, read_json

if TYPE_CHECKING:
    from migrate.original.prove import Check

FILE = "tokenizer.json"
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def check(header: GGUFHeader, repository: Repository) -> Iterator[Check]:
    """One or two checks: the vocabulary, and the merges where there are any."""
    from migrate.original.prove import Check

    content = read_json(repository, FILE, required=False)
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
