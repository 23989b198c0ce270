from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import UsageError
from migrate.plan import gpus, memory
from migrate.plan.cache import CacheSettings, plan_cache
from migrate.plan.config import Config
from migrate.plan.figures import GIB
from migrate.plan.layers import layer_caches
from migrate.plan.memory import ServerSettings
from tests.plan.published import DEEPSEEK_V2_LITE, LLAMA_8B

TABLE = {gpu.name: gpu for gpu in gpus.load()}


@pytest.mark.parametrize(
    ("terms", "kv_cache"),
    [
        # total, utilization, weights, outside torch, activation
        ((39.50, 0.9, 14.96, 0.10, 9.37), 11.12),  # vLLM issue 12330: A100 40 GB
        ((79.22, 0.9, 14.96, 1.79, 1.26), 53.29),  # pull request 10511: H100
        ((79.22, 0.9, 7.48, 3.58, 1.26), 58.98),  # the same on two GPUs
        ((79.22, 0.9, 19.86, 0.16, 36.63), 14.65),  # pull request 12126
        ((23.58, 0.99, 21.21, 0.20, 0.37), 1.57),  # pull request 14447
    ],
)
def test_published_logs_from_their_own_terms(terms: tuple[float, ...], kv_cache: float) -> None:
    total, utilization, weights, outside, activation = terms
    found = memory.measured(total, utilization, weights, outside, activation)
    assert found.kv_cache / GIB == pytest.approx(kv_cache, abs=0.011)
    assert found.kv_cache_range == (found.kv_cache, found.kv_cache)


def test_the_published_concurrency() -> None:
    available = memory.measured(39.50, 0.9, 14.96, 0.10, 9.37).kv_cache
    plan = plan_cache(layer_caches(Config(LLAMA_8B)), CacheSettings(8192))
    assert f"{available / GIB:.2f} {plan.concurrency(available):.2f}" == "11.12 11.12"


def test_activation_beside_a_published_one() -> None:
    # 1.26 GiB for Llama 3 8B, 8,192 tokens, 256 requests, with the sampler that sorts (pull request 10511)
    config = Config(LLAMA_8B)
    settings = ServerSettings(8192, max_num_seqs=256, max_num_batched_tokens=8192)
    found = memory.activation_bytes(config, layer_caches(config), settings, sorting=True)
    assert found.low <= 1.26 * GIB <= found.high
    assert found.value / GIB == pytest.approx(1.26, rel=0.1)


def test_captured_graphs_as_logged() -> None:
    # "Profiling CUDA graph memory: PIECEWISE=51 (largest=512), FULL=35 (largest=256)" (pull request 39559)
    assert memory.captured_graphs(256, 2048) == 51 + 35
    assert memory.captured_graphs(1, 2048) == 2 + 1
    assert memory.captured_graphs(1024, 8192) == 51 + 51
    assert memory.captured_graphs(1024, 4) == 3 + 3


@pytest.mark.parametrize(
    ("gpu", "seqs", "tokens"),
    [("L4", 256, 2048), ("A100-80GB", 256, 2048), ("H100", 1024, 8192), ("B200", 1024, 16384)],
)
def test_defaults_of_the_server(gpu: str, seqs: int, tokens: int) -> None:
    found = ServerSettings(8192).resolved(TABLE[gpu])
    assert (found.max_num_seqs, found.max_num_batched_tokens) == (seqs, tokens)
    own = ServerSettings(8192, max_num_seqs=7, max_num_batched_tokens=99).resolved(TABLE[gpu])
    assert (own.max_num_seqs, own.max_num_batched_tokens) == (7, 99)


def test_a_short_context_needs_no_large_batch() -> None:
    found = ServerSettings(4, max_num_seqs=2).resolved(TABLE["L4"])
    assert (found.max_num_seqs, found.max_num_batched_tokens) == (2, 8)


def test_forward_of_several_kinds() -> None:
    def peak(values: dict[str, object], **options: bool) -> int:
        config = Config(values)
        return memory.forward_bytes(config, layer_caches(config), 1, **options) // 2

    assert peak(LLAMA_8B) == 2 * 4096 + 3 * 14336
    assert peak(LLAMA_8B, fused=False) == 4 * 4096 + 4 * 14336
    assert peak(LLAMA_8B | {"intermediate_size": 128}) == 2 * 4096 + 2 * 4096 + 2 * 8 * 128
    assert peak(DEEPSEEK_V2_LITE) == 2 * 2048 + 6 * (3 * 1408 + 2048)


def test_more_gpus_share_weights_and_activation() -> None:
    config = Config(LLAMA_8B)
    layers, settings = layer_caches(config), ServerSettings(8192).resolved(TABLE["L4"])
    one, two = (
        memory.budget(TABLE["L4"], config, layers, 16 * GIB, settings, tensor_parallel=count) for count in (1, 2)
    )
    assert two.weights == one.weights // 2
    assert two.activation.value <= one.activation.value
    assert memory.forward_bytes(config, layers, 8, 2) < memory.forward_bytes(config, layers, 8)
    assert two.non_torch.value > one.non_torch.value  # NCCL
    assert two.kv_cache > one.kv_cache


def test_eager_mode_has_no_graphs() -> None:
    config = Config(LLAMA_8B)
    settings = replace(ServerSettings(8192), enforce_eager=True).resolved(TABLE["L4"])
    assert memory.budget(TABLE["L4"], config, layer_caches(config), GIB, settings).graphs.high == 0


@pytest.mark.parametrize("share", [0.0, -1.0, 1.1, float("nan")])
def test_an_impossible_share_of_the_memory(share: float) -> None:
    with pytest.raises(UsageError, match="gpu-memory-utilization"):
        ServerSettings(8192, share)


def test_figures_say_where_they_come_from() -> None:
    figures = memory.measured(39.50, 0.9, 14.96, 0.10, 9.37).figures()
    last = figures[-1]
    assert last.values == "39.50 GiB x 0.9 - 14.96 GiB - 9.37 GiB - 0.00 GiB - 0.10 GiB"
    assert str(last).endswith("= 11.12 GiB")
    assert all(figure.source for figure in figures)


def test_estimates_have_their_numbers_in_them() -> None:
    config = Config(LLAMA_8B)
    found = memory.budget(
        TABLE["L4"], config, layer_caches(config), GIB, ServerSettings(8192).resolved(TABLE["L4"])
    ).figures()
    assert found[0].values.startswith("max(2,048 x 102,400 bytes, 2,048 x 4,096 x 2 + 256 x 128,256 x 6 bytes) = 0.20")
    assert found[1].values.startswith("86 x 32 x 288 KiB = 0.76 GiB (0.25 GiB to 1.68 GiB)")


@given(
    st.floats(1, 200), st.floats(0, 50), st.floats(0.1, 1), st.integers(1, 1 << 15), st.integers(1, 1 << 10),
    st.integers(0, 1 << 12),
)  # fmt: skip
def test_more_memory_never_leaves_less(
    size: float, more: float, share: float, tokens: int, seqs: int, extra: int
) -> None:
    config = Config(LLAMA_8B)
    layers, gpu = layer_caches(config), TABLE["L4"]

    def left(gib: float, batched: int) -> int:
        settings = ServerSettings(8192, share, seqs, batched)
        return memory.budget(gpu.model_copy(update={"memory_gib": gib}), config, layers, GIB, settings).kv_cache

    assert left(size + more, tokens) >= left(size, tokens)
    assert left(size, tokens + extra) <= left(size, tokens)
