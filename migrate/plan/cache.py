"""How vLLM lays the KV cache out in blocks, and how many tokens and requests fit.

Follows vLLM 0.32: `get_kv_cache_groups` and `get_kv_cache_config_from_groups` in v1/core/kv_cache_utils.py, the specs
in v1/kv_cache_interface.py, and `_align_hybrid_block_size` in platforms/interface.py. Layers that keep the same form a
group; all groups draw blocks from one pool, so one block is as large as the widest group needs, and a request takes
blocks from every group. The log line "GPU KV cache size: N tokens" is `CachePlan.tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from migrate.errors import Refused
from migrate.plan.layers import DTYPE_BYTES, Kind, LayerCache

CUDA_BLOCK, CPU_BLOCK, CPU_MLA_BLOCK = 16, 128, 16
FLASH_MLA_BLOCK = 64
CUDA_KERNEL_BLOCK, CPU_KERNEL_BLOCK = 16, 32


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What of the server's settings matters. Lengths in tokens.

    `item_bytes`: of one cached number. `in_flight_batches`: 2 with asynchronous scheduling, vLLM's default.
    `kernel_block`: the attention kernel's smallest block. `prefix_caching` decides how many states a hybrid model keeps
    for a request (mamba_cache_mode align or none).
    """

    max_model_len: int
    max_num_batched_tokens: int = 2048
    item_bytes: int = 2
    tensor_parallel: int = 1
    block_size: int = CUDA_BLOCK
    kernel_block: int = CUDA_KERNEL_BLOCK
    in_flight_batches: int = 2
    prefix_caching: bool = True

    @property
    def max_in_flight_tokens(self) -> int:
        return self.in_flight_batches * self.max_num_batched_tokens


def cpu_settings(
    layers: Sequence[LayerCache], max_model_len: int, dtype: str, *, max_num_batched_tokens: int, amx: bool = False
) -> CacheSettings:
    """Of vLLM's CPU backend: larger blocks, other kernels; latent attention without AMX has blocks of 16."""
    latent = any(layer.kind is Kind.LATENT for layer in layers) and not amx
    return CacheSettings(
        max_model_len,
        max_num_batched_tokens,
        DTYPE_BYTES.get(dtype, 2),
        block_size=CPU_MLA_BLOCK if latent else CPU_BLOCK,
        kernel_block=CPU_KERNEL_BLOCK,
    )


@dataclass(frozen=True, slots=True)
class _Page:
    """One layer's share of a block: `block_size` tokens in `nbytes`."""

    layer: LayerCache
    block_size: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """`layers` layers that keep the same; together they take `nbytes` of a block, which holds `block_size` tokens."""

    kind: Kind
    layers: int
    block_size: int
    nbytes: int
    window: int = 0

    def blocks(self, tokens: int, settings: CacheSettings) -> int:
        """Blocks that a request of so many tokens holds at most."""
        if self.kind is Kind.STATE:
            return 2 if settings.prefix_caching else 1
        if self.kind is Kind.SLIDING:
            # The window may begin inside a block, and tokens still being computed are kept until they are settled.
            kept = min(self.window - 1 + settings.max_in_flight_tokens, tokens)
            return ceil(kept / self.block_size) + 1
        return ceil(tokens / self.block_size)


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The layout; everything else follows from the bytes there are."""

    groups: tuple[CacheGroup, ...]
    settings: CacheSettings

    @property
    def block_bytes(self) -> int:
        """Bytes of one block on one GPU: the widest group's."""
        return max((group.nbytes for group in self.groups), default=0)

    def blocks_per_request(self, tokens: int) -> int:
        return sum(group.blocks(tokens, self.settings) for group in self.groups)

    def request_bytes(self, tokens: int) -> int:
        """Bytes a request of so many tokens takes of the cache."""
        return self.block_bytes * self.blocks_per_request(tokens)

    def blocks(self, available: int) -> int:
        return max(0, available) // self.block_bytes if self.groups else 0

    def concurrency(self, available: int, tokens: int | None = None) -> float:
        """Requests of `tokens` (default: the longest allowed) that fit at a time."""
        if not self.groups:
            return float("inf")
        return self.blocks(available) / self.blocks_per_request(tokens or self.settings.max_model_len)

    def tokens(self, available: int) -> int:
        """ "KV cache size" in vLLM's log: full-length requests that fit, times their length."""
        if not self.groups:
            return 0
        return int(self.concurrency(available) * self.settings.max_model_len)

    def fits(self, available: int, tokens: int) -> bool:
        """Whether vLLM starts with `tokens` as its max-model-len: one request and the block it never hands out."""
        return self.request_bytes(tokens) <= available - self.block_bytes

    def longest(self, available: int, limit: int) -> int:
        """The largest max-model-len up to `limit` that vLLM starts with; 0 for none."""
        if not self.groups:
            return limit
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(available, middle) else (low, middle - 1)
        return low


