"""The tokenizer of a bundle, in this process: token counts and ids without asking the server.

The same tokenizer.json that vLLM reads; `verify` (in `upstreams`) holds it to the server's /tokenize before a model is
served.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.errors import BadInput, NotFound
from migrate.gateway.types import ApiError
from migrate.parity.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

THREAD_CHARACTERS = 16_000
"""A text longer than this is tokenized beside the event loop: about 5 ms on one core."""


@dataclass(frozen=True)
class Tokens:
    """`bos` and `eos`: text of these tokens, "" for none. `special`: added tokens that are not printed, with ids."""

    tokenizer: Tokenizer
    path: Path
    bos: str
    eos: str
    special: dict[str, int]

    def encode(self, text: str) -> list[int]:
        """Ids without any token the tokenizer would put around it; special tokens in the text are taken as such."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    async def encode_beside(self, text: str) -> list[int]:
        """The same, off the event loop when it would take long."""
        if len(text) <= THREAD_CHARACTERS:
            return self.encode(text)
        return await asyncio.to_thread(self.encode, text)

    def around(self) -> int:
        """How many special tokens the tokenizer puts around a text by itself."""
        return len(self.tokenizer.encode("", add_special_tokens=True).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included. Raises ApiError 400 for a number that is no token."""
        if not all(0 <= number < self.size for number in ids):
            raise ApiError(400, "a number of the context is no token of the model")
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @cached_property
    def size(self) -> int:
        return int(self.tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """id -> bytes, for logprobs."""
        return read_vocabulary(self.path)


def read_tokens(model_dir: Path) -> Tokens:
    """Of a bundle's model directory. Raises NotFound, or BadInput for a damaged file."""
    from tokenizers import Tokenizer

    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise NotFound(f"{path}: no such file", hint="the bundle's model directory is incomplete: convert again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise BadInput(f"{path}: not a tokenizer.json: {error}", hint="convert the model again") from None
    config = _json(model_dir / "tokenizer_config.json")
    special = {
        token.content: int(number) for number, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    return Tokens(tokenizer, path, _text(config.get("bos_token")), _text(config.get("eos_token")), special)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}", hint="convert the model again") from None
    return content if isinstance(content, dict) else {}


def _text(token: Any) -> str:
    """A special token in tokenizer_config.json is a text or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
