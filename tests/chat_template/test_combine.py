"""Several chat templates in one: each stays what it is, to the last blank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.chat_template.combine import KWARG, combine, prove_combined
from migrate.chat_template.environment import environment, render
from migrate.errors import Refused
from migrate.mapping.migration import plan
from migrate.ollama.store import Store

USER = [{"role": "user", "content": "hi"}]
OTHER = "{{- 'other' }}\n"

PIECES = [
    "text",
    "\n",
    "\n\n",
    "  ",
    "\t",
    "\r\n",
    "{{ messages[0].content }}",
    "{{- messages[0].content -}}",
    "{% if messages %}",
    "{%- if messages -%}",
    "{% endif %}",
    "{%- endif -%}",
    "{%- endif %}",
    "{%+ if true %}",
    "{# note #}",
    "{#- note -#}",
    "{% set x = 1 %}",
    "{{ x }}",
    "{% raw %}{{ x }}{% endraw %}",
    "{% macro f(a) %}<{{ a }}>{% endmacro %}",
    "{{ f(1) }}",
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ raise_exception('no') }}",
]


def outcome(jinja: str, **kwargs: Any) -> str | type[Exception]:
    """The text, or what the template raises."""
    try:
        return render(jinja, USER, **kwargs)
    except (jinja2.TemplateError, TypeError) as error:
        return type(error)


def parses(jinja: str) -> bool:
    try:
        environment().parse(jinja)
    except jinja2.TemplateSyntaxError:
        return False
    return True


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=4, unique=True))
def test_every_template_renders_what_it_renders_alone(sources: list[str]) -> None:
    templates = {f"m{i}": jinja for i, jinja in enumerate([s for s in sources if parses(s)] or ["x"])}
    combined = combine(templates)
    for name, jinja in templates.items():
        assert outcome(combined, **{KWARG: name}) == outcome(jinja)
    assert outcome(combined) == outcome(combined, **{KWARG: "nobody"}) == outcome(templates["m0"])


@pytest.mark.parametrize(
    "jinja",
    [
        "\n  a",
        "a\n   ",
        "a\n\n",
        "a\r\n\r\n",
        " {%- if true %}b{% endif -%}  \n\n",
        "{% if true %}\n x\n{% endif %}\n \n",
    ],
)
def test_whitespace_at_the_edges(jinja: str) -> None:
    for templates in ({"a": jinja, "b": OTHER}, {"b": OTHER, "a": jinja}, {"b": OTHER, "c": "c", "a": jinja}):
        assert render(combine(templates), USER, migrate_variant="a") == render(jinja, USER)


def test_equal_templates_share_a_branch() -> None:
    combined = combine({"a": "1", "b": "2", "c": "2", "d": "1"})
    assert combined.count("elif") == 0
    assert 'in ["b", "c"]' in combined
    assert [render(combined, USER, migrate_variant=n) for n in "abcd"] == ["1", "2", "2", "1"]


def test_one_template_is_left_as_it_is() -> None:
    assert combine({"a": OTHER, "b": OTHER}) == OTHER


def test_the_kwarg_is_one_the_template_declares() -> None:
    """vLLM hands over only what jinja2's analysis finds in the template."""
    from jinja2 import meta

    combined = combine({"a": "{{ enable_thinking }}", "b": "{% set enable_thinking = 1 %}{{ enable_thinking }}"})
    assert {KWARG, "enable_thinking"} <= meta.find_undeclared_variables(environment().parse(combined))


@pytest.mark.parametrize("jinja", ["{% extends 'x' %}", "{% block a %}{% endblock %}", "{% if %}"])
def test_what_cannot_stand_in_a_branch(jinja: str) -> None:
    with pytest.raises(Refused, match="chat template of b"):
        combine({"a": "1", "b": jinja})


def test_names_are_names() -> None:
    with pytest.raises(ValueError, match="no name"):
        combine({'a" or true or "': "1"})


def test_the_models_of_two_stores(shared: Path) -> None:
    """All of them in one template: the battery of conversations gets from each what its own template gives."""
    templates: dict[str, str] = {}
    for store in ("ollama/store", "ollama/modern/store"):
        for listed in Store(shared / store).list():
            if jinja := plan(Store(shared / store).load(listed)).chat_template:
                templates[listed.model] = jinja
    assert len(templates) >= 10
    tokens = {"bos_token": "<|begin_of_text|>", "eos_token": "<|im_end|>"}
    for name, checks in prove_combined(templates, combine(templates), tokens=tokens).items():
        assert [c.describe() for c in checks if c.expected != c.got] == [], name
        assert any(c.expected for c in checks), name


def test_the_proof_notices_a_wrong_branch() -> None:
    proof = prove_combined({"a": "1", "b": "2"}, "1", conversations={"x": {"messages": USER}})
    assert {name: checks[0].verdict for name, checks in proof.items()} == {"a": "exact", "b": "wrong"}
