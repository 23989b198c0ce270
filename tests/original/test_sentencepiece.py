"""tokenizer.model: read as the sentencepiece library reads it, compared with a GGUF, and damaged."""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate import architectures
from migrate.errors import BadInput
from migrate.gguf.header import read_header
from migrate.original.prove import Proof, Verdict, prove
from migrate.original.repository import Directory
from migrate.original.sentencepiece import read_pieces


@pytest.mark.parametrize("model", ["mistral", "gemma2", "gemma4"])
def test_pieces_are_those_of_the_library(shared: Path, model: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared / "models" / model / "hf" / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = read_pieces(path.read_bytes(), path.name)
    assert [piece.text for piece in pieces] == [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    assert [piece.score for piece in pieces] == [processor.get_score(i) for i in range(processor.get_piece_size())]


@given(st.binary(max_size=200))
def test_anything_else_is_an_error_or_pieces(data: bytes) -> None:
    with contextlib.suppress(BadInput):
        assert read_pieces(data, "x")


@pytest.mark.parametrize("data", [b"", b"\x0a", b"\x0a\x7fshort", b"\x0a\x03\x0a\x01\xff", b"\xff" * 30, b"\x10\x01"])
def test_damage_is_named(data: bytes) -> None:
    with pytest.raises(BadInput, match="x: not a SentencePiece model"):
        read_pieces(data, "x")


def proof_with(shared: Path, target: Path, change: Callable[[bytes], bytes]) -> Proof:
    """The proof of the shared Mistral, whose original has no tokenizer.json, with another tokenizer.model."""
    shutil.copytree(shared / "models" / "mistral" / "hf", target)
    path = target / "tokenizer.model"
    path.write_bytes(change(path.read_bytes()))
    gguf = shared / "models" / "mistral" / "gguf" / "model-bf16.gguf"
    return prove(architectures.read(read_header(gguf)), Directory(target))


def test_an_original_without_tokenizer_json(shared: Path, tmp_path: Path) -> None:
    proof = proof_with(shared, tmp_path / "same", lambda data: data)
    assert proof.verdict is Verdict.PROVED
    assert {check.name: check.equal for check in proof.checks if check.name in ("tokenizer", "scores")} == {
        "tokenizer": True,
        "scores": True,
    }


def test_another_vocabulary_is_no_original(shared: Path, tmp_path: Path) -> None:
    pieces = read_pieces((shared / "models" / "mistral" / "hf" / "tokenizer.model").read_bytes(), "mistral")
    text = pieces[400].text.encode()
    other = proof_with(shared, tmp_path / "text", lambda data: data.replace(text, text[:-1] + b"#"))
    assert other.verdict is Verdict.RELATED
    assert "tokenizer" in other.reason
    score = struct.pack("<f", pieces[400].score)
    scores = proof_with(shared, tmp_path / "score", lambda data: data.replace(score, struct.pack("<f", -9999.0)))
    assert scores.verdict is Verdict.RELATED
    assert "scores" in scores.reason


def test_a_token_that_the_class_appends(shared: Path) -> None:
    """transformers gives a Qwen2 tokenizer without <|endoftext|> one; the converter wrote it into the GGUF."""
    directory = shared / "models" / "qwen2"
    layout = architectures.read(read_header(directory / "gguf" / "model-bf16.gguf"))
    assert prove(layout, Directory(directory / "hf")).verdict is Verdict.PROVED
