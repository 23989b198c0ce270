"""Random templates and conversations: the chat template prints what Ollama prints, or raises."""

from __future__ import annotations

from datetime import date
from random import Random

import pytest

from migrate.chat_template import prove, translate
from migrate.errors import Refused, TemplateError
from tests.chat_template.generated import TemplateWriter, conversation

_MODEL_MESSAGES = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]


@pytest.mark.parametrize("block", range(8))
def test_generated_templates_are_never_wrong(block: int) -> None:
    translated = 0
    for seed in range(block * 50, block * 50 + 50):
        random = Random(seed)
        template = TemplateWriter(random).template()
        system, messages = random.choice([None, "Sys"]), random.choice([(), _MODEL_MESSAGES])
        try:
            jinja = translate(template, system=system, messages=messages).jinja
        except (Refused, TemplateError):
            continue
        conversations = {f"{seed}.{i}": conversation(random) for i in range(5)}
        proof = prove(
            template, jinja, system=system, messages=messages, conversations=conversations, today=date(2024, 3, 1)
        )
        assert [check.describe() for check in proof.of("wrong")] == [], template
        translated += 1
    assert translated > 30
