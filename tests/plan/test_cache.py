from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import Refused
from migrate.plan.cache import CachePlan, CacheSettings, cpu_settings, plan_cache
from migrate.plan.config import Config
from migrate.plan.figures import GIB
from migrate.plan.layers import Kind, LayerCache, layer_caches
from tests.plan.published import DEEPSEEK_V2_LITE, GEMMA2_9B, LLAMA_8B, MISTRAL_7B_V01


def planned(values: dict[str, Any], length: int = 8192, **settings: Any) -> CachePlan:
    return plan_cache(layer_caches(Config(values)), CacheSettings(length, **settings))


def test_the_published_log() -> None:
    # 11.12 GiB and "Maximum concurrency for 8192 tokens per request: 11.12x" (vLLM issue 12330)
    plan = planned(LLAMA_8B)
    available = round(11.12 * GIB)
    assert plan.blocks(available) == 5693
    assert plan.tokens(available) == 91_088
    assert f"{plan.concurrency(available):.2f}" == "11.12"


LAYOUTS = json.loads((Path(__file__).parent / "data" / "cache_layouts.json").read_text())["models"]


@pytest.mark.parametrize("logged", LAYOUTS, ids=lambda logged: str(logged["name"]))
def test_mixtures_as_vllm_laid_them_out(logged: dict[str, Any]) -> None:
    layers = layer_caches(Config(logged["config"]))
    plan = plan_cache(layers, cpu_settings(layers, 256, "bfloat16", max_num_batched_tokens=4096, amx=True))
    assert (plan.blocks(GIB), plan.tokens(GIB)) == (logged["blocks"], logged["tokens"])


