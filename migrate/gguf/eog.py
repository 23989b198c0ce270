"""Which tokens end a generation in llama.cpp, and so in Ollama.

llama.cpp stops on more than the EOS id: any token whose text is in a fixed list of names ends the answer too (source:
the end of `llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp). A server that only knows `eos_token_id` would
run on, so all of them have to be carried over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from migrate.gguf.header import GGUFHeader
from migrate.gguf.vocab import CONTROL, END_NAMES, FILL_IN_NAMES, USER_DEFINED

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
        ids.update(named([key]) or [found[name] for name in names if name in found][:1])

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
    kinds = (CONTROL, USER_DEFINED)
    return {text: (i, t) for i, (text, t) in enumerate(zip(tokens, types, strict=False)) if t in kinds}
