"""Jinja macros for what Go prints and Jinja does not: JSON in encoding/json's form, `%v`, dates.

encoding/json: no blanks, map keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped, every number a float64 (Ollama
decodes requests that way). Tools are Go structs: fields in the order of api/types.go, unknown schema keys dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

_MACROS: dict[str, tuple[tuple[str, ...], str]] = {
    "json_number": (
        (),
        r"""
{#- A number as Go prints a float64 in JSON. #}
{%- macro json_number(value) %}
    {%- set size = value|abs %}
    {%- if size < 1e16 and value == value|int %}
        {{- '%.0f'|format(value) }}
    {%- elif size < 1e21 and value == value|int %}
        {%- set shortest = (size|float|string).split('e+') %}
        {%- set digits = shortest[0]|replace('.', '') %}
        {{- ('-' if value < 0 else '') + digits + '0' * (shortest[1]|int + 1 - digits|length) }}
    {%- elif 1e-6 <= size < 1e-4 %}
        {%- set digits = (size|string).split('e-0') %}
        {{- ('-0.' if value < 0 else '0.') + '0' * (digits[1]|int - 1) + digits[0]|replace('.', '') }}
    {%- else %}
        {{- value|float|string|replace('e-0', 'e-') }}
    {%- endif %}
{%- endmacro %}""",
    ),
    "json": (
        ("json_number",),
        r"""
{#- JSON as Go writes it: compact, keys sorted, HTML characters escaped. #}
{%- macro json(value) %}
    {%- if value is mapping %}
        {{- '{' }}
        {%- for key, item in value|dictsort(true) %}
            {{- json(key) + ':' + json(item) + ('' if loop.last else ',') }}
        {%- endfor %}
        {{- '}' }}
    {%- elif value is string %}
        {{- value|tojson|replace('&', '\\u0026')|replace('<', '\\u003c')|replace('>', '\\u003e')
            |replace('\u2028', '\\u2028')|replace('\u2029', '\\u2029') }}
    {%- elif value is boolean or value is none %}
        {{- value|tojson }}
    {%- elif value is number %}
        {{- json_number(value) }}
    {%- elif value is sequence %}
        {{- '[' }}
        {%- for item in value %}
            {{- json(item) + ('' if loop.last else ',') }}
        {%- endfor %}
        {{- ']' }}
    {%- else %}
        {{- raise_exception('migrate: a value that is not JSON') }}
    {%- endif %}
{%- endmacro %}""",
    ),
    "json_property": (
        ("json",),
        r"""
{#- A property of a tool's parameters: the keys Ollama knows, in its order. #}
{%- macro json_property(property) %}
    {%- set parts = namespace(any_of=[], all=[]) %}
    {%- for option in property.anyOf or [] %}
        {%- set parts.any_of = parts.any_of + [json_property(option)] %}
    {%- endfor %}
    {%- if parts.any_of %}
        {%- set parts.all = ['"anyOf":[' + parts.any_of|join(',') + ']'] %}
    {%- endif %}
    {%- if property.type or property.type in ['', none] %}
        {%- set type = property.type or '' %}
        {%- set type = type[0] if type is not string and type|length == 1 else type %}
        {%- set parts.all = parts.all + ['"type":' + json(type)] %}
    {%- endif %}
    {%- if property.get('items') is not none %}
        {%- set parts.all = parts.all + ['"items":' + json(property.get('items'))] %}
    {%- endif %}
    {%- if property.description %}
        {%- set parts.all = parts.all + ['"description":' + json(property.description)] %}
    {%- endif %}
    {%- if property.enum %}
        {%- set parts.all = parts.all + ['"enum":' + json(property.enum)] %}
    {%- endif %}
    {%- if property.properties is mapping %}
        {%- set parts.all = parts.all + ['"properties":' + json_pairs(property.properties|items)] %}
    {%- endif %}
    {%- if property.required %}
        {%- set parts.all = parts.all + ['"required":' + json(property.required)] %}
    {%- endif %}
    {{- '{' + parts.all|join(',') + '}' }}
{%- endmacro %}
{%- macro json_pairs(properties) %}
    {{- '{' }}
    {%- for name, property in properties %}
        {{- json(name) + ':' + json_property(property) + ('' if loop.last else ',') }}
    {%- endfor %}
    {{- '}' }}
{%- endmacro %}""",
    ),
    "json_properties": (
        ("json_property",),
        r"""
{%- macro json_properties(properties) %}
    {{- json_pairs(properties|dictsort(true)) if properties is mapping else 'null' }}
{%- endmacro %}""",
    ),
    "json_parameters": (
        ("json", "json_properties"),
        r"""
{%- macro json_parameters(schema) %}
    {{- '{"type":' + json(schema.type or '') }}
    {%- if schema.get('$defs') is not none %}
        {{- ',"$defs":' + json(schema.get('$defs')) }}
    {%- endif %}
    {%- if schema.get('items') is not none %}
        {{- ',"items":' + json(schema.get('items')) }}
    {%- endif %}
    {%- if schema.required %}
        {{- ',"required":' + json(schema.required) }}
    {%- endif %}
    {{- ',"properties":' + json_properties(schema.properties) + '}' }}
{%- endmacro %}""",
    ),
    "json_function": (
        ("json", "json_parameters"),
        r"""
{%- macro json_function(function) %}
    {{- '{"name":' + json(function.name) + ',"description":' + json(function.description or '') }}
    {{- ',"parameters":' + json_parameters(function.parameters or {}) + '}' }}
{%- endmacro %}""",
    ),
    "json_tool": (
        ("json", "json_function"),
        r"""
{%- macro json_tool(tool) %}
    {{- '{"type":' + json(tool.type) + ',"function":' + json_function(tool.function) + '}' }}
{%- endmacro %}""",
    ),
    "json_tools": (
        ("json_tool",),
        r"""
{%- macro json_tools(tools) %}
    {%- if not tools %}
        {{- 'null' }}
    {%- else %}
        {{- '[' }}
        {%- for tool in tools %}
            {{- json_tool(tool) + ('' if loop.last else ',') }}
        {%- endfor %}
        {{- ']' }}
    {%- endif %}
{%- endmacro %}""",
    ),
    "json_tool_call_function": (
        ("json",),
        r"""
{%- macro json_tool_call_function(function) %}
    {{- '{"Index":' + json(function.index or 0) + ',"Name":' + json(function.name) }}
    {{- ',"Arguments":' + json(function.arguments) + '}' }}
{%- endmacro %}""",
    ),
    "json_tool_call": (
        ("json", "json_tool_call_function"),
        r"""
{%- macro json_tool_call(call) %}
    {{- '{"ID":' + json(call.id or '') + ',"Function":' + json_tool_call_function(call.function) + '}' }}
{%- endmacro %}""",
    ),
    "json_tool_calls": (
        ("json_tool_call",),
        r"""
{%- macro json_tool_calls(calls) %}
    {%- if not calls %}
        {{- 'null' }}
    {%- else %}
        {{- '[' }}
        {%- for call in calls %}
            {{- json_tool_call(call) + ('' if loop.last else ',') }}
        {%- endfor %}
        {{- ']' }}
    {%- endif %}
{%- endmacro %}""",
    ),
    "type_name": (
        (),
        r"""
{%- macro type_name(type) %}
    {%- set names = [type] if type is string else type or [] %}
    {{- '[' + names|join(' ') + ']' if names|length > 1 else names|join }}
{%- endmacro %}""",
    ),
    "typescript_type": (
        (),
        r"""
{%- macro typescript_type(property) %}
    {%- set names = {'string': 'string', 'number': 'number', 'integer': 'number', 'boolean': 'boolean',
        'array': 'any[]', 'object': 'Record<string, any>', 'null': 'null'} %}
    {%- for option in property.anyOf or [] %}
        {{- typescript_type(option) + ('' if loop.last else ' | ') }}
    {%- else %}
        {%- for type in ([property.type] if property.type is string else property.type or ['any']) %}
            {{- names.get(type, 'any') + ('' if loop.last else ' | ') }}
        {%- endfor %}
    {%- endfor %}
{%- endmacro %}""",
    ),
    "go_value": (
        (),
        r"""
{#- A JSON value as Go's fmt prints it. #}
{%- macro go_value(value, absent='<no value>') %}
    {%- if value is string %}
        {{- value }}
    {%- elif value is boolean %}
        {{- 'true' if value else 'false' }}
    {%- elif value is number %}
        {%- set size, number = value|abs, value|float|string %}
        {%- if 1e6 <= size < 1e16 %}
            {%- set digits = (size|float|string).split('.') %}
            {%- set shortest = (digits[0] + digits[1]).rstrip('0') %}
            {{- ('-' if value < 0 else '') + shortest[0] + ('.' + shortest[1:] if shortest|length > 1 else '') }}
            {{- 'e+%02d'|format(digits[0]|length - 1) }}
        {%- else %}
            {{- number[:-2] if number.endswith('.0') else number }}
        {%- endif %}
    {%- elif value is mapping %}
        {{- 'map[' }}
        {%- for key, item in value|dictsort(true) %}
            {{- key + ':' + go_value(item, '<nil>') + ('' if loop.last else ' ') }}
        {%- endfor %}
        {{- ']' }}
    {%- elif value is sequence and value is not none %}
        {{- '[' }}
        {%- for item in value %}
            {{- go_value(item, '<nil>') + ('' if loop.last else ' ') }}
        {%- endfor %}
        {{- ']' }}
    {%- else %}
        {{- absent }}
    {%- endif %}
{%- endmacro %}""",
    ),
    "yesterday": (
        (),
        r"""
{%- macro yesterday() %}
    {%- set today = strftime_now('%Y-%m-%d').split('-') %}
    {%- set year, month, day = today[0]|int, today[1]|int, today[2]|int - 1 %}
    {%- if day == 0 %}
        {%- set year, month = (year, month - 1) if month > 1 else (year - 1, 12) %}
        {%- set leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) %}
        {%- set day = [31, 29 if leap else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1] %}
    {%- endif %}
    {{- '%04d-%02d-%02d'|format(year, month, day) }}
{%- endmacro %}""",
    ),
    "tool_name": (
        (),
        r"""
{#- The function whose result this is: named by the message, or by the call it answers. #}
{%- macro tool_name(messages, message) %}
    {%- set found = namespace(name='') %}
    {%- for other in messages if message.tool_call_id %}
        {%- for call in (other.tool_calls or [])|reverse if call.id == message.tool_call_id %}
            {%- set found.name = call.function.name %}
        {%- endfor %}
    {%- endfor %}
    {{- message.name or message.tool_name or found.name }}
{%- endmacro %}""",
    ),
}


def sources(names: Iterable[str]) -> list[str]:
    """The text of these macros and of those they call, callees first."""
    ordered: list[str] = []
    for name in names:
        _add(name, ordered)
    return [_MACROS[name][1].strip("\n") for name in ordered]


def _add(name: str, ordered: list[str]) -> None:
    if name in ordered:
        return
    needs, _ = _MACROS[name]
    for need in needs:
        _add(need, ordered)
    ordered.append(name)


def known(name: str) -> bool:
    return name in _MACROS
