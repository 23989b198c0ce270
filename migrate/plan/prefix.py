"""What prefix caching would save of the user's own prompts.

vLLM keeps the cache of finished blocks by a hash of everything up to their end, so a prompt that begins as an earlier
one did is not computed again, block by block. Here that is played through with an endless cache and the requests in
their order: what comes out is the most it can save. The last token of a prompt is always computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLOCK = 16
"""Tokens in a block on a GPU (vLLM's default)."""
CHARACTERS_PER_TOKEN = 4
"""Where there is no tokenizer: an English text's usual length."""
MAX_TOKENS = 200_000_000
"""Counted at most; what comes later is left out, and `truncated` says so."""


@dataclass(frozen=True, slots=True)
class PrefixShare:
    """`tokens` of prompts, `saved` of them cached; `longest` tokens that all prompts begin with."""

    prompts: int
    tokens: int
    saved: int
    longest: int
    truncated: bool = False

    @property
    def share(self) -> float:
        return self.saved / self.tokens if self.tokens else 0.0

    def __str__(self) -> str:
        if not self.prompts:
            return "no prompts"
        common = f"; all begin with the same {self.longest:,} tokens" if self.longest and self.prompts > 1 else ""
        return (
            f"{self.share:.0%} of {self.tokens:,} prompt tokens in {self.prompts:,} prompts are in an earlier one's "
            f"beginning{common}"
        )


def shared_prefixes(prompts: Iterable[tuple[Sequence[int] | str, int]], block: int = BLOCK) -> PrefixShare:
    """`prompts` are (token ids or text, how often it was asked), in the order they came. Memory: one number a block.

    Of a text, a block is as many bytes of UTF-8 as `block` tokens have, and tokens are estimated.
    """
    seen: set[int] = set()
    count = tokens = saved = 0
    common: Sequence[int] | None = None
    scale = 1
    for prompt, times in prompts:
        if isinstance(prompt, str):
            prompt, scale = prompt.encode("utf-8", "surrogatepass"), CHARACTERS_PER_TOKEN
        length = len(prompt)
        if not length:
            continue
        if tokens + length * times > MAX_TOKENS * scale:
            return _result(count, tokens, saved, common, scale, truncated=True)
        count, tokens = count + times, tokens + length * times
        common = prompt if common is None else common[: _common(common, prompt)]
        size = block * scale
        whole = (length - 1) // size
        hit, known, chain = 0, True, 0
        for index in range(whole):
            chain = hash((chain, tuple(prompt[index * size : (index + 1) * size])))
            if known and chain in seen:
                hit += size
            else:
                known = False
                seen.add(chain)
        saved += hit + (times - 1) * whole * size
    return _result(count, tokens, saved, common, scale, truncated=False)


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    end = min(len(first), len(second))
    if first[:end] == second[:end]:
        return end
    return next(i for i in range(end) if first[i] != second[i])


def _result(
    count: int, tokens: int, saved: int, common: Sequence[int] | None, scale: int, *, truncated: bool
) -> PrefixShare:
    longest = len(common) if common is not None and count > 1 else 0
    return PrefixShare(count, tokens // scale, saved // scale, longest // scale, truncated)
