"""The vocabulary of a GGUF, read as llama.cpp reads it. Standard library only.

Source of every rule: `llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from migrate.errors import GGUFError, Refused
from migrate.findings import Finding, Status
from migrate.gguf.header import GGUFHeader, LazyArray
from migrate.gguf.pretokenizers import PRE_TOKENIZERS, PreTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Values of `tokenizer.ggml.token_type`."""

END_NAMES = frozenset(
    [
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    ]
)
FILL_IN_NAMES = (
    ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    ("<|file_sep|>",),
)
"""Per role (pad, repo, separator) the first name found in the vocabulary ends a generation."""
_OTHER_FILL_IN_NAMES = (
    *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>"),
    *("<|prefix|>", "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
    *("<|code_suffix|>", "<|suffix|>", "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>"),
    *("▁<MID>", "<|code_middle|>", "<|middle|>"),
)
_CONTROL_NAMES = END_NAMES.union(*FILL_IN_NAMES, _OTHER_FILL_IN_NAMES)
"""Names llama.cpp recognises as control tokens, whatever type the file gives them."""
_SHOWN_NAMES = frozenset({"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"})
"""Parts of harmony, which llama.cpp always shows."""
_LLAMA3_BASE_EOS, _LLAMA3_TURN_END, _LLAMA3_BOS = "<|end_of_text|>", "<|eot_id|>", "<|begin_of_text|>"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens and rules of one model.

    `model` is "bpe", "spm" (SentencePiece BPE), "wpm" (WordPiece) or "ugm" (SentencePiece unigram). `tokens` are texts
    by id, as many as the embedding has rows at most. `types` are `tokenizer.ggml.token_type`, with llama.cpp's own
    corrections. An id is None where the model has no such token. `lowercase`, `strip_accents`: WordPiece's normalizer.
    `charsmap` and `merges_spaces`: unigram's.
    """

    model: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float]
    merges: Sequence[str]
    pre: PreTokenizer | None
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    strips_right: bool
    sep: int | None = None
    mask: int | None = None
    lowercase: bool = False
    strip_accents: bool = False
    charsmap: bytes = b""
    merges_spaces: bool = False
    findings: tuple[Finding, ...] = field(default=())

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.tokens[token]

    def matched_in_text(self) -> list[int]:
        """Ids of the tokens that are cut out of a text before anything else, in order."""
        return [i for i, kind in enumerate(self.types) if kind in (CONTROL, USER_DEFINED, UNKNOWN)]


def adds_bos(header: GGUFHeader) -> bool:
    """Whether llama.cpp puts BOS in front of a prompt: what the file says, else what its tokenizer's kind implies.

    Raises Refused for a tokenizer nobody has described here.
    """
    explicit = header.get("tokenizer.ggml.add_bos_token")
    if isinstance(explicit, bool):
        return explicit
    kind = _model(header)
    return kind in ("spm", "wpm") or (kind == "bpe" and _pre_tokenizer(header)[0].add_bos)


def read_vocabulary(header: GGUFHeader, *, known_pre: bool = True) -> Vocabulary:
    """The vocabulary of a model. `known_pre` False: how text is split does not matter and may be unknown.

    Raises:
        GGUFError: required metadata is missing or inconsistent.
        Refused: a tokenizer or pre-tokenizer without a description here.
    """
    kind = _model(header)
    findings: list[Finding] = []
    tokens = _tokens(header, findings)
    types = _types(header, tokens)
    pre, pre_findings = _pre_tokenizer(header) if kind == "bpe" and known_pre else (None, [])
    findings += pre_findings
    ids = _DEFAULT_IDS[kind]
    eos = _eos(header, tokens, ids.get("eos"), findings)
    bos = _token_id(header, "bos", tokens, ids.get("bos"))
    add_bos, add_eos = known_pre and adds_bos(header), bool(header.get("tokenizer.ggml.add_eos_token", kind == "ugm"))
    if pre is not None and pre.raw and not add_bos:
        add_bos = True  # llama.cpp overrides the file for Gemma 4
    for wanted, token, name in ((add_bos, bos, "bos"), (add_eos, eos, "eos")):
        if wanted and token is None:
            raise GGUFError(f"{header.path.name}: the tokenizer adds {name.upper()}, but there is no {name}_token_id")
    lowercase = kind == "wpm" and bool(header.get("tokenizer.ggml.normalizer.lowercase", True))
    return Vocabulary(
        model=kind,
        tokens=tokens,
        types=types,
        scores=_scores(header, tokens) if kind in ("spm", "ugm") else (),
        merges=_strings(header, "tokenizer.ggml.merges") if kind == "bpe" and known_pre else (),
        pre=pre,
        bos=bos,
        eos=eos,
        pad=_token_id(header, "padding", tokens, ids.get("pad")),
        unk=_token_id(header, "unknown", tokens, ids.get("unk")),
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=kind in ("spm", "ugm") and bool(header.get("tokenizer.ggml.add_space_prefix", True)),
        strips_right=any(name in str(header.get("general.name", "")).lower() for name in ("phi-3", "phi3")),
        sep=_token_id(header, "seperator", tokens, ids.get("sep")),
        mask=_token_id(header, "mask", tokens, ids.get("mask")),
        lowercase=lowercase,
        strip_accents=kind == "wpm" and bool(header.get("tokenizer.ggml.normalizer.strip_accents", lowercase)),
        charsmap=_charsmap(header) if kind == "ugm" else b"",
        merges_spaces=kind == "ugm" and bool(header.get("tokenizer.ggml.remove_extra_whitespaces", False)),
        findings=tuple(findings),
    )


_MODELS = {"gpt2": "bpe", "gemma4": "bpe", "llama": "spm", "bert": "wpm", "t5": "ugm"}
_DEFAULT_IDS: dict[str, dict[str, int]] = {
    "bpe": {},
    "spm": {"bos": 1, "eos": 2, "unk": 0},
    "wpm": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "ugm": {"eos": 1, "unk": 2, "pad": 0},
}
"""What llama.cpp assumes where a file names no token."""


def _model(header: GGUFHeader) -> str:
    model = header.get("tokenizer.ggml.model")
    if model is None:
        raise GGUFError(f"{header.path.name}: no tokenizer in the file (tokenizer.ggml.model is missing)")
    if model not in _MODELS:
        raise Refused(
            f"{header.path.name}: tokenizer {model!r} is not supported (supported: {', '.join(_MODELS)})",
            hint="Give the original tokenizer with --tokenizer DIR|REPO.",
        )
    return _MODELS[model]


def _charsmap(header: GGUFHeader) -> bytes:
    """SentencePiece's table of replacements. Some of Ollama's files have it as one base64 letter per element."""
    key = "tokenizer.ggml.precompiled_charsmap"
    values = header.get(key)
    if values is None:
        return b""
    try:
        if len(values) and isinstance(values[0], str):
            return base64.b64decode("".join(values), validate=True)
        return bytes(value & 0xFF for value in values)
    except (TypeError, ValueError):
        raise GGUFError(f"{header.path.name}: {key} is neither bytes nor base64") from None


def _pre_tokenizer(header: GGUFHeader) -> tuple[PreTokenizer, list[Finding]]:
    name = header.get("tokenizer.ggml.pre") or "default"
    if header.get("tokenizer.ggml.model") == "gemma4":
        name = "gemma4"
    if name == "default" and _is_llama3_vocabulary(header):
        reason = "the vocabulary is Llama 3's; old files lack the name, and Ollama repairs them the same way"
        finding = Finding("tokenizer.ggml.pre", Status.EXACT, str(header.get("tokenizer.ggml.pre", "")), "", reason)
        return PRE_TOKENIZERS["llama-bpe"], [finding]
    if name not in PRE_TOKENIZERS:
        raise Refused(
            f"{header.path.name}: pre-tokenizer {name!r} is not known; guessing would change token ids silently",
            hint="Give the original tokenizer with --tokenizer DIR|REPO.",
        )
    return PRE_TOKENIZERS[name], []


def _is_llama3_vocabulary(header: GGUFHeader) -> bool:
    """Llama 3's 128,000 tiktoken tokens and 256 special ones (fine-tunes may append more)."""
    tokens = header.get("tokenizer.ggml.tokens", ())
    return len(tokens) >= 128_256 and tokens[128_000] == _LLAMA3_BOS and tokens[128_009] == _LLAMA3_TURN_END


def _eos(header: GGUFHeader, tokens: Sequence[str], default: int | None, findings: list[Finding]) -> int | None:
    """EOS, with Ollama's repair of early Llama-3 files whose EOS never comes: their turns end in <|eot_id|>."""
    eos = _token_id(header, "eos", tokens, default)
    if eos is None or tokens[eos] != _LLAMA3_BASE_EOS or _LLAMA3_TURN_END not in tokens:
        return eos
    old = header.get("tokenizer.ggml.pre", "default") == "default"
    if not old and _LLAMA3_TURN_END not in (header.chat_template or ""):
        return eos
    turn_end = tokens.index(_LLAMA3_TURN_END)
    reason = f"the model ends its turns with {_LLAMA3_TURN_END}; with the id in the file generation never stops"
    findings.append(Finding("tokenizer.ggml.eos_token_id", Status.EQUIVALENT, str(eos), str(turn_end), reason))
    return turn_end


def _token_id(header: GGUFHeader, role: str, tokens: Sequence[str], default: int | None = None) -> int | None:
    """The id a role has; out-of-range ids count as absent."""
    for token in (header.get(f"tokenizer.ggml.{role}_token_id"), default):
        if isinstance(token, int) and 0 <= token < len(tokens):
            return token
    return None


def _tokens(header: GGUFHeader, findings: list[Finding]) -> list[str]:
    tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(_strings(header, "tokenizer.ggml.tokens"))]
    embedding = header.tensors.get("token_embd.weight")
    rows = embedding.shape[-1] if embedding else len(tokens)
    if len(tokens) > rows:
        reason = "the embedding has no rows for the rest"
        findings.append(Finding("tokenizer.ggml.tokens", Status.EQUIVALENT, str(len(tokens)), str(rows), reason))
        tokens = tokens[:rows]
    if len(set(tokens)) != len(tokens):
        _tell_apart(tokens, findings)
    return tokens


