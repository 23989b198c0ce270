"""A Hugging Face tokenizer that gives the token ids llama.cpp gives.

`tokenizer.json` is built with the `tokenizers` library from the GGUF's vocabulary; `tokenizer_config.json` names the
special tokens. The chat template is somebody else's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece

from migrate.errors import NotFound
from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader
from migrate.gguf.pretokenizers import PreTokenizer
from migrate.gguf.vocab import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    adds_bos,
    read_vocabulary,
)

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
    roles = {name: name for name in ("bos", "eos", "pad", "unk")}
    if vocabulary.model == "wpm":
        roles = {"cls": "bos", "sep": "sep", "pad": "pad", "unk": "unk", "mask": "mask"}
    elif vocabulary.mask is not None:
        roles |= {"mask": "mask"}
    for name, role in roles.items():
        text = vocabulary.text(getattr(vocabulary, role))
        if text is not None:
            config[f"{name}_token"] = text
    length = header.field("context_length")
    if isinstance(length, int):
        config["model_max_length"] = length
    return config | {"tokenizer_class": "PreTrainedTokenizerFast"}


def tokenizer_of(vocabulary: Vocabulary) -> tuple[Tokenizer, list[Finding]]:
    """The tokenizer, and findings about what could not be carried over exactly."""
    findings: list[Finding] = []
    tokenizer = _BUILDERS[vocabulary.model](vocabulary, findings)
    tokenizer.add_tokens(_added_tokens(vocabulary))
    tokenizer.add_special_tokens([token for token in _added_tokens(vocabulary) if token.special])
    if processor := _post_processor(vocabulary):
        tokenizer.post_processor = processor
    return tokenizer, findings


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {text: i for i, text in enumerate(vocabulary.tokens)}


def _bpe(vocabulary: Vocabulary, findings: list[Finding]) -> Tokenizer:
    assert vocabulary.pre is not None
    ids = _ids(vocabulary)
    pairs = [_split_merge(merge) for merge in vocabulary.merges]
    merges = [(a, b) for a, b in pairs if a in ids and b in ids and a + b in ids]
    if len(merges) < len(pairs):
        reason = f"{len(pairs) - len(merges)} merges name tokens that are not in the vocabulary"
        findings.append(Finding("tokenizer.ggml.merges", Status.APPROXIMATE, str(len(pairs)), str(len(merges)), reason))
    if vocabulary.pre.raw:
        return _raw_bpe(vocabulary, ids, merges)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, ignore_merges=vocabulary.pre.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _raw_bpe(vocabulary: Vocabulary, ids: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Gemma 4's: merges over whole lines of text with "▁" for spaces; what is no token falls back to byte tokens.

    A run of newlines is one token where there is one of that length, and else single newlines.
    """
    unk = vocabulary.text(vocabulary.unk)
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    lengths = sorted({len(text) for text in ids if text and not text.strip("\n")} - {1}, reverse=True)
    runs = "".join(rf"|(?<!\n)\n{{{length}}}(?!\n)" for length in lengths)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf"[^\n]+{runs}|\n"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _wordpiece(vocabulary: Vocabulary, findings: list[Finding]) -> Tokenizer:
    """BERT's, normalised as llama.cpp does it: marks of all kinds go with the accents, not only those without width.

    A GGUF marks tokens that begin a word with "▁", tokenizer.json those that continue one with "##".
    """
    special = {i for i, kind in enumerate(vocabulary.types) if kind in (CONTROL, UNKNOWN, UNUSED)}
    ids: dict[str, int] = {}
    for i, text in enumerate(vocabulary.tokens):
        ids[text if i in special else text[1:] if text.startswith(_SPACE) else f"##{text}"] = i
    unk = vocabulary.text(vocabulary.unk) or "[UNK]"
    tokenizer = Tokenizer(WordPiece(vocab=ids, unk_token=unk, max_input_chars_per_word=_LONGEST_WORD))
    steps: list[normalizers.Normalizer] = [normalizers.NFD()] if vocabulary.strip_accents else []
    steps.append(normalizers.Replace(Regex(rf"[\x00\ufffd]|(?![{_WHITE}])[\p{{Cc}}\p{{Cf}}\p{{Co}}\p{{Cs}}]"), ""))
    if vocabulary.strip_accents:
        steps.append(normalizers.Replace(Regex(r"\p{M}"), ""))
    if vocabulary.lowercase:
        steps.append(normalizers.Lowercase())
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"[{_WHITE}]+"), "removed"),
            pre_tokenizers.Split(Regex(rf"[\p{{P}}$+<=>^`|~{_CHINESE}]"), "isolated"),
            # A "▁" in the text begins a word for llama.cpp, which marks the beginnings of words with it.
            pre_tokenizers.Split(Regex("(?<=[^▁])▁(?=[^▁])"), "removed"),
        ]
    )
    tokenizer.decoder = decoders.WordPiece("##", cleanup=True)
    return tokenizer


def _unigram(vocabulary: Vocabulary, findings: list[Finding]) -> Tokenizer:
    """SentencePiece unigram as in T5 and XLM-RoBERTa: the likeliest split of a text whose spaces are "▁"."""
    scored = [(text, float(score)) for text, score in zip(vocabulary.tokens, vocabulary.scores, strict=True)]
    tokenizer = Tokenizer(Unigram(scored, unk_id=vocabulary.unk, byte_fallback=False))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(vocabulary.charsmap)] if vocabulary.charsmap else []
    if vocabulary.merges_spaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if vocabulary.add_space_prefix or vocabulary.merges_spaces else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _split_merge(merge: str) -> tuple[str, str]:
    """A merge is two texts and a space between them; the first may itself be a space."""
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else ("", "")


def _pre_tokenizer(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    behaviors = ["merged_with_previous" if pre.first_stays else "isolated", *["isolated"] * len(pre.expressions)]
    cuts = [pre_tokenizers.Split(Regex(e), behavior) for e, behavior in zip(pre.expressions, behaviors, strict=False)]
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


_LONGEST_WORD = 2_000
"""Characters; a longer word is unknown. llama.cpp has no such limit, the search takes the square of it."""
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_CHINESE = (
    "\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b920-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f"
)
"""The ideographs that llama.cpp sets apart."""
_BUILDERS: dict[str, Callable[[Vocabulary, list[Finding]], Tokenizer]] = {}


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
    if vocabulary.model == "wpm":
        before, after = [("bos", vocabulary.bos)], [("sep", vocabulary.sep)]
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


_BUILDERS |= {"bpe": _bpe, "spm": _sentencepiece, "wpm": _wordpiece, "ugm": _unigram}
