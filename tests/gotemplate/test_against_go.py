"""The interpreter against Go's own text/template, on generated templates and data.

MIGRATE_EXAMPLES=5000 looks longer.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import TemplateError
from migrate.gotemplate import execute, parse
from migrate.gotemplate.interpreter import MissingKey
from tests.gotemplate import generators as g
from tests.gotemplate.conftest import Oracle
from tests.gotemplate.values import FUNCTIONS, from_json

many = settings(
    max_examples=int(os.environ.get("MIGRATE_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def _ours(template: str, data: Any, missing_key: MissingKey) -> tuple[str, str | int | None]:
    """("text", the text), ("parse", the line of the error) or ("execute", None)."""
    try:
        tree = parse(template, functions=FUNCTIONS)
    except TemplateError as error:
        return "parse", error.line
    try:
        return "text", execute(tree, from_json(data), functions=FUNCTIONS, missing_key=missing_key)
    except TemplateError:
        return "execute", None


def _theirs(oracle: Oracle, template: str, data: Any, missing_key: MissingKey) -> tuple[str, str | int | None]:
    answer = oracle.ask(template, data, missing_key)
    if answer.stage is None:
        return "text", answer.text
    return answer.stage, answer.line if answer.stage == "parse" else None


def check(oracle: Oracle, template: str, data: Any = None, missing_key: MissingKey = "zero") -> None:
    """The same text, or an error at the same stage; of a parse error the same line too."""
    assert _ours(template, data, missing_key) == _theirs(oracle, template, data, missing_key)


@many
@given(template=g.sensible, missing_key=st.sampled_from(["zero", "default"]))
def test_sensible_templates(oracle: Oracle, template: str, missing_key: MissingKey) -> None:
    check(oracle, template, g.DATA, missing_key)


@many
@given(template=g.wild)
def test_wild_templates(oracle: Oracle, template: str) -> None:
    check(oracle, template, g.DATA)


@many
@given(pipe=g.pipes)
def test_single_pipelines(oracle: Oracle, pipe: str) -> None:
    """One action each: nothing before it can fail and hide it."""
    check(oracle, "{{$x := .E}}{{$y := .N}}{{$i := 1}}{{" + pipe + "}}", g.DATA)


@many
@given(template=g.soup)
def test_token_soup(oracle: Oracle, template: str) -> None:
    check(oracle, template, g.DATA)


@many
@given(inside=g.soup)
def test_token_soup_in_an_action(oracle: Oracle, inside: str) -> None:
    check(oracle, "a\n{{ " + inside + " }}\nb{{end}}", g.DATA)


@many
@given(text=st.text("0123456789abefxXoOpP_.+-i'\\n", min_size=1, max_size=8))
def test_numbers_and_characters(oracle: Oracle, text: str) -> None:
    check(oracle, "{{ " + text + " }}", {})
    check(oracle, "{{ print 1" + text + " }}", {})


@many
@given(body=st.text("abfnrtvxuU01234567dD8\\'\"é ", max_size=12))
def test_string_literals(oracle: Oracle, body: str) -> None:
    check(oracle, '{{ "' + body + '" | printf "%q %x" "-" }}', {})


def _indexed(count: int, of: str) -> str:
    return " ".join(f"(index {of} {i})" for i in range(count))


@many
@given(form=st.lists(g.formats, min_size=1, max_size=2).map(" ".join), values=st.lists(g.data_values, max_size=3))
def test_printf(oracle: Oracle, form: str, values: list[Any]) -> None:
    check(oracle, f"{{{{ printf .F {_indexed(len(values), '.V')} }}}}", {"F": form, "V": values})


@many
@given(values=st.lists(g.data_values, max_size=4))
def test_print(oracle: Oracle, values: list[Any]) -> None:
    check(oracle, "{{ . }}{{ range . }}{{ . }}{{ html . }}{{ js . }}{{ urlquery . }}{{ end }}", values)
    check(oracle, f"{{{{ print {_indexed(len(values), '.')} }}}}{{{{ println {_indexed(len(values), '.')} }}}}", values)


@many
@given(
    name=st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "and", "or", "index", "slice"]),
    values=st.lists(g.data_values, min_size=1, max_size=3),
)
def test_comparisons(oracle: Oracle, name: str, values: list[Any]) -> None:
    check(oracle, f"{{{{ {name} {_indexed(len(values), '.')} }}}}", values)


@pytest.mark.parametrize(
    "template",
    [
        "{{range $i, $e := .E}}{{if eq $i 1}}{{continue}}{{end}}{{if eq $i 3}}{{break}}{{end}}{{$e}},{{end}}",
        "{{ range .H }}x{{ else }}empty{{ end }}",
        "{{ with .Missing }}x{{ else with .A }}{{ . }}{{ end }}",
        "{{ range $k, $v := .F }}{{ $k }}={{ $v }};{{ end }}",
        "{{ if false }}{{ $z := 1 }}{{ else }}{{ $z }}{{ end }}",
        '{{ define "t" }}{{ if . }}{{ index . 0 }}{{ template "t" (slice . 1) }}{{end}}{{end}}{{ template "t" .E }}',
        '{{ len .A }} {{ index .A 1 }} {{ slice .A 1 2 | printf "%q" }} {{ slice .A 1 3 }}',
        "{{ print (slice .A 1 2) (slice .A 2 3) | printf `%q %5s` `x` }}",
        "{{ slice (slice .E 0 1) 0 4 }}",
        "{{ slice (slice .E 0 1 2) 0 4 }}",
        '{{ .N }} {{ print .N }} {{ .Missing }} {{ .T.nobody }} {{ printf "%v" .Missing }}',
        "{{ .Missing.Deeper }}",
        "{{ $m := .Missing }}{{ $m.Deeper }}",
        "{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}",
        '{{ .Q }} {{ .P }} {{ .R }} {{ .Q.String }} {{ .S }} {{ printf "%d" .Q }}',
        "{{ eq .C 1 2 3 }} {{ eq .D .C }}",
        "{{ and .B .Missing (index .E 99) }} {{ or .A (index .E 99) }}",
        '{{ define "" }}other{{ end }}',
        '{{ define "a" }} {{ end }}{{ define "a" }}x{{ end }}{{ template "a" }}',
        '{{ define "a" }}x{{ end }}{{ define "a" }}y{{ end }}',
        "{{ $x := 1 }}{{ with $x := 2 }}{{ $x = 3 }}{{ end }}{{ $x }}",
        "{{ range $i, $i := .E }}{{ $i }}{{ end }}",
        '{{ "a" | len | printf "%d%%" }}',
        "{{ printf `%[2]*.[1]*f|%6.2f` 2 12 }}",
        "{{ 1 | 2 }}",
        "{{ .A | .B }}",
        "{{ .C.D }}",
        "{{ nil }}",
        "{{ (1).A }}",
        "{{ eq nil nil }}",
    ],
)
def test_known_constructs(oracle: Oracle, template: str) -> None:
    check(oracle, template, g.DATA)
