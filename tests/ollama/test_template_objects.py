"""Tools and messages as Ollama's Go structs print them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import BadInput
from migrate.ollama.go_json import to_json
from migrate.ollama.template import render_chat
from migrate.ollama.template_objects import tools_value

TOOL: dict[str, Any] = {
    "type": "function",
    "strict": True,
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "z": {"type": ["string", "null"], "default": 1, "enum": ["<a>", None, 5]},
                "a": {"type": "object", "properties": {"y": {"type": "integer"}, "b": {"anyOf": [{"type": "array"}]}}},
            },
        },
    },
}
TOOL_JSON = (
    '{"type":"function","function":{"name":"f","description":"","parameters":{"type":"object","properties":'
    '{"a":{"type":"object","properties":{"y":{"type":"integer"},"b":{"anyOf":[{"type":"array"}]}}},'
    '"z":{"type":["string","null"],"enum":["\\u003ca\\u003e",null,5]}}}}}'
)
ARGUMENTS = {"b": 1000000, "a": [1.5, {"x": None}]}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": ARGUMENTS}}]}


def render(template: str, tools: Sequence[Any] = (TOOL,), **more: Any) -> str:
    return render_chat("{{ if .Messages }}{{ end }}" + template, [CALL], tools=tools, **more)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ json .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ range .Tools }}{{ . }}{{ end }}", TOOL_JSON),
        ("{{ range .Tools }}{{ .Function.Name }} {{ .Function.Parameters.Type }}{{ end }}", "f object"),
        ("{{ range .Tools }}{{ range $n, $p := .Function.Parameters.Properties }}{{ $n }}:{{ $p.Type }};{{end}}{{end}}",
         "a:object;z:[string null];"),
        ("{{ range .Tools }}{{ range .Function.Parameters.Properties }}{{ toTypeScriptType . }};{{ end }}{{ end }}",
         "Record<string, any>;string | null;"),
        ("{{ toTypeScriptType 1 }}", "any"),
        ("{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ .Function }}{{ end }}{{ end }}",
         '{"a":[1.5,{"x":null}],"b":1000000}{0 f {"a":[1.5,{"x":null}],"b":1000000}}'),
        ("{{range .Messages}}{{range (index .ToolCalls 0).Function.Arguments}}{{.}};{{end}}{{end}}",
         "[1.5 map[x:<nil>]];1e+06;"),
        ("{{range .Messages}}{{range $k, $v := (index .ToolCalls 0).Function.Arguments}}{{$k}}={{$v}};{{end}}{{end}}",
         "a=[1.5 map[x:<nil>]];b=1e+06;"),
        ("{{ range .Messages }}{{ json .ToolCalls }}{{ end }}",
         '[{"ID":"","Function":{"Index":0,"Name":"f","Arguments":{"a":[1.5,{"x":null}],"b":1000000}}}]'),
        ("{{ range .Messages }}{{ . }}{{ end }}", '{assistant   [] [{ {0 f {"a":[1.5,{"x":null}],"b":1000000}}}]  }'),
    ],
)  # fmt: skip
def test_printing(template: str, expected: str) -> None:
    assert render(template) == expected


def test_function_prints_a_struct_or_json() -> None:
    template = "{{ range .Tools }}{{ .Function }} {{ .Function.Parameters }}{{ end }}"
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    assert render(template, [tool]) == "{f d {object <nil> <nil> [] {}}} {object <nil> <nil> [] {}}"
    parameters = '{"type":"object","properties":null}'
    expected = f'{{"name":"f","description":"d","parameters":{parameters}}} {parameters}'
    assert render(template, [tool], json_tools=True) == expected


def test_no_tools() -> None:
    assert render("{{ if .Tools }}some{{ else }}none{{ end }}", []) == "none"


@pytest.mark.parametrize(
    "tool",
    [
        {"function": {"name": 3}},
        {"function": "f"},
        {"function": {"parameters": {"properties": []}}},
        {"function": {"parameters": {"properties": {"a": 1}}}},
        {"function": {"parameters": {"required": "a"}}},
        {"function": {"parameters": {"properties": {"a": {"type": [1]}}}}},
        {"items": {"a": 10**400}},
    ],
)
def test_what_ollama_could_not_decode(tool: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        tools_value([tool])


def test_a_schema_without_end() -> None:
    schema: dict[str, Any] = {}
    for _ in range(200):
        schema = {"properties": {"a": schema}}
    with pytest.raises(BadInput):
        tools_value([{"function": {"parameters": schema}}])


numbers = st.one_of(st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False))
plain_json = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(plain_json)
def test_json_reads_back(value: Any) -> None:
    text = to_json(value)
    assert json.loads(text, parse_int=float) == value
    assert not set("<>&\u2028\u2029") & set(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5.0, "5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-10, "1.5e-10"),
        ("\x00\x1f\b\f\u2028<é", '"\\u0000\\u001f\\b\\f\\u2028\\u003cé"'),
        ({"b": 1, "a": [None, True]}, '{"a":[null,true],"b":1}'),
        (float("nan"), ""),
    ],
)
def test_json_is_gos(value: Any, expected: str) -> None:
    assert to_json(value) == expected
