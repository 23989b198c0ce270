"""What Ollama does to a conversation before its template sees it, in Jinja.

SYSTEM and MESSAGE of the Modelfile, neighbours of one role merged (`collate`), `.System` gathered, thinking switches.
Only what the translated template reads is written out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.chat_template import jinja_ast as j
from migrate.chat_template.emit import quoted
from migrate.chat_template.jinja_ast import Source

MERGE_COMMENT = "{#- Ollama merges neighbouring messages of one role. #}"

_FIELDS = {
    "thinking": "message.reasoning or message.reasoning_content or message.thinking or ''",
    "tool_calls": "message.tool_calls or []",
    "tool_name": "tool_name(messages, message) if role == 'tool' else ''",
    "tool_call_id": "message.tool_call_id or ''",
}

TEXT_ONLY = "{{- raise_exception('migrate: message content must be text') if content is not string }}"


def modelfile(system: str | None, messages: Sequence[Mapping[str, Any]]) -> list[j.Stmt]:
    """Puts SYSTEM (unless the request begins with a system message) and the MESSAGE lines before the request."""
    lines: list[str] = []
    if system:
        lines.append(f"{{%- set system_prompt = {multiline(system)} %}}")
    turns = ",\n".join(
        f"    {{'role': {quoted(str(m['role']).lower())}, 'content': {multiline(str(m.get('content') or ''))}}}"
        for m in messages
    )
    before = "[{'role': 'system', 'content': system_prompt}]"
    first_is_not_system = "messages[0].role|lower != 'system'"
    if messages:
        start = f"({before} if {first_is_not_system} else [])" if system else ""
        lines.append(f"{{%- set messages = {start + ' + ' if start else ''}[\n{turns}\n] + messages %}}")
    elif system:
        lines += [
            f"{{%- if {first_is_not_system} %}}",
            f"    {{%- set messages = {before} + messages %}}",
            "{%- endif %}",
        ]
    return [Source("\n".join(lines))] if lines else []


def without_thinking() -> list[j.Stmt]:
    """Cuts the reasoning that clients sent back as text out of earlier answers (Ollama's filterThinkTags)."""
    lines = [
        "{#- Ollama cuts the reasoning out of earlier answers. #}",
        "{%- set history = namespace(messages=[], last_user=-1) %}",
        "{%- for message in messages %}",
        "    {%- set history.last_user = loop.index0 if message.role|lower == 'user' else history.last_user %}",
        "{%- endfor %}",
        "{%- for message in messages %}",
        "    {%- set content = message.content or '' %}",
        "    {%- if message.role|lower == 'assistant' and loop.index0 < history.last_user and content is string %}",
        "        {%- set start = content.lstrip() %}",
        "        {%- if start.startswith('<think>') %}",
        "            {%- set content = start.partition('</think>')[2].lstrip() %}",
        "        {%- elif '<think>'.startswith(start) %}",
        "            {%- set content = '' %}",
        "        {%- endif %}",
        "        {%- set message = dict(message, content=content) %}",
        "    {%- endif %}",
        "    {%- set history.messages = history.messages + [message] %}",
        "{%- endfor %}",
        "{%- set messages = history.messages %}",
    ]
    return [Source("\n".join(lines))]


def multiline(text: str) -> str:
    """A string literal; a long text is written line by line."""
    if len(text) <= 100 or "\n" not in text.strip("\n"):
        return quoted(text)
    parts = text.split("\n")
    lines = [part + "\n" for part in parts[:-1]] + [parts[-1]] * bool(parts[-1])
    return "(\n" + " +\n".join(f"    {quoted(line)}" for line in lines) + "\n)"


def collate(read: set[str], *, turns: bool, system: bool) -> list[j.Stmt]:
    """`chat.turns`: the messages with neighbours merged; `system`: all system messages. `read`: fields of a turn."""
    if not turns and not system:
        return []
    extra = [name for name in _FIELDS if name in read]
    start = ", ".join(["turns=[]"] * turns + ["system=[]"] * system)
    lines = [MERGE_COMMENT] if turns else []
    lines += [f"{{%- set chat = namespace({start}) %}}", "{%- for message in messages %}"]
    lines += ["    {%- set role, content = message.role|lower, message.content or '' %}", f"    {TEXT_ONLY}"]
    if system:
        lines += [
            "    {%- if role == 'system' %}",
            "        {%- set chat.system = chat.system + [content] %}",
            "    {%- endif %}",
        ]
    if turns:
        new = ", ".join(["'role': role", "'content': content"] + [f"'{name}': {_FIELDS[name]}" for name in extra])
        merged = ["'role': role", "'content': last.content + '\\n\\n' + content"]
        merged += [f"'{name}': last.{name}" for name in extra]
        lines += [
            "    {%- if loop.first or role == 'tool' or role != loop.previtem.role|lower %}",
            f"        {{%- set chat.turns = chat.turns + [{{{new}}}] %}}",
            "    {%- else %}",
            "        {%- set last = chat.turns[-1] %}",
            f"        {{%- set chat.turns = chat.turns[:-1] + [{{{', '.join(merged)}}}] %}}",
            "    {%- endif %}",
        ]
    lines.append("{%- endfor %}")
    if system:
        lines.append("{%- set system = chat.system|join('\\n\\n') %}")
    return [Source("\n".join(lines))]


def thinking(names: set[str], default: bool | None) -> list[j.Stmt]:
    """`think_set`, `think`, `think_level` from vLLM's `enable_thinking` and `reasoning_effort`.

    `default` is what an unset request means: None (not set), or what the server fills in for a thinking model.
    """
    wanted = names & {"think_set", "think", "think_level"}
    if not wanted:
        return []
    lines = [
        "{%- set effort = reasoning_effort|default('', true) %}",
        "{%- set switch = enable_thinking|default(none) %}",
    ]
    if "think_set" in wanted:
        is_set = "switch is not none or effort != ''" if default is None else "true"
        lines.append(f"{{%- set think_set = {is_set} %}}")
    if wanted & {"think", "think_level"}:
        unset = "effort != 'none'" if default else "effort not in ['', 'none']"
        lines.append(f"{{%- set think = switch if switch is not none else {unset} %}}")
    if "think_level" in wanted:
        lines += [
            "{%- if effort not in ['', 'none', 'low', 'medium', 'high', 'max'] %}",
            "    {{- raise_exception('migrate: Ollama knows no reasoning_effort ' + effort) }}",
            "{%- endif %}",
            "{%- set think_level = (effort if effort not in ['', 'none'] else 'medium') if think else '' %}",
        ]
    return [Source("\n".join(lines))]


def legacy_loop(tail: list[str]) -> list[j.Stmt]:
    """Runs `turn` for every exchange, as Ollama runs a template without Messages.

    `tail` are the lines that print a finished turn.
    """
    lines = [
        "{%- set chat = namespace(system='', prompt='', response='') %}",
        "{%- for message in messages %}",
        "    {%- set role, content = message.role|lower, message.content or '' %}",
        f"    {TEXT_ONLY}",
        "    {%- set merge = not loop.first and role == loop.previtem.role|lower %}",
        "    {%- if role == 'system' %}",
        "        {%- if chat.prompt or chat.response %}",
        *("            " + line for line in tail),
        "            {%- set chat.prompt = '' %}",
        "            {%- set chat.response = '' %}",
        "        {%- endif %}",
        "        {%- set chat.system = chat.system + '\\n\\n' + content if merge else content %}",
        "    {%- elif role == 'user' %}",
        "        {%- if chat.response %}",
        *("            " + line for line in tail),
        "            {%- set chat.system = '' %}",
        "            {%- set chat.response = '' %}",
        "        {%- endif %}",
        "        {%- set chat.prompt = chat.prompt + '\\n\\n' + content if merge else content %}",
        "    {%- elif role == 'assistant' %}",
        "        {%- set chat.response = chat.response + '\\n\\n' + content if merge else content %}",
        "    {%- endif %}",
        "{%- endfor %}",
    ]
    return [Source("\n".join(lines))]