def test_one_window_for_all_layers() -> None:
    plan = planned(MISTRAL_7B_V01, 32768)
    assert len(plan.groups) == 1
    # the window's 4,095 earlier tokens and two batches of 2,048 under way, and the block the window begins in
    assert plan.blocks_per_request(32768) == -(-(4095 + 2 * 2048) // 16) + 1
    assert plan.blocks_per_request(1000) == 63 + 1


def test_two_kinds_of_layers_share_the_pool() -> None:
    plan = planned(GEMMA2_9B)
    assert [(group.kind, group.layers) for group in plan.groups] == [(Kind.SLIDING, 21), (Kind.FULL, 21)]
    assert plan.block_bytes == 21 * 16 * 8 * 512 * 2
    assert plan.blocks_per_request(8192) == 512 + min(513, -(-(4095 + 4096) // 16) + 1)


def test_groups_are_filled_up_when_the_kinds_are_almost_equally_common() -> None:
    layers = [LayerCache(Kind.SLIDING, 2, 128, 512)] * 12 + [LayerCache(Kind.FULL, 2, 128)] * 13
    assert [group.layers for group in plan_cache(layers, CacheSettings(4096)).groups] == [12, 13]
    layers = [LayerCache(Kind.SLIDING, 2, 128, 512)] * 10 + [LayerCache(Kind.FULL, 2, 128)] * 3
    assert [group.layers for group in plan_cache(layers, CacheSettings(4096)).groups] == [3, 3, 2, 2, 3]


def test_layers_of_different_width() -> None:
    double = [LayerCache(Kind.SLIDING, 2, 128, 512), LayerCache(Kind.FULL, 2, 256)]
    plan = plan_cache(double, CacheSettings(4096))
    assert [group.block_size for group in plan.groups] == [32, 16]
    odd = [LayerCache(Kind.SLIDING, 2, 128, 512), LayerCache(Kind.FULL, 3, 128)]
    plan = plan_cache(odd, CacheSettings(4096))
    assert [(group.block_size, group.nbytes) for group in plan.groups] == [(16, 12288), (16, 12288)]  # padded
    whole = [LayerCache(Kind.FULL, 2, 128), LayerCache(Kind.FULL, 2, 256)]
    assert [group.nbytes for group in plan_cache(whole, CacheSettings(4096)).groups] == [16 * 2 * 384 * 2]


def test_latent_attention_is_not_split() -> None:
    one, eight = planned(DEEPSEEK_V2_LITE, block_size=64), planned(DEEPSEEK_V2_LITE, block_size=64, tensor_parallel=8)
    assert one.block_bytes == eight.block_bytes == 27 * 64 * 576 * 2
    mixed = [LayerCache(Kind.LATENT, 1, 576), LayerCache(Kind.SLIDING, 3, 256, 512)]
    with pytest.raises(Refused, match="latent"):
        plan_cache(mixed, CacheSettings(4096))


def test_states_widen_the_block() -> None:
    layers = [LayerCache(Kind.STATE, state_bytes=1_000_000)] * 3 + [LayerCache(Kind.FULL, 2, 512)]
    plan = plan_cache(layers, CacheSettings(4096))
    assert plan.settings.block_size == 16 * -(-1_000_000 // (16 * 2048))
    assert plan.block_bytes == plan.settings.block_size * 2048
    assert plan.blocks_per_request(4096) == 3 * 2 + -(-4096 // plan.settings.block_size)
    alone = plan_cache(layers, CacheSettings(4096, prefix_caching=False))
    assert alone.blocks_per_request(4096) == plan.blocks_per_request(4096) - 3
    with pytest.raises(Refused, match="without attention"):
        plan_cache(layers[:3], CacheSettings(4096))


def test_the_block_of_a_hybrid_model_as_logged() -> None:
    # "Setting attention block size to 1568 tokens", "Padding mamba page size by 0.13%" (aivrar/vllm-windows-build
    # issue 17): what Qwen 3.5 with 48 value heads, states in float32 and a cache in FP8 comes to
    values = {
        **json.loads(QWEN3_5_27B),
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
        "num_hidden_layers": 4,
    }
    layers = layer_caches(Config(values))
    plan = plan_cache(layers, CacheSettings(32768, item_bytes=1))
    assert plan.settings.block_size == 1568
    assert f"{plan.block_bytes / layers[0].state_bytes - 1:.2%}" == "0.13%"


QWEN3_5_27B = """{
    "model_type": "qwen3_5_text", "dtype": "bfloat16", "hidden_size": 5120, "num_attention_heads": 24,
    "num_key_value_heads": 4, "head_dim": 256, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 48, "mamba_ssm_dtype": "float32"
}"""


def test_a_request_of_full_length_and_the_block_that_is_never_given_out() -> None:
    plan = planned(LLAMA_8B, 4096)
    needed = (4096 // 16 + 1) * 16 * 131_072
    assert plan.fits(needed, 4096)
    assert not plan.fits(needed - 1, 4096)
    assert plan.longest(needed, 131_072) == 4096
    assert plan.longest(needed - 1, 131_072) == 4080
    assert plan.longest(0, 131_072) == 0


def test_no_cache_at_all() -> None:
    plan = plan_cache((), CacheSettings(512))
    assert plan.concurrency(0) == float("inf")
    assert (plan.tokens(GIB), plan.blocks(GIB), plan.block_bytes, plan.longest(0, 512)) == (0, 0, 0, 512)


_LAYER = st.one_of(
    st.builds(LayerCache, st.just(Kind.FULL), st.integers(1, 16), st.sampled_from([64, 128, 256])),
    st.builds(LayerCache, st.just(Kind.SLIDING), st.integers(1, 16), st.just(128), st.integers(1, 8192)),
)


@given(
    st.lists(_LAYER, min_size=1, max_size=12), st.integers(0, 1 << 36), st.integers(0, 1 << 30), st.integers(1, 1 << 17)
)
def test_more_memory_never_means_fewer_tokens(layers: list[LayerCache], memory: int, more: int, length: int) -> None:
    plan = plan_cache(layers, CacheSettings(length))
    assert plan.tokens(memory + more) >= plan.tokens(memory)
    assert plan.longest(memory + more, length) >= plan.longest(memory, length)
    longest = plan.longest(memory, length)
    assert longest == 0 or plan.fits(memory, longest)
    assert longest == length or not plan.fits(memory, longest + 1)


@given(st.lists(_LAYER, min_size=1, max_size=12), st.integers(1, 1 << 17), st.integers(0, 1 << 12))
def test_a_longer_request_never_takes_fewer_blocks(layers: list[LayerCache], length: int, more: int) -> None:
    plan = plan_cache(layers, CacheSettings(length + more))
    assert plan.blocks_per_request(length + more) >= plan.blocks_per_request(length)
    assert sum(group.layers for group in plan.groups) == len(layers)


@given(st.lists(_LAYER, min_size=1, max_size=12), st.sampled_from([1, 2, 4, 8]))
def test_more_gpus_never_mean_larger_blocks(layers: list[LayerCache], gpus: int) -> None:
    alone, shared = (plan_cache(layers, CacheSettings(4096, tensor_parallel=n)) for n in (1, gpus))
    if len(alone.groups) == len(shared.groups):
        assert shared.block_bytes <= alone.block_bytes
