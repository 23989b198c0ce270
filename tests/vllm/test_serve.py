from __future__ import annotations

import pytest
import yaml

from migrate.vllm.generation import GenerationConfig
from migrate.vllm.serve import Argument, to_yaml

TEXTS = [
    "plain",
    "a: b",
    "# no comment",
    "'",
    '"',
    "{x: 1}",
    "[1]",
    "- a",
    "1",
    "1e3",
    "~",
    "",
    " ",
    "é 漢 🙂",
    "a\nb",
    "x" * 300,
]
OTHERS = [0, 2048, True, False, ["a", "a:latest"], ["yes", "a, b", "#"]]


@pytest.mark.parametrize("value", [*TEXTS, *OTHERS])
@pytest.mark.parametrize("origin", ["PARAMETER num_ctx 8192", "two\nlines", "\x1b[31m", ""])
def test_any_value_survives_yaml(value: str | int | bool | list[str], origin: str) -> None:
    text = to_yaml([Argument("served-model-name", value, origin), Argument("port", 8000, "")], "a header")
    assert yaml.safe_load(text) == {"served-model-name": value, "port": 8000}


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "null", "true"])
def test_words_that_yaml_would_read_as_something_else_are_quoted(word: str) -> None:
    assert yaml.safe_load(to_yaml([Argument("dtype", word, "")], "")) == {"dtype": word}


def test_generation_config_leaves_unset_keys_out() -> None:
    config = GenerationConfig(0.2, 20, 0.95, 0.05, 1.0, 0.0, 0.0, None, (7,), bos_token_id=1)
    written = config.to_dict()
    assert written["eos_token_id"] == 7
    assert "max_new_tokens" not in written
    assert "pad_token_id" not in written
    assert written["do_sample"] is True


def test_several_eos_ids_are_a_list() -> None:
    config = GenerationConfig(0, 0, 1, 0, 1, 0, 0, 64, (7, 9))
    assert config.to_dict()["eos_token_id"] == [7, 9]
    assert config.to_dict()["max_new_tokens"] == 64
    assert config.to_dict()["do_sample"] is False
