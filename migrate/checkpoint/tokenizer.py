"""A Hugging Face tokenizer that gives the token ids llama.cpp gives.

`tokenizer.json` is built with the `tokenizers` library from the GGUF's vocabulary; `tokenizer_config.json` names the
special tokens. The chat template is somebody else's business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from migrate.errors import NotFound
from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader
from migrate.gguf.pretokenizers import PreTokenizer
from migrate.gguf.vocab import NORMAL, USER_DEFINED, Vocabulary, adds_bos, read_vocabulary

__all__ = ["adds_bos", "build_tokenizer", "load_tokenizer", "tokenizer_config", "tokenizer_of", "write_tokenizer"]

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"
_SPACE = "▁"
_NOT_STRIPPED = frozenset({"<unk>", "<s>", "<|endoftext|>"})


def build_tokenizer(header: GGUFHeader) -> Tokenizer:
    """The tokenizer of a GGUF. Raises GGUFError or Refused as `read_vocabulary`."""
    return tokenizer_of(read_vocabulary(header))[0]


def load_tokenizer(model_dir: Path) -> Tokenizer:
    """The tokenizer of a checkpoint directory. Raises NotFound."""
    path = model_dir / TOKENIZER_FILE
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    return tokenizer


def write_tokenizer(header: GGUFHeader, directory: Path) -> tuple[list[str], list[Finding]]:
    """Write tokenizer.json and tokenizer_config.json; the names written, and what had to be decided."""
    vocabulary = read_vocabulary(header)
    tokenizer, findings = tokenizer_of(vocabulary)
    tokenizer.save(str(directory / TOKENIZER_FILE))
    text = json.dumps(tokenizer_config(vocabulary, header), indent=2, ensure_ascii=False)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return [TOKENIZER_FILE, CONFIG_FILE], [*vocabulary.findings, *findings]


def tokenizer_config(vocabulary: Vocabulary, header: GGUFHeader) -> dict[str, Any]:
    """`tokenizer_config.json`. The class is the one that takes tokenizer.json as it is, in transformers 4 and 5."""
    config: dict[str, Any] = {"clean_up_tokenization_spaces": False}
    for name in ("bos", "eos", "pad", "unk"):
        text = vocabulary.text(getattr(vocabulary, name))
        if text is not None:
            config[f"{name}_token"] = text
    length = header.field("context_length")
    if isinstance(length, int):
        config["model_max_length"] = length
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def tokenizer_of(vocabulary: Vocabulary) -> tuple[Tokenizer, list[Finding]]:
    """The tokenizer, and findings about what could not be carried over exactly."""
    findings: list[Finding] = []
    tokenizer = _sentencepiece(vocabulary, findings) if vocabulary.model == "spm" else _byte_level(vocabulary, findings)
    tokenizer.add_tokens(_added_tokens(vocabulary))
    tokenizer.add_special_tokens([token for token in _added_tokens(vocabulary) if token.special])
    if processor := _post_processor(vocabulary):
        tokenizer.post_processor = processor
    return tokenizer, findings


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {text: i for i, text in enumerate(vocabulary.tokens)}


def _byte_level(vocabulary: Vocabulary, findings: list[Finding]) -> Tokenizer:
    assert vocabulary.pre is not None
    ids = _ids(vocabulary)
    pairs = [_split_merge(merge) for merge in vocabulary.merges]
    merges = [(a, b) for a, b in pairs if a in ids and b in ids and a + b in ids]
    if len(merges) < len(pairs):
        reason = f"{len(pairs) - len(merges)} merges name tokens that are not in the vocabulary"
        findings.append(Finding("tokenizer.ggml.merges", Status.APPROXIMATE, str(len(pairs)), str(len(merges)), reason))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, ignore_merges=vocabulary.pre.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split_merge(merge: str) -> tuple[str, str]:
    """A merge is two texts and a space between them; the first may itself be a space."""
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else ("", "")


def _pre_tokenizer(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    cuts = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in pre.expressions]
    return pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece(vocabulary: Vocabulary, findings: list[Finding]) -> Tokenizer:
    """SentencePiece BPE as in Llama 2 and Mistral: spaces are "▁", unknown characters fall back to byte tokens."""
    ids = _ids(vocabulary)
    merges = list(_merges_from_scores(vocabulary, ids))
    findings.extend(_equal_scores(vocabulary, merges, ids))
    unk = vocabulary.text(vocabulary.unk)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    decoding: list[decoders.Decoder] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.add_space_prefix:
        # In front of every stretch of text: at the beginning, and again after each special token.
        steps.insert(0, normalizers.Prepend(_SPACE))
        decoding.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(decoding)
    return tokenizer


def _merges_from_scores(vocabulary: Vocabulary, ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Merges in the order SentencePiece makes them: the pair whose result has the highest score first."""
    by_score = sorted(range(len(vocabulary.tokens)), key=lambda i: -vocabulary.scores[i])
    for token in by_score:
        text = vocabulary.tokens[token]
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in ids and right in ids:
                yield left, right


def _equal_scores(vocabulary: Vocabulary, merges: list[tuple[str, str]], ids: dict[str, int]) -> list[Finding]:
    """Between results of equal score llama.cpp takes the leftmost pair; a list of merges cannot say that.

    Files made from a tokenizer.json alone have one score for all: there the order of ids is the order of the model's
    own merges, and what is built here is the original tokenizer rather than llama.cpp's approximation of it.
    """
    results = {ids[left + right] for left, right in merges}
    scored = [vocabulary.scores[i] for i in results if vocabulary.types[i] == NORMAL]
    if not (equal := len(scored) - len(set(scored))):
        return []
    reason = f"{equal} tokens share their score with another: which of two overlapping ones is made first may differ"
    return [Finding("tokenizer.ggml.scores", Status.APPROXIMATE, f"{len(scored)} merged tokens", "", reason)]


def _added_tokens(vocabulary: Vocabulary) -> list[AddedToken]:
    """Tokens found in the text as they stand. Control tokens are special: they are left out when text is shown."""
    return [
        AddedToken(
            vocabulary.tokens[i],
            normalized=False,
            special=vocabulary.types[i] != USER_DEFINED,
            rstrip=vocabulary.strips_right and vocabulary.tokens[i] not in _NOT_STRIPPED,
        )
        for i in vocabulary.matched_in_text()
    ]


def _post_processor(vocabulary: Vocabulary) -> processors.PostProcessor | None:
    """Adds BOS and EOS exactly where llama.cpp does."""
    before = [("bos", vocabulary.bos)] if vocabulary.add_bos else []
    after = [("eos", vocabulary.eos)] if vocabulary.add_eos else []
    specials = {}
    for role, token in (*before, *after):
        assert token is not None, "read_vocabulary does not let this pass"
        text = vocabulary.tokens[token]
        # Pieces are written NAME:SEQUENCE; the name is the token's text unless that has a colon itself.
        specials[role] = {"id": role if ":" in text else text, "ids": [token], "tokens": [text]}
    if not specials:
        return None

    def around(sequence: str, number: int) -> list[str]:
        pieces = [f"{specials[role]['id']}:{number}" for role, _ in before]
        return [*pieces, f"${sequence}:{number}", *(f"{specials[role]['id']}:{number}" for role, _ in after)]

    single, second = around("A", 0), around("B", 1)
    return processors.TemplateProcessing(single=single, pair=[*single, *second], special_tokens=list(specials.values()))
