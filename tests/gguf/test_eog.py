"""Which tokens end a generation, held to llama.cpp's own list for the models at hand."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from migrate.gguf.eog import end_token_ids, special_tokens
from migrate.gguf.header import GGUFHeader, read_header
from migrate.gguf.vocab import CONTROL


def header(tokens: list[str], **metadata: Any) -> GGUFHeader:
    content = {"general.architecture": "llama", "tokenizer.ggml.tokens": tuple(tokens)}
    content |= {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return GGUFHeader(Path("x.gguf"), 0, 3, 32, 0, MappingProxyType(content), MappingProxyType({}))


@pytest.mark.parametrize(
    ("tokens", "metadata", "expected"),
    [
        (["a", "</s>"], {"eos_token_id": 1}, [1]),
        (["a", "b"], {"eos_token_id": 1}, [1]),
        (["<|im_end|>", "a", "<|endoftext|>"], {"eos_token_id": 2}, [2, 0]),
        (["<|im_end|>", "a", "<|eot_id|>"], {}, [0, 2]),
        (["a", "b", "c"], {"eos_token_id": 0, "eot_token_id": 2, "eom_token_id": 1}, [0, 1, 2]),
        (["a"], {"eos_token_id": 7}, []),
        (["a", "<|fim_pad|>", "<fim_pad>", "<|file_sep|>"], {"eos_token_id": 0}, [0, 1, 3]),
        (["<|return|>", "<|call|>", "<|end|>"], {"eos_token_id": 0}, [0, 1]),
        (["<|end|>"], {"eos_token_id": 0}, [0]),
        (["<|tool_response>", "</s>", "<turn|>"], {"eos_token_id": 2}, [2, 0]),
    ],
)
def test_end_tokens(tokens: list[str], metadata: dict[str, int], expected: list[int]) -> None:
    assert end_token_ids(header(tokens, **metadata)) == expected


def test_of_a_real_file(shared: Path) -> None:
    tinychat = read_header(shared / "models/tinychat/gguf/tinychat-f16.gguf")
    assert end_token_ids(tinychat) == [733, 731]
    special = special_tokens(tinychat)
    assert special["<|im_end|>"] == (733, CONTROL)
    assert special["<|im_start|>"] == (732, CONTROL)
