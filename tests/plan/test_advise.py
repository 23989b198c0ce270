from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrate.plan import gpus
from migrate.plan.advise import Row, Wanted, advise
from migrate.plan.memory import ServerSettings
from migrate.plan.throughput import Efficiency, Load, ServiceLevel
from tests.plan.published import DEEPSEEK_V2_LITE, LLAMA_8B, QWEN_7B, model

TABLE = {gpu.name: gpu for gpu in gpus.load()}
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}


def rows(
    values: dict[str, Any] = QWEN_7B,
    names: list[str] | None = None,
    way: str = "dense",
    length: int = 8192,
    **options: Any,
) -> dict[str, Row]:
    wanted = Wanted(options.pop("load", Load(512, 256)), ServerSettings(length), **options)
    table = [TABLE[name] for name in names] if names else list(TABLE.values())
    return {row.gpu.name: row for row in advise(model(values, way), wanted, table)}


def test_the_story_500_a_minute_for_a_thousand_dollars() -> None:
    found = rows(rate=500.0, budget=1000.0)
    winner = next(iter(found.values()))
    assert winner.wins
    assert winner.cost is not None
    assert winner.cost.monthly is not None
    assert winner.cost.monthly[1] <= 1000
    assert found["H100"].reason.startswith("over the budget by $")
    assert found["L4"].cost is not None
    assert found["L4"].cost.instances > 2


def test_sorted_by_cost_and_losers_last() -> None:
    found = list(rows(rate=500.0).values())
    costs = [row.cost.monthly[1] for row in found if row.wins and row.cost and row.cost.monthly]
    assert costs == sorted(costs)
    assert [row.wins for row in found] == sorted((row.wins for row in found), reverse=True)
    assert all(row.reason for row in found if not row.wins)


def test_why_they_lose() -> None:
    assert rows(names=["T4"])["T4"].reason.startswith("no bfloat16")
    assert rows(names=["V100-32GB"], values=QWEN_7B | {"torch_dtype": "float16"}, way="int4")["V100-32GB"].reason == (
        "no kernels for packed integers"
    )
    fp8 = QWEN_7B | {"torch_dtype": "float16"}
    assert rows(fp8, ["V100-32GB"], "fp8")["V100-32GB"].reason == "no FP8"
    assert "no FP8 units" in rows(fp8, ["A10"], "fp8")["A10"].notes[0]
    assert rows(fp8, ["L4"], "fp8")["L4"].notes == ()
    slow = rows(names=["L4"], level=ServiceLevel(itl=0.02))["L4"]
    assert slow.reason.startswith("too slow for the service level: itl ")
    long = rows(names=["L40S"], load=Load(9000, 100))["L40S"]
    assert long.reason == "a request of 9,100 tokens is longer than the context of 8,192"


def test_what_does_not_fit_says_by_how_much() -> None:
    found = rows(LLAMA_70B, ["L4", "H100"])
    assert (found["L4"].gpus_per_instance, found["L4"].reason[:8]) == (8, "too slow")
    assert found["H100"].gpus_per_instance == 2
    assert found["H100"].notes[0].startswith("needs 2: one lacks ")
    assert found["H100"].cost is not None
    assert found["H100"].cost.gpus == 2
    tight = rows(names=["RTX4090"], length=131_072)["RTX4090"]
    assert tight.gpus_per_instance == 2
    # 40 heads can be shared out among 8, 28 cannot: nothing is left to try after 4
    odd = rows(LLAMA_70B | {"num_attention_heads": 63, "head_dim": 128}, ["L4"])["L4"]
    assert odd.reason.startswith("does not fit by ")


def test_a_context_that_would_fit_is_named() -> None:
    odd = QWEN_7B | {"num_attention_heads": 27, "head_dim": 128}
    found = rows(odd, ["RTX3090"], length=1 << 18)["RTX3090"]
    assert "it would with --max-model-len" in found.reason
    assert found.memory is not None
    assert found.cache is not None
    length = int(found.reason.rsplit(" ", 1)[1])
    assert rows(odd, ["RTX3090"], length=length)["RTX3090"].wins


def test_small_models_get_a_second_instance_only_with_a_source() -> None:
    small = QWEN_7B | {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
    }
    row = rows(small | {"num_key_value_heads": 2}, ["H100"])["H100"]
    assert row.density is not None
    assert row.density.instances == 2
    assert "2503.08311" in row.density.source
    assert row.cost is not None
    assert (row.cost.instances, row.cost.gpus) == (2, 1)
    few = rows(small | {"num_key_value_heads": 2}, ["H100"], rate=100.0)["H100"]
    assert few.density is not None
    assert few.density.instances == 1
    big = rows(names=["H100"])["H100"]
    assert big.density is not None
    assert big.density.instances == 1
    assert big.kv_cache_memory_bytes is None
    asked = rows(names=["H200"], instances_per_gpu=3, rate=100.0)["H200"]
    assert asked.cost is not None
    assert asked.memory is not None
    assert asked.kv_cache_memory_bytes is not None
    assert (asked.cost.instances, asked.cost.gpus) == (3, 1)
    each = asked.kv_cache_memory_bytes + asked.memory.weights + asked.memory.overhead
    assert 0 <= asked.memory.requested - 3 * each < 3
    assert rows(names=["RTX4090"], instances_per_gpu=2)["RTX4090"].reason == "no room for 2 instances, only for 1"


