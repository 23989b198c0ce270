"""What llama.cpp, and so Ollama, reads into a vocabulary: which tokens end a generation, whether BOS is added.

llama.cpp stops on more than the EOS id: any token whose text is in a fixed list of names ends the answer too. A server
that only knows `eos_token_id` would run on, so all of them have to be carried over.
Source of both: `llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from migrate.gguf.header import GGUFHeader

TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE = 1, 2, 3, 4, 5, 6
"""Values of `tokenizer.ggml.token_type`."""

END_NAMES = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|> "
    "<EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> "
    "<｜end▁of▁sentence｜> [e~[".split()
)
FILL_IN_NAMES = (
    "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]".split(),
    "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>".split(),
    "<|file_sep|>".split(),
)
"""Per role (pad, repo, separator) the first name found in the vocabulary ends a generation."""

_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
_FILL_IN_KEYS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")


def end_token_ids(header: GGUFHeader) -> list[int]:
    """Ids of all tokens that end a generation, EOS first, the others ascending.

    Ids outside the vocabulary are left out, as llama.cpp does.
    """
    tokens: Sequence[str] = header.get("tokenizer.ggml.tokens", ())
    wanted = END_NAMES.union(*FILL_IN_NAMES)
    found = {text: i for i, text in enumerate(tokens) if text in wanted}
    return _end_ids(found, header.metadata, len(tokens))


def _end_ids(found: Mapping[str, int], metadata: Mapping[str, object], vocab_size: int) -> list[int]:
    def named(keys: Iterable[str]) -> list[int]:
        values = (metadata.get(f"tokenizer.ggml.{key}") for key in keys)
        return [v for v in values if isinstance(v, int) and 0 <= v < vocab_size]

    ids = {i for text, i in found.items() if text in END_NAMES} | set(named(_END_KEYS))
    for key, names in zip(_FILL_IN_KEYS, FILL_IN_NAMES, strict=True):
        ids.update(named([key]) or [found[n] for n in names if n in found][:1])

    by_text = {text: i for text, i in found.items() if i in ids}
    calls = {"<|call|>", "<|calls|>"} & by_text.keys()
    if "<|end|>" in by_text and calls and ({"<|return|>", "<|flush|>"} & by_text.keys()):
        ids.discard(by_text["<|end|>"])
    if {"<|tool_response>", "</s>"} <= by_text.keys():
        ids.discard(by_text["</s>"])

    eos = named(["eos_token_id"])[:1]
    return eos + sorted(ids - set(eos))


def special_tokens(header: GGUFHeader) -> dict[str, tuple[int, int]]:
    """Text -> (id, token_type) of every control and user-defined token."""
    tokens: Sequence[str] = header.get("tokenizer.ggml.tokens", ())
    types: Sequence[int] = header.get("tokenizer.ggml.token_type", ())
    kinds = (TOKEN_CONTROL, TOKEN_USER_DEFINED)
    return {text: (i, t) for i, (text, t) in enumerate(zip(tokens, types, strict=False)) if t in kinds}


_BOS_BY_PRE_TOKENIZER = frozenset(
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano tekken chameleon".split()
)
"""Byte-level BPE adds no BOS unless the pre-tokenizer is one of these, or the file says otherwise."""


def adds_bos(header: GGUFHeader) -> bool:
    """Whether llama.cpp puts BOS before a prompt: as the file says, else by the kind of vocabulary."""
    bos = header.get("tokenizer.ggml.bos_token_id", 11 if header.get("tokenizer.ggml.model") == "gpt2" else 1)
    if not isinstance(bos, int) or not 0 <= bos < len(header.get("tokenizer.ggml.tokens", ())):
        return False
    pre = header.get("tokenizer.ggml.pre")
    if pre == "gemma4":
        return True
    said = header.get("tokenizer.ggml.add_bos_token")
    if isinstance(said, bool):
        return said
    match header.get("tokenizer.ggml.model"):
        case "llama" | "bert":
            return True
        case "gpt2":
            return pre in _BOS_BY_PRE_TOKENIZER
        case _:
            return False
