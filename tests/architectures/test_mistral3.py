"""Architecture "mistral3": Ministral 3 with YaRN and queries scaled by position, Mistral Small 3 with neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate import architectures
from migrate.architectures.base import ModelLayout
from migrate.errors import Refused
from migrate.gguf.header import read_header
from tests.architectures import families
from tests.architectures.test_variants import contents
from tests.gguf.build import build


def without(directory: Path, *words: str, **more: Any) -> ModelLayout:
    """The tiny Ministral 3 without the keys that have one of `words` in them."""
    metadata, tensors = contents(read_header(families.load("ministral3").gguf))
    kept = {key: value for key, value in metadata.items() if not any(word in key for word in words)}
    path = directory / "x.gguf"
    path.write_bytes(build(kept | more, list(tensors.values())))
    return architectures.read(read_header(path))


def test_ministral_3_has_its_scale_where_both_look(tmp_path: Path) -> None:
    layout = without(tmp_path)
    assert layout.architecture.model_type == "ministral3"
    assert layout.config["rope_parameters"]["llama_4_scaling_beta"] == 0.1
    assert layout.config["llama_4_scaling"] == {"original_max_position_embeddings": 64, "beta": 0.1}


def test_yarn_alone_scales_nothing_by_position(tmp_path: Path) -> None:
    """transformers' class computes with the number whether it is there or not."""
    layout = without(tmp_path, "temperature_scale")
    assert layout.config["rope_parameters"]["llama_4_scaling_beta"] == 0.0


def test_mistral_small_3_is_a_mistral(tmp_path: Path) -> None:
    layout = without(tmp_path, "rope.scaling", "temperature_scale")
    assert (layout.architecture.model_type, layout.architecture.class_name) == ("mistral", "MistralForCausalLM")
    assert layout.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1000000.0}
    assert layout.config["sliding_window"] is None
    (tmp_path / "other").mkdir()
    assert [t.target for t in layout.tensors] == [t.target for t in without(tmp_path / "other").tensors]


def test_a_scale_without_yarn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no YaRN"):
        without(tmp_path, "rope.scaling")