def test_calibrated_efficiencies_are_used_for_their_gpu_alone() -> None:
    slow = Efficiency(0.1, 0.1, 0.01, 1e-4, "measured: x")
    both: dict[str, Any] = {"names": ["L40S", "L4"], "level": ServiceLevel()}
    plain, measured = rows(**both), rows(**both, measured={"L40S": (slow, slow, slow)})
    assert plain["L4"].rates == measured["L4"].rates
    assert plain["L40S"].rates is not None
    assert measured["L40S"].rates is not None
    assert measured["L40S"].rates[1] < plain["L40S"].rates[1]
    assert any("measured: x" in figure.source for figure in measured["L40S"].figures)


def test_a_row_as_json() -> None:
    found = model(QWEN_7B)
    row = rows(names=["L40S"], rate=500.0)["L40S"].to_dict(found)
    assert row["weights_bytes"] == 2 * 7_615_616_512
    assert row["kv_bytes_per_token"] == 57_344
    assert row["max_concurrency"] == pytest.approx(row["kv_cache_tokens"] / 8192, abs=0.01)
    assert row["kv_cache_bytes_range"][0] < row["kv_cache_bytes"] < row["kv_cache_bytes_range"][1]
    assert row["requests_per_minute_range"][0] < row["requests_per_minute"] < row["requests_per_minute_range"][2]
    assert (row["instances_per_gpu"], row["gpus"], row["fits"], row["reason"]) == (1, row["instances"], True, None)
    assert row["monthly_cost"] == pytest.approx(row["gpus"] * 0.90 * 730)
    assert {figure["name"] for figure in row["figures"]} >= {"weights", "KV cache", "max concurrency", "cost a month"}
    lost = rows(names=["T4"])["T4"].to_dict(found)
    assert lost["reason"]
    assert lost["monthly_cost"] is None
    assert set(lost) == set(row)


def test_fp8_cache_holds_twice_as_much() -> None:
    plain, eight = rows(names=["L40S"]), rows(names=["L40S"], kv_cache_dtype="fp8")
    first, second = (found["L40S"].to_dict(model(QWEN_7B)) for found in (plain, eight))
    assert second["kv_bytes_per_token"] * 2 == first["kv_bytes_per_token"]
    assert second["max_concurrency"] == pytest.approx(2 * first["max_concurrency"], rel=0.01)


def test_blocks_of_latent_attention() -> None:
    found = rows(DEEPSEEK_V2_LITE, ["H100", "A100-80GB"])
    sizes = {name: row.cache.settings.block_size for name, row in found.items() if row.cache}
    assert sizes == {"H100": 64, "A100-80GB": 16}


def test_a_cpu(tmp_path: Any) -> None:
    path = tmp_path / "cpu.yaml"
    path.write_text("gpus: [{name: server, memory_gib: 64, bandwidth: 100, tflops: {float16: 2}, capability: cpu}]")
    wanted = Wanted(Load(128, 64), ServerSettings(2048), ServiceLevel())
    (row,) = advise(model(QWEN_7B), wanted, gpus.read(path))
    assert row.wins
    assert row.cache is not None
    assert row.cache.settings.block_size == 128
    assert row.cost is not None
    assert row.cost.monthly is None
    assert advise(model(QWEN_7B, "int4"), wanted, gpus.read(path))[0].reason.startswith("no kernels")


def test_an_embedding_model_has_no_cache() -> None:
    bert = {
        "model_type": "bert",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "torch_dtype": "float16",
    }
    row = rows(bert, ["L4"], length=512, load=Load(200, 1))["L4"]
    assert row.wins
    assert row.to_dict(model(bert))["max_concurrency"] is None
    assert row.to_dict(model(bert))["single_user_tokens_per_second"] is None
    assert row.density is not None
    assert (row.density.instances, row.density.reason[:12]) == (1, "an embedding")
    asked = rows(bert, ["L4"], length=512, load=Load(200, 1), instances_per_gpu=4)["L4"]
    assert asked.density is not None
    assert asked.density.instances == 4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7000), st.integers(1, 1000), st.floats(1, 1e5), st.sampled_from([512, 4096, 8192]))
def test_every_gpu_gets_an_answer(prompt: int, output: int, rate: float, length: int) -> None:
    for row in rows(rate=rate, load=Load(prompt, output), length=length).values():
        assert row.wins or row.reason
        if row.wins:
            assert row.cost is not None
            assert row.cost.instances >= 1
