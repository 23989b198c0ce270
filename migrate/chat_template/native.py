"""The GGUF's own chat template, as Ollama's native path has llama-server render it.

Facts (server/routes.go, llm/llama_server.go, llama.cpp's common/chat.cpp): SYSTEM, the MESSAGE lines and the request's
messages go to llama-server in this order, neighbours of one role are not merged, and the reasoning of earlier answers
is not sent. llama-server uses the variant `tool_use`, if there is one, for requests with tools, always says
`enable_thinking`, and adds BOS where the tokenizer does, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.chat_template import emit, prelude
from migrate.chat_template.convert import Translation
from migrate.chat_template.jinja_ast import Source

_WITHOUT_REASONING = """\
{#- Ollama does not send the reasoning of earlier answers. #}
{%- set history = namespace(messages=[]) %}
{%- for message in messages %}
    {%- set fields = message|items|rejectattr(0, 'in', ['reasoning', 'reasoning_content', 'thinking']) %}
    {%- set history.messages = history.messages + [dict(fields)] %}
{%- endfor %}
{%- set messages = history.messages %}"""

_THINKING_ON = "{%- set enable_thinking = enable_thinking|default(true) %}"


def native(
    jinja: str,
    *,
    system: str | None = None,
    messages: Sequence[Mapping[str, Any]] = (),
    tool_use: str | None = None,
    bos_token: str | None = None,
    filter_think_tags: bool = False,
) -> Translation:
    """`jinja` with what Ollama and llama-server do around it; `jinja` itself where that is nothing.

    `tool_use` is the GGUF's variant for requests with tools. `bos_token` is the text of BOS where the tokenizer adds
    it: printed first if the template does not mention it.
    """
    body = jinja
    if tool_use is not None and tool_use != jinja:
        body = f"{{%- if tools %}}{_branch(tool_use)}{{% else %}}{_branch(jinja)}{{% endif %}}"
    setup = prelude.modelfile(system, messages)
    if filter_think_tags:
        setup += prelude.without_thinking()
    if any(field in body for field in ("reasoning", "message.thinking", "message['thinking']")):
        setup.append(Source(_WITHOUT_REASONING))
    if "enable_thinking" in body:
        setup.append(Source(_THINKING_ON))
    start = "{{- bos_token }}" if bos_token and bos_token not in body and "bos_token" not in body else ""
    return Translation((emit.render(setup) if setup else "") + start + body)


def _branch(jinja: str) -> str:
    """A template between two tags: Jinja drops the first newline behind a tag, and one at the end of a template."""
    return ("\n" if jinja.startswith("\n") else "") + jinja.removesuffix("\n")
