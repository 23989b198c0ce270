from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput, MigrateError, NotFound, UsageError
from migrate.plan import gpus
from migrate.vllm.gpus import parse

ENTRY = "gpus:\n  - {name: X, memory_gib: 10, bandwidth: 100, tflops: {float16: 10}, capability: '8.9'}\n"


def test_our_table_is_sound() -> None:
    table = gpus.load()
    assert len(table) >= 15
    for gpu in table:
        assert gpu.price is not None
        assert gpu.price.date >= "2026"
        assert ("fp8" in gpu.tflops) == ((gpu.compute_capability or (0, 0)) >= (8, 9))


@pytest.mark.parametrize("gpu", gpus.load(), ids=lambda gpu: str(gpu.name))
def test_capabilities_agree_with_the_table_for_conversion(gpu: gpus.Gpu) -> None:
    name = gpu.name.removesuffix("-32GB").removesuffix("-40GB").removesuffix("-80GB").removesuffix("-PCIE")
    try:
        target = parse(name)
    except UsageError:
        assert gpu.name == "RTX6000-ADA"
        return
    assert target.capability == gpu.compute_capability


def test_ones_own_file_replaces_and_adds(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ENTRY.replace("name: X", "name: nvidia l4") + ENTRY.split("\n", 1)[1].replace("name: X", "name: Y"))
    table = {gpu.name: gpu for gpu in gpus.load(path)}
    assert "L4" not in table
    assert table["nvidia l4"].memory_gib == table["Y"].memory_gib == 10
    assert table["Y"].price is None
    assert len(table) == len(gpus.load()) + 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["L4"], ["L4"]),  # not L40S
        (["l40s", "L4"], ["L40S", "L4"]),
        (["A100"], ["A100-40GB", "A100-80GB"]),
        (["NVIDIA H100 PCIe"], ["H100-PCIE"]),
        (["GeForce RTX 4090"], ["RTX4090"]),
    ],
)
def test_selecting(names: list[str], expected: list[str]) -> None:
    assert [gpu.name for gpu in gpus.select(gpus.load(), names)] == expected


@pytest.mark.parametrize("name", ["", "MI300X", "--", "*"])
def test_a_name_nobody_has(name: str) -> None:
    with pytest.raises(UsageError, match="not in the table"):
        gpus.select(gpus.load(), [name])


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "aliases"),
        ("gpus: !!python/object/apply:os.system ['true']", "not plain YAML"),
        ("gpus: [", "not plain YAML in line"),
        ("\x00", "not plain YAML"),
        ("[" * 5000, "not plain YAML"),
        ("{a: " * 5000, "not plain YAML"),
        ("- " * 5000, "not plain YAML"),
        ("? " * 5000, "not plain YAML"),
        ("[" + "a," * 100_000 + "]", "far too many"),
        ("", "the file"),
        ("gpus: 3", "gpus"),
        ("gpus: []\nmore: 1", "more"),
        (ENTRY.replace("memory_gib: 10", "memory_gib: -1"), "memory_gib"),
        (ENTRY.replace("memory_gib: 10", "memory_gib: 1e300"), "memory_gib"),
        (ENTRY.replace("memory_gib: 10", "memory_gib: .nan"), "memory_gib"),
        (ENTRY.replace("float16: 10", "int8: 10"), "tflops"),
        (ENTRY.replace("float16: 10", "fp8: 10"), "float16"),
        (ENTRY.replace("'8.9'", "eight"), "capability"),
        (ENTRY.replace("name: X", "name: 'X\\e[31m'"), "name"),
        (ENTRY.replace("name: X", 'name: "X\\e[31m"'), "name"),
        (ENTRY + ENTRY.split("\n", 1)[1], "twice"),
        (ENTRY.replace("'8.9'", "'8.9', price: {typical: 3, low: 1, high: 2, date: 2026-05, source: x}"), "low"),
        (ENTRY.replace("'8.9'", "'8.9', price: {typical: 3, low: 1, high: 4, date: May, source: x}"), "date"),
    ],
)
def test_hostile_and_mistaken_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(content)
    with pytest.raises(BadInput, match=message) as caught:
        gpus.read(path)
    assert len(str(caught.value)) < 600


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        gpus.read(tmp_path / "none.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (gpus.MAX_BYTES + 1))
    with pytest.raises(BadInput, match="larger than"):
        gpus.read(large)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00gpus")
    with pytest.raises(BadInput, match="not plain YAML"):
        gpus.read(binary)


def test_dates_are_read_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(ENTRY.replace("'8.9'", "'8.9', price: {typical: 1, low: 1, high: 1, date: 2026-11-25, source: me}"))
    price = gpus.read(path)[0].price
    assert price is not None
    assert price.date == "2026-11-25"


def test_flops_by_dtype() -> None:
    table = {gpu.name: gpu for gpu in gpus.load()}
    assert table["H100"].flops("fp8") > table["H100"].flops("float16") > table["H100"].flops("float32")
    assert table["A100-80GB"].flops("fp8") == table["A100-80GB"].flops("float16")


_YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "memory_gib", "bandwidth", "tflops", "float16", "capability", "price", "date"]),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@given(_YAML)
def test_any_yaml_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"gpus": [value]}))
    try:
        assert gpus.read(path)[0].memory > 0
    except MigrateError as error:
        assert "any.yaml" in str(error)  # noqa: PT017 - both ways out are right
