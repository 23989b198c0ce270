"""Our Jinja environment against the one of the installed transformers."""

from __future__ import annotations

import jinja2
import pytest

from migrate.chat_template import environment, native, render, translate

USER = {"role": "user", "content": "Hi"}
TEXTS = [
    "  {% if true %}\n    {{ 'a' }}\n  {% endif %}\nb\n",
    "{{ {'b': '<é>', 'a': 1}|tojson }} {{ [1]|tojson(indent=2) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{{ strftime_now('%Y') }}{{ missing }}{{ messages[0].content|e }}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_environment_is_transformers_own(text: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [USER, {"role": "assistant", "content": "<b>"}]
    theirs, _ = utils.render_jinja_template([messages], chat_template=text)
    assert render(text, messages, add_generation_prompt=False) == theirs[0]


def test_translations_render_alike_in_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    template = "{{ .System }}{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}{{ json .Tools }}{{ .Think }}"
    jinja = translate(template, system="S").jinja
    tools = [{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]
    theirs, _ = utils.render_jinja_template([[USER, USER]], tools, chat_template=jinja, add_generation_prompt=True)
    assert render(jinja, [USER, USER], tools=tools) == theirs[0]


def test_the_sandbox_is_closed() -> None:
    with pytest.raises(jinja2.exceptions.SecurityError):
        environment().from_string("{{ ''.__class__.__mro__ }}").render()


OWN = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}\n"


def test_the_ggufs_own_template_is_left_alone() -> None:
    assert native(OWN).jinja == OWN


def test_system_and_messages_go_around_the_ggufs_own_template() -> None:
    jinja = native(OWN, system="S", messages=[{"role": "user", "content": "q"}]).jinja
    assert render(jinja, [USER], bos_token="<s>") == "<s>[system]S[user]q[user]Hi"
    assert render(jinja, [{"role": "system", "content": "T"}, USER]) == "[user]q[system]T[user]Hi"
    assert render(native(OWN, system="S").jinja, [USER]) == "[system]S[user]Hi"
