"""Where the answer is opened, in text that also ends the user's turn."""

from __future__ import annotations

import pytest

from migrate.chat_template import render, translate
from migrate.chat_template.generation import opening


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("\n\n### Response:\n", "### Response:\n"),
        ("<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>assistant\n"),
        (
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("<|end_of_turn|>GPT4 Correct Assistant: ", "GPT4 Correct Assistant: "),
        ("<｜Assistant｜>", "<｜Assistant｜>"),
        ("</s>\n<|assistant|>\n", "<|assistant|>\n"),
        (" ASSISTANT:", " ASSISTANT:"),
        (" [/INST] ", None),
    ],
)
def test_opening(text: str, rest: str | None) -> None:
    at = opening(text)
    assert (None if at is None else text[at:]) == rest


@pytest.mark.parametrize(
    ("template", "without"),
    [
        ("### Instruction:\n{{ .Prompt }}\n\n### Response:\n{{ .Response }}", "### Instruction:\nHi\n\n"),
        ("USER: {{ .Prompt }} ASSISTANT:", "USER: Hi"),
    ],
)
def test_left_out_when_not_wanted(template: str, without: str) -> None:
    jinja = translate(template).jinja
    user = {"role": "user", "content": "Hi"}
    assert render(jinja, [user], add_generation_prompt=False) == without
    assert render(jinja, [user]).startswith(without)
    begun = [user, {"role": "assistant", "content": "Yes"}]
    assert render(jinja, begun, add_generation_prompt=False) == render(jinja, begun)
