"""What a reader would look up first, and the limits; `test_against_go` has the rest."""

from __future__ import annotations

import time
from typing import Any

import pytest

from migrate.errors import TemplateError
from migrate.gotemplate import Limits, Map, Slice, Struct, execute, parse


def render(template: str, data: Any = None, **options: Any) -> str:
    functions = options.get("functions", {})
    return execute(parse(template, functions=functions), data, **options)


@pytest.mark.parametrize(
    ("template", "data", "expected"),
    [
        ("{{ .A }}", {"A": "x"}, "x"),
        ("{{ .A }}|{{ .A.B }}", {"A": {"B": [1, "two", None]}}, "map[B:[1 two <nil>]]|[1 two <nil>]"),
        ("{{ .A }}", {}, "<no value>"),
        ("{{ print .A }}", {}, "<nil>"),
        ("{{ . }}", 1000000.0, "1e+06"),
        ("{{ . }}", [1.0, 123456.0, 0.00001, True], "[1 123456 1e-05 true]"),
        ("{{ range $k, $v := . }}{{ $k }}={{ $v }} {{ end }}", {"b": 1, "a": 2, "B": 3}, "B=3 a=2 b=1 "),
        ("{{ range . }}x{{ else }}none{{ end }}", [], "none"),
        ("{{ range 3 }}{{ . }}{{ end }}", None, "012"),
        ("{{ $x := 1 }}{{ range . }}{{ $x = . }}{{ end }}{{ $x }}", [5, 6], "6"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ end }}{{ $x }}", None, "1"),
        ("{{ len . }} {{ index . 1 }} {{ slice . 2 }}", "é!", "3 169 !"),
        ("{{ len (slice . 1) }} {{ index . 1 }}", ["a", "b", "c"], "2 b"),
        ('{{ printf "%05.1f|%-4s|%q|%x|%t|%d" 3.14159 "ab" "c\\n" "hi" true "no" }}', None,
         '003.1|ab  |"c\\n"|6869|true|%!d(string=no)'),
        ("{{ html . }} {{ js . }} {{ urlquery . }}", "<a&'b'>",
         "&lt;a&amp;&#39;b&#39;&gt; \\u003Ca\\u0026\\'b\\'\\u003E %3Ca%26%27b%27%3E"),
        ("{{ and 1 0 (index . 9) }} {{ or 0 2 (index . 9) }}", [], "0 2"),
        ("{{ if eq . 1 2 3 }}in{{ end }}", 3, "in"),
        ('{{ define "t" }}[{{ . }}]{{ end }}{{ template "t" . }}', "x", "[x]"),
    ],
)  # fmt: skip
def test_execution(template: str, data: Any, expected: str) -> None:
    assert render(template, data) == expected


def test_structs_maps_and_slices_of_a_type() -> None:
    item = Struct("pkg.Item", {"Name": "n", "Tags": Slice([], is_nil=True)})
    named = Struct("pkg.Item", {"Name": "n"}, string=lambda: "<n>")
    assert render("{{ . }} {{ .Name }} {{ printf `%+v` . }}", item) == "{n []} n {Name:n Tags:[]}"
    assert render("{{ . }} {{ .String }} {{ .Name }}", named) == "<n> <n> n"
    assert render("{{ .nobody }}", Map({}, type_name="map[string]int", zero=0)) == "0"
    assert render("{{ if eq .Tags nil }}nil{{ end }}", item) == "nil"


def test_an_address_is_no_text() -> None:
    pointer = Struct("pkg.Item", {"Name": "n"}, is_pointer=True)
    assert render("{{ . }} {{ print . }}", pointer) == "{n} &{n}"
    with pytest.raises(TemplateError, match="memory address"):
        render("{{ . }}", [pointer])


def test_split_characters_come_together() -> None:
    assert render("{{ slice . 0 1 }}{{ slice . 1 2 }}", "é") == "é"
    assert render("{{ slice . 0 1 }}", "é") == "\udcc3"


def test_functions() -> None:
    def shout(text: Any) -> str:
        if not isinstance(text, str):
            raise ValueError("expected string")
        return text.upper()

    assert render("{{ shout . }}", "a", functions={"shout": shout}) == "A"
    for template in ("{{ shout 1 }}", "{{ shout }}", "{{ shout 1 2 }}"):
        with pytest.raises(TemplateError):
            render(template, functions={"shout": shout})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("\n{{ .A.B.C }}", "line 2: nil pointer evaluating interface {}.B"),
        ("{{ index .L 9 }}", "index out of range: 9"),
        ("{{ lt 1 `a` }}", "incompatible types for comparison: int and string"),
        ("{{ len 3 }}", "len of type int"),
        ("{{ range 1.5 }}{{ end }}", "range can't iterate over"),
        ("{{ .L.Foo }}", "can't evaluate field Foo"),
        ('{{ template "gone" . }}', 'template "gone" not defined'),
        ("{{ .L | .L }}", "not a method but has arguments"),
    ],
)
def test_errors(template: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(template, {"L": [1]})
    assert message in str(caught.value)
    assert caught.value.line is not None


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ range 1000000000000 }}{{ end }}", "steps"),
        ("{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}", "steps"),
        ('{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}', "deep"),
        ("{{ $x := `aaaaaaaaaa` }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}", "too much"),
        ("{{ $x := `aaaaaaaaaa` }}{{ range 60 }}{{ $x = html $x $x }}{{ end }}", "too much"),
        ("{{ range 100000 }}{{ printf `%1000000d` 1 }}{{ end }}", "characters of output"),
        ("{{ range 1000000 }}{{ len $.S }}{{ end }}", "steps"),
    ],
)
def test_limits_stop_hostile_templates(template: str, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError, match=message):
        render(template, {"S": "é" * 1_000_000})
    assert time.perf_counter() - start < 30


def test_limits_can_be_set() -> None:
    with pytest.raises(TemplateError):
        render("{{ range 100 }}{{ . }}{{ end }}", limits=Limits(steps=50))
    with pytest.raises(TemplateError):
        render("{{ range 100 }}{{ . }}{{ end }}", limits=Limits(output=50))
