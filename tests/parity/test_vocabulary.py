from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from migrate.errors import BadInput, NotFound
from migrate.parity.vocabulary import _byte_level, read_vocabulary

TEXTS = ["What is 3+4?", "Übersetze «naïve café» ins 日本語 🎉", "  def f(x):\n\treturn 1", "ñ e\u0301"]


@pytest.mark.parametrize("model", ["tinychat", "llama3rope", "qwen2", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_put_together_are_the_text(model: str, text: str, shared: Path) -> None:
    path = shared / "models" / model / "hf" / "tokenizer.json"
    vocabulary = read_vocabulary(path)
    ids = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert vocabulary.text(ids).removeprefix(" ") == text.removeprefix(" ")


def test_tokens_by_their_bytes(shared: Path) -> None:
    vocabulary = read_vocabulary(shared / "models" / "tinychat" / "hf" / "tokenizer.json")
    assert vocabulary.id_of(b" is") == 266
    assert vocabulary.id_of(b"") is None
    assert vocabulary.id_of(b"<|im_end|>") is None, "special tokens are not text"
    assert vocabulary.special >= {730, 732, 733}
    assert vocabulary.show(733) == "<|im_end|>"
    assert vocabulary.show(266) == "' is'"
    assert vocabulary.show(None) == "(unknown)"
    assert vocabulary.text([266, 733]) == " is"
    assert vocabulary.show_all([266, 733]) == " is<|im_end|>"


@given(st.binary(max_size=20))
def test_byte_level_spelling_is_undone(content: bytes) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    spelled = "".join(_SPELLING[byte] for byte in content)
    assert _byte_level(spelled) == content
    assert tokenizer.decoder.decode([spelled]) == content.decode("utf-8", "replace")


def _spelling() -> dict[int, str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return {_byte_level(character)[0]: character for character in ByteLevel.alphabet()}


_SPELLING = _spelling()


def test_every_byte_has_a_spelling() -> None:
    assert sorted(_SPELLING) == list(range(256))


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model":{}}', '{"model":{"vocab":{"a":"x"}}}', "{" * 100_000])
def test_what_is_no_tokenizer(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(NotFound):
        read_vocabulary(path)
    path.write_text(content)
    with pytest.raises(BadInput, match=r"not a tokenizer\.json"):
        read_vocabulary(path)


def test_ambiguous_bytes_name_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    vocab = {"a": 0, "\u2581a": 1, "<0x61>": 2, "<0x0A>": 3}
    path.write_text(
        json.dumps({"model": {"vocab": vocab}, "added_tokens": [{"id": 4, "content": "</s>", "special": True}]})
    )
    vocabulary = read_vocabulary(path)
    assert vocabulary.id_of(b"a") is None
    assert vocabulary.id_of(b" a") == 1
    assert vocabulary.id_of(b"\n") == 3
