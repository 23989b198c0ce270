"""The table of types is gguf-py's."""

from __future__ import annotations

import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from migrate.gguf.types import REMOVED_TYPES, GGMLType, file_type_name


def test_ids_names_and_geometry_are_those_of_gguf_py() -> None:
    ours = {kind.name: (int(kind), kind.block_size, kind.block_bytes) for kind in GGMLType}
    theirs = {kind.name: (int(kind), *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    assert ours == theirs
    assert not REMOVED_TYPES.keys() & {int(kind) for kind in GGMLType}


@pytest.mark.parametrize("kind", [kind for kind in LlamaFileType if kind.name != "GUESSED"])
def test_file_type_names(kind: LlamaFileType) -> None:
    expected = kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
    assert file_type_name(int(kind)) == expected
    assert file_type_name(int(kind) | 1024) == expected


def test_unknown_file_type_has_no_name() -> None:
    assert file_type_name(999) is None


def test_bits_per_weight() -> None:
    assert GGMLType.Q4_K.bits_per_weight == 4.5
    assert GGMLType.Q4_K.is_quantized
    assert not GGMLType.BF16.is_quantized