def _tell_apart(tokens: list[str], findings: list[Finding]) -> None:
    """Give tokens whose text comes again a text of their own: only the last of them is ever made of it by llama.cpp."""
    last = {text: i for i, text in enumerate(tokens)}
    doubled = [i for i, text in enumerate(tokens) if last[text] != i]
    reason = f"{tokens[doubled[0]]!r} and others are there twice; text becomes the last of them, as in llama.cpp"
    findings.append(Finding("tokenizer.ggml.tokens", Status.EQUIVALENT, f"{len(doubled)} doubled", "", reason))
    for i in doubled:
        tokens[i] = f"[DOUBLE_{i}]"


def _types(header: GGUFHeader, tokens: Sequence[str]) -> list[int]:
    """Types as llama.cpp corrects them by name: control tokens are hidden in answers, user-defined ones are shown."""
    types = list(_array(header, "tokenizer.ggml.token_type", len(tokens), NORMAL))
    found = {text: i for i, text in enumerate(tokens) if text in _CONTROL_NAMES or text in _SHOWN_NAMES}
    for text, i in found.items():
        types[i] = USER_DEFINED if text in _SHOWN_NAMES else CONTROL
    calls = found.keys() & {"<|call|>", "<|calls|>"}
    if "<|end|>" in found and calls and found.keys() & {"<|return|>", "<|flush|>"}:
        types[found["<|end|>"]] = USER_DEFINED  # ends a part of a harmony answer, not the answer
    if {"<|tool_response>", "</s>"} <= found.keys():
        types[found["</s>"]] = NORMAL
    return types


def _scores(header: GGUFHeader, tokens: Sequence[str]) -> list[float]:
    return list(_array(header, "tokenizer.ggml.scores", len(tokens), 0.0))


def _array(header: GGUFHeader, key: str, length: int, default: Any) -> Sequence[Any]:
    values = header.get(key)
    if values is None:
        return [default] * length
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) < length:
        raise GGUFError(f"{header.path.name}: {key} does not have an element for each of {length} tokens")
    return values[:length]


def _is_strings(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(value, str) for value in values)


def _strings(header: GGUFHeader, key: str) -> Sequence[str]:
    values: Sequence[str] | None = header.get(key)
    if values is None:
        raise GGUFError(f"{header.path.name}: {key} is missing")
    strings = values.holds_strings if isinstance(values, LazyArray) else _is_strings(values)
    if not strings:
        raise GGUFError(f"{header.path.name}: {key} is not a list of strings")
    return values
