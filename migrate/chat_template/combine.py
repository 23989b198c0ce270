"""Several chat templates in one, which a server's chat-template kwarg `migrate_variant` chooses from; with proof.

vLLM has one chat template per server and hands a request's `chat_template_kwargs` to it, those that it mentions
(vllm/renderers/hf.py, resolve_chat_template_kwargs). A template stands in its branch character for character: with
transformers' `trim_blocks` and `lstrip_blocks` the tags around it have to leave its whitespace alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from migrate.chat_template.bounded import render_all
from migrate.chat_template.prove import BATTERY, Check
from migrate.errors import Refused

KWARG = "migrate_variant"
_NEWLINE = re.compile(r"\r\n|\r|\n")
_NAME = re.compile(r"[A-Za-z0-9._:/-]+")


def combine(templates: Mapping[str, str]) -> str:
    """One template for all: the first is also for requests without the kwarg; equal templates share a branch.

    `templates`: name -> chat template. A template that all share is returned as it is. Raises Refused for templates
    that inherit from others (`extends`, `block`), ValueError for names that could be no name of a model.
    """
    if bad := [name for name in templates if not _NAME.fullmatch(name)]:
        raise ValueError(f"no name of a model: {bad}")
    first, *_ = templates.values()
    branches: dict[str, list[str]] = {}
    for name, jinja in templates.items():
        branches.setdefault(jinja, []).append(name)
    if len(branches) == 1:
        return first
    for jinja, names in branches.items():
        _check(jinja, names[0])
    keyword, parts = "{%- if", []
    for jinja, names in branches.items():
        if jinja == first:
            continue
        # `+` keeps lstrip_blocks from the whitespace that ends the template before it; the newline behind a tag goes
        parts.append(f"{keyword} {_test(names)} %}}\n{_without_last_newline(jinja)}")
        keyword = "{%+ elif"
    return "".join([*parts, "{%+ else %}\n", _without_last_newline(first), "{%+ endif %}\n"])


def _test(names: list[str]) -> str:
    wanted = f'== "{names[0]}"' if len(names) == 1 else "in [" + ", ".join(f'"{name}"' for name in names) + "]"
    return f"{KWARG} is defined and {KWARG} {wanted}"


def _without_last_newline(jinja: str) -> str:
    """Jinja drops one newline at the end of a template, whatever it is (jinja2/lexer.py)."""
    ends = list(_NEWLINE.finditer(jinja))
    return jinja[: ends[-1].start()] if ends and ends[-1].end() == len(jinja) else jinja


def _check(jinja: str, name: str) -> None:
    import jinja2
    from jinja2 import nodes

    from migrate.chat_template.environment import environment

    try:
        tree = environment().parse(jinja)
    except jinja2.TemplateSyntaxError as error:
        raise Refused(f"the chat template of {name} does not parse: {error}") from None
    if next(tree.find_all((nodes.Extends, nodes.Block)), None) is not None:
        raise Refused(f"the chat template of {name} uses `extends` or `block`, which cannot stand in a branch")


def prove_combined(
    templates: Mapping[str, str],
    combined: str,
    *,
    tokens: Mapping[str, str] | None = None,
    conversations: Mapping[str, Mapping[str, Any]] = BATTERY,
) -> dict[str, list[Check]]:
    """Every conversation through each template alone and through the combined one under its name.

    `tokens`: bos_token and eos_token. A template that raises has to raise there, too: such a Check is exact with no
    text. Raises Refused for a template that does not end.
    """
    requests, given = list(conversations.values()), dict(tokens or {})
    proof = {}
    for name, jinja in templates.items():
        expected = render_all(jinja, requests, tokens=given)
        got = render_all(combined, requests, tokens=given | {KWARG: name})
        pairs = zip(conversations, expected, got, strict=True)
        proof[name] = [Check(conversation, a, b) for conversation, a, b in pairs]
    return proof