def plan_cache(layers: Sequence[LayerCache], settings: CacheSettings) -> CachePlan:
    """Groups of a model's layers. Raises Refused for a mixture that vLLM cannot bring to one block size."""
    if any(layer.kind is Kind.STATE for layer in layers):
        settings = replace(settings, block_size=_hybrid_block(layers, settings))
    pages = [_page(layer, settings) for layer in layers]
    if not pages:
        return CachePlan((), settings)
    if len(set(pages)) == 1 or _one_type(pages):
        first = pages[0]
        total = sum(page.nbytes for page in pages)
        group = CacheGroup(first.layer.kind, len(pages), first.block_size, total, first.layer.window)
        return CachePlan((group,), settings)
    return CachePlan(tuple(_grouped(_unified(pages))), settings)


def _page(layer: LayerCache, settings: CacheSettings) -> _Page:
    if layer.kind is Kind.STATE:
        return _Page(layer, settings.block_size, max(layer.state_bytes // settings.tensor_parallel, 1))
    token = layer.token_bytes(settings.item_bytes, settings.tensor_parallel)
    return _Page(layer, settings.block_size, settings.block_size * token)


def _hybrid_block(layers: Sequence[LayerCache], settings: CacheSettings) -> int:
    """Tokens in a block of a hybrid model: so many that keys and values of one layer fill at least a state's page."""
    state = max(layer.state_bytes // settings.tensor_parallel for layer in layers if layer.kind is Kind.STATE)
    attention = [layer for layer in layers if layer.kind is not Kind.STATE]
    if not attention:
        raise Refused("a model without attention layers: the size of its cache is not known here")
    token = attention[0].token_bytes(settings.item_bytes, settings.tensor_parallel)
    step = max(settings.kernel_block, settings.block_size)
    if attention[0].kind is Kind.LATENT:
        step = max(step, 128)
    return max(settings.block_size, step * ceil(state / (step * token)))


def _one_type(pages: Sequence[_Page]) -> bool:
    """Whether all layers need the same number of blocks, though not of the same size: one group holds them all."""
    kinds = {page.layer.kind for page in pages}
    whole = kinds <= {Kind.FULL, Kind.LATENT}
    return whole or (kinds == {Kind.SLIDING} and len({page.layer.window for page in pages}) == 1)


def _unified(pages: Sequence[_Page]) -> list[_Page]:
    """Pages brought to one size: more tokens in the smaller ones where that comes out even, else padding."""
    largest = max(page.nbytes for page in pages)
    unified = []
    for page in pages:
        if page.layer.kind is Kind.STATE or page.nbytes == largest:
            unified.append(replace(page, nbytes=largest))
        elif largest % page.nbytes == 0:
            unified.append(replace(page, block_size=page.block_size * (largest // page.nbytes), nbytes=largest))
        elif page.layer.kind is not Kind.LATENT:
            unified.append(replace(page, nbytes=largest))
        else:
            raise Refused("latent attention beside layers of another size: vLLM cannot bring them to one block size")
    return unified


def _grouped(pages: Sequence[_Page]) -> list[CacheGroup]:
    """Groups of equally many layers: as many as the rarest kind has, or as the commonest when it has few more."""
    kinds: dict[_Page, int] = {}
    for page in pages:
        kinds[page] = kinds.get(page, 0) + 1
    size = min(kinds.values())
    if max(kinds.values()) < size * 1.5:
        size = max(kinds.values())
    groups = []
    for page, count in kinds.items():
        parts = ceil(count / size)
        for part in range(parts):
            layers = len(range(part, count, parts))
            groups.append(CacheGroup(page.layer.kind, layers, page.block_size, layers * page.nbytes, page.layer.window))
    return groups
