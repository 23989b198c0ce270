"""The Jinja environment that chat templates run in: transformers' (and so vLLM's), without needing transformers.

Facts: transformers/utils/chat_template_utils.py of 5.19. jinja2 is imported when something is rendered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def environment(*, today: date | None = None) -> ImmutableSandboxedEnvironment:
    """Sandboxed, blocks trimmed, loop controls, `tojson` without HTML escaping. `today` freezes `strftime_now`."""
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception

    def strftime_now(format: str) -> str:
        now = datetime.now()
        return (datetime.combine(today, now.time()) if today else now).strftime(format)

    env.globals["strftime_now"] = strftime_now
    return env


def render(
    jinja: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    today: date | None = None,
    **kwargs: Any,
) -> str:
    """The prompt for messages in OpenAI's shape. Raises jinja2.TemplateError where the template raises."""
    template = _compiled(jinja, today)
    arguments = {"bos_token": "", "eos_token": "", "documents": None, **kwargs}
    return template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt, **arguments)


@lru_cache(maxsize=64)
def _compiled(jinja: str, today: date | None) -> Template:
    return environment(today=today).from_string(jinja)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)
