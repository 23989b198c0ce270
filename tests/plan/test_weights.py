from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from migrate.errors import NotFound, Refused, StoreError, UsageError
from migrate.plan import config as configs
from migrate.plan import weights
from migrate.plan.config import Config
from tests.plan.published import DEEPSEEK_V2_LITE, FIXTURES, GEMMA2_9B, LLAMA_8B, QWEN_7B, fixtures, tensors


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (LLAMA_8B, 8_030_261_248),
        (QWEN_7B, 7_615_616_512),
        (GEMMA2_9B, 9_241_705_984),
        (DEEPSEEK_V2_LITE, 15_706_484_224),
    ],
)
def test_published_parameter_counts(values: dict[str, Any], expected: int) -> None:
    assert sum(size.parameters for size in weights.from_config(Config(values))) == expected


@pytest.mark.parametrize("name", fixtures())
def test_a_bare_config_gives_the_tensors_of_its_checkpoint(name: str) -> None:
    found = {size.name: size.parameters for size in weights.from_config(configs.read(FIXTURES / name))}
    assert sum(found.values()) == sum(prod(shape) for _, shape in tensors(name).values())


def test_weights_as_vllm_logged_them() -> None:
    config = Config(LLAMA_8B)
    assert weights.weigh(weights.from_config(config), config, exact=False, origin="").nbytes / 2**30 == pytest.approx(
        14.96, abs=0.005
    )


SHARED = ("deepseek_v2", "gemma2", "gemma4", "granite", "mistral", "mixtral", "phi3", "qwen2", "qwen3", "qwen3_5")


@pytest.mark.parametrize("name", SHARED)
def test_headers_and_config_agree(shared: Path, name: str) -> None:
    directory = shared / "models" / name / "hf"
    config = configs.read(directory)
    counted = weights.from_files(directory, config)
    assert sum(size.nbytes for size in counted) == sum(size.nbytes for size in weights.from_config(config))
    files = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    assert 0 < files - sum(size.nbytes for size in counted) < 64 << 10  # the headers


def test_experts_that_are_released_quantized(shared: Path) -> None:
    directory = shared / "models" / "gpt_oss" / "hf"
    config = configs.read(directory)
    counted, expected = weights.from_files(directory, config), weights.from_config(config)
    assert sum(size.nbytes for size in counted) == sum(size.nbytes for size in expected)
    assert sum(size.parameters for size in counted) == sum(size.parameters for size in expected)


def test_a_dtype_that_vllm_casts_to(shared: Path) -> None:
    directory = shared / "models" / "qwen2" / "hf"
    config = configs.read(directory)
    wide = sum(size.nbytes for size in weights.from_files(directory, config, "float32"))
    assert wide == 2 * sum(size.nbytes for size in weights.from_files(directory, config))


def test_ways_to_store() -> None:
    config = Config(LLAMA_8B)
    sizes = weights.from_config(config)
    found = {way: weights.weigh(sizes, config, way, exact=False, origin="") for way in weights.WAYS}
    kept = 2 * 2 * 128256 * 4096 + 2 * (65 * 4096)  # embedding, head and norms stay in 16 bits
    matrices = 8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096
    assert found["dense"].nbytes == 2 * 8_030_261_248
    assert found["fp8"].nbytes == kept + matrices
    assert found["int8"].nbytes == kept + matrices + matrices // 16
    assert found["int4"].nbytes == kept + matrices // 2 + matrices // 16
    assert {way: weight.compute for way, weight in found.items()} == {
        "dense": "float16",
        "fp8": "fp8",
        "int8": "float16",
        "int4": "float16",
    }


def test_the_embedding_is_looked_up_unless_it_is_the_head() -> None:
    apart, tied = Config(LLAMA_8B), Config(LLAMA_8B | {"tie_word_embeddings": True})
    first, second = (weights.weigh(weights.from_config(c), c, exact=False, origin="") for c in (apart, tied))
    assert first.read_bytes == second.read_bytes == second.nbytes
    assert first.active_parameters == first.parameters - 128256 * 4096


def test_a_step_reads_the_experts_its_tokens_go_to() -> None:
    config = Config(DEEPSEEK_V2_LITE)
    found = weights.weigh(weights.from_config(config), config, exact=False, origin="")
    assert (found.experts, found.experts_per_token) == (64, 6)
    assert found.bytes_read(1) == pytest.approx(found.read_bytes + found.expert_bytes * 6 / 64)
    assert found.bytes_read(1) < found.bytes_read(8) < found.bytes_read(512) <= found.read_bytes + found.expert_bytes
    assert found.active_parameters == pytest.approx(2.4e9, rel=0.05)  # "2.4B activated"


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 16 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, 4.5),
        ({"quant_method": "fp8"}, 8),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "group_size": 32}}},
            },
            8.5,
        ),
    ],
)
def test_configs_of_quantized_models(quantization: dict[str, Any], bits: float) -> None:
    config = Config(LLAMA_8B | {"quantization_config": quantization})
    linear = [size for size in weights.from_config(config) if size.linear]
    assert sum(s.nbytes for s in linear) * 8 / sum(s.parameters for s in linear) == pytest.approx(bits, rel=1e-3)


@pytest.mark.parametrize("quantization", [{"quant_method": 5}, {"config_groups": [1]}, {"bits": "4"}, [], "awq"])
def test_odd_quantization_configs_do_no_harm(quantization: Any) -> None:
    config = Config(LLAMA_8B | {"quantization_config": quantization})
    assert sum(size.parameters for size in weights.from_config(config)) == 8_030_261_248


def test_another_way_is_refused() -> None:
    config = Config(LLAMA_8B)
    with pytest.raises(UsageError, match="int3"):
        weights.weigh(weights.from_config(config), config, "int3", exact=False, origin="")


def test_an_architecture_without_a_table() -> None:
    with pytest.raises(Refused, match="mamba") as caught:
        weights.check_known(Config(LLAMA_8B | {"model_type": "mamba"}))
    assert caught.value.hint is not None
    assert "safetensors" in caught.value.hint


def test_directories_without_or_with_damaged_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    config = configs.read(tmp_path)
    with pytest.raises(NotFound, match="no safetensors"):
        weights.from_files(tmp_path, config)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(StoreError, match="not a safetensors file"):
        weights.from_files(tmp_path, config)
