"""The interpreter against Go's own text/template, on generated templates and data."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrate.errors import TemplateError
from migrate.gotemplate import execute, parse
from tests.gotemplate.conftest import Oracle
from tests.gotemplate.values import FUNCTIONS, from_json

many = settings(
    max_examples=int(os.environ.get("MIGRATE_EXAMPLES", "250")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

DATA: dict[str, Any] = {
    "A": "héllo <b>&'\"\n日本",
    "B": True,
    "C": 3,
    "D": -2.5,
    "Big": 1e21,
    "E": [1, "two", None, 4.0, [5]],
    "F": {"b": 1, "a": {"x": None, "é": [True]}, "Z": "z"},
    "G": "",
    "H": [],
    "I": {},
    "N": None,
    "P": {"$type": "Point", "X": [1.5, None], "Label": "p"},
    "Q": {"$type": "Named", "Name": "q", "Items": [0, "i"]},
    "R": [{"$type": "Named", "Name": "r", "Items": []}, {"$type": "Point", "X": "x", "Label": ""}],
    "S": {"$type": "Shouts", "Items": ["a", "b", "c"]},
    "T": {"$type": "Ages", "ann": 3, "bob": 0},
}


def check(oracle: Oracle, template: str, data: Any = None, missing_key: str = "zero") -> None:
    """The same text, or an error at the same stage; of a parse error the same line too."""
    answer = oracle.ask(template, data, missing_key)
    try:
        tree = parse(template, functions=FUNCTIONS)
    except TemplateError as error:
        assert answer.stage == "parse", f"only we refuse it: {error}"
        assert error.line == answer.line, answer.error
        return
    assert answer.stage != "parse", answer.error
    try:
        text = execute(tree, from_json(data), functions=FUNCTIONS, missing_key=missing_key)  # type: ignore[arg-type]
    except TemplateError as error:
        assert answer.stage == "execute", f"only we fail: {error}; Go: {answer.text!r}"
        return
    assert text == answer.text, answer.error


# ---- well-formed templates ------------------------------------------------------------------------------------------

names = st.sampled_from([*DATA, "Missing", "X", "Label", "Name", "Items", "a", "b", "ann", "String"])
variables = st.sampled_from(["$", "$x", "$y", "$i"])
literals = st.sampled_from(
    ["0", "1", "2", "-1", "0x1F", "1.5", "1e3", "2.0", "'a'", "'\\n'", "0b11", "1_000", "017", "2i", "1+2i", "true"]
    + ["false", '"s"', '"é\\u00e9\\x41"', "`raw`", '""', "nil", '"\\xff"', "5e-7", "1e21", "9223372036854775807"]
)
fields = st.builds(lambda parts: "".join("." + part for part in parts), st.lists(names, min_size=1, max_size=2))
atoms = st.one_of(
    literals,
    fields,
    fields,
    st.just("."),
    variables,
    st.builds(lambda v, f: v + f, variables, fields),
    st.just("print"),
)
functions = st.sampled_from(
    ["and", "or", "not", "len", "index", "slice", "eq", "ne", "lt", "le", "gt", "ge", "print", "println", "html", "js"]
    + ["urlquery", "twice", "list", 'printf "%v|%s"', 'printf "%d %q"', 'printf "%5.1f%%"', "call"]
)


def _calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    call = st.builds(lambda name, args: " ".join([name, *args]), functions, st.lists(inner, max_size=3))
    pipe = st.builds(" | ".join, st.lists(st.one_of(call, inner), min_size=1, max_size=3))
    return st.one_of(st.builds("({})".format, pipe), st.builds("({}).{}".format, pipe, names))


operands = st.recursive(atoms, _calls, max_leaves=6)
commands = st.one_of(
    operands, st.builds(lambda name, args: " ".join([name, *args]), functions, st.lists(operands, max_size=3))
)
pipes = st.builds(" | ".join, st.lists(commands, min_size=1, max_size=2))
texts = st.sampled_from(["a", " ", "\n", " \n\t", "é", "}}", "{", "- "])
left, right = st.sampled_from(["{{", "{{- "]), st.sampled_from(["}}", " -}}"])
actions = st.builds(
    lambda opening, head, pipe, closing: opening + head + pipe + closing,
    left,
    st.sampled_from(["", "", "", "$x := ", "$y = ", "$i := "]),
    pipes,
    right,
)


def _blocks(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bodies = st.builds("".join, st.lists(inner, max_size=3))
    heads = st.one_of(
        st.builds(
            "{}{}".format, st.sampled_from(["if ", "with ", "range ", "range $i, $x := ", "range $x := "]), pipes
        ),
        st.sampled_from(
            ["range .E", "range $i, $x := .F", "range $y = .E", "range 3", "range $x, $y = .H", "with $x := .P"]
        ),
    )
    otherwise = st.one_of(
        st.just(""),
        st.just(""),
        st.just("{{else}}"),
        st.builds("{{{{else {} {}}}}}".format, st.sampled_from(["if", "with"]), pipes),
    )
    plain = st.builds(
        lambda opening, head, body, other, more: f"{opening}{head}}}}}{body}{other}{more if other else ''}{{{{end}}}}",
        left,
        heads,
        bodies,
        otherwise,
        bodies,
    )
    define = st.builds('{{{{define "{}"}}}}{}{{{{end}}}}'.format, st.sampled_from("uvw"), bodies)
    block = st.builds('{{{{block "{}" {}}}}}{}{{{{end}}}}'.format, st.sampled_from("xyz"), pipes, bodies)
    return st.one_of(plain, plain, plain, define, block)


statements = st.recursive(
    st.one_of(
        texts,
        actions,
        actions,
        st.builds('{{{{template "{}" {}}}}}'.format, st.sampled_from("uvxyz"), pipes),
        st.sampled_from(["{{break}}", "{{continue}}", "{{/* c */}}", "{{- /* c */ -}}", '{{template "u"}}', "{{$}}"]),
    ),
    _blocks,
    max_leaves=10,
)
templates = st.builds(
    lambda parts: "{{$x := .C}}{{$y := .A}}{{$i := 0}}" + "".join(parts), st.lists(statements, min_size=1, max_size=4)
)


@many
@given(template=templates, missing_key=st.sampled_from(["zero", "zero", "default"]))
def test_generated_templates(oracle: Oracle, template: str, missing_key: str) -> None:
    check(oracle, template, DATA, missing_key)


@many
@given(pipe=pipes)
def test_single_pipelines(oracle: Oracle, pipe: str) -> None:
    """One action each: nothing before it can fail and hide it."""
    check(oracle, "{{$x := .E}}{{$y := .N}}{{$i := 1}}{{" + pipe + "}}", DATA)


# ---- token soup -----------------------------------------------------------------------------------------------------

soup = st.lists(
    st.sampled_from(
        [
            "{{",
            "}}",
            "{{-",
            "-}}",
            "{{ ",
            " }}",
            "{{- ",
            " -}}",
            " ",
            "\n",
            "(",
            ")",
            "|",
            ".",
            ".A",
            "$",
            "$x",
            ":=",
            "=",
        ]
        + [
            ",",
            '"',
            '"s"',
            "`",
            "`r\n`",
            "'",
            "'a'",
            "/*",
            "*/",
            "if",
            "else",
            "end",
            "range",
            "with",
            "define",
            "block",
        ]
        + [
            "template",
            "break",
            "continue",
            "nil",
            "true",
            "eq",
            "len",
            "print",
            "nope",
            "1",
            "1.",
            "0x",
            "1e",
            "+",
            "-",
        ]
        + [
            "1_0",
            "_",
            "é",
            "\\",
            "\t",
            "text",
            "#",
            "\u00a0",
            "{{/*",
            "*/}}",
            "08",
            "1i",
            "{{end}}",
            "{{if .}}",
            "\x00",
        ]
    ),
    max_size=14,
).map("".join)


@many
@given(template=soup)
def test_token_soup(oracle: Oracle, template: str) -> None:
    check(oracle, template, DATA)


@many
@given(inside=soup)
def test_token_soup_in_an_action(oracle: Oracle, inside: str) -> None:
    check(oracle, "a\n{{ " + inside + " }}\nb{{end}}", DATA)


@many
@given(text=st.text(st.sampled_from("0123456789abefxXoOpP_.+-i'\\n"), min_size=1, max_size=8))
def test_numbers_and_characters(oracle: Oracle, text: str) -> None:
    check(oracle, "{{ " + text + " }}", {})
    check(oracle, "{{ print 1" + text + " }}", {})


@many
@given(body=st.text(st.sampled_from("abfnrtvxuU01234567dD8\\'\"é "), max_size=12))
def test_string_literals(oracle: Oracle, body: str) -> None:
    check(oracle, '{{ "' + body + '" | printf "%q %x" "-" }}', {})


# ---- printing -------------------------------------------------------------------------------------------------------

formats = st.builds(
    "%{}{}{}{}".format,
    st.text(st.sampled_from("+-# 0"), max_size=3),
    st.sampled_from(["", "", "", "1", "8", "12", "*", "[1]", "[2]", "[3]*", "[9]", "["]),
    st.sampled_from(["", "", "", ".", ".0", ".1", ".3", ".20", ".*", ".[1]*"]),
    st.sampled_from([*"vTtbcdoOqxXUeEfFgGsz%w!é", "[1]d", "[2]v", ""]),
)
# characters that Python's Unicode and Go's newer one know alike
characters = st.characters(exclude_categories=["Cs", "Cn"])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-300, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([1.0, 1e6, 123456789.0, 1e20, 1e21, 1e-5, 1e-4, 0.1, -0.0, 5e-324, 1.5e300, 100000.0, 2.5]),
    st.text(characters, max_size=6),
    st.text("ab ", max_size=2),
)
data_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(characters, max_size=3), inner, max_size=3),
        st.builds(lambda x, label: {"$type": "Point", "X": x, "Label": label}, inner, st.text("aé\n", max_size=3)),
        st.builds(
            lambda name, items: {"$type": "Named", "Name": name, "Items": items},
            st.text("bc", max_size=2),
            st.lists(inner, max_size=2),
        ),
        st.builds(lambda items: {"$type": "Shouts", "Items": items}, st.lists(st.text("de", max_size=2), max_size=3)),
    ),
    max_leaves=5,
)


@many
@given(form=st.lists(formats, min_size=1, max_size=2).map(" ".join), values=st.lists(data_values, max_size=3))
def test_printf(oracle: Oracle, form: str, values: list[Any]) -> None:
    template = "{{ printf .F " + " ".join(f"(index .V {i})" for i in range(len(values))) + " }}"
    check(oracle, template, {"F": form, "V": values})


@many
@given(values=st.lists(data_values, max_size=4))
def test_print(oracle: Oracle, values: list[Any]) -> None:
    check(oracle, "{{ . }}{{ range . }}{{ . }}{{ html . }}{{ js . }}{{ urlquery . }}{{ end }}", values)
    check(oracle, "{{ print " + " ".join(f"(index . {i})" for i in range(len(values))) + " }}", values)


comparisons = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "and", "or", "index", "slice"])


@many
@given(name=comparisons, values=st.lists(data_values, min_size=1, max_size=3))
def test_comparisons(oracle: Oracle, name: str, values: list[Any]) -> None:
    check(oracle, f"{{{{ {name} " + " ".join(f"(index . {i})" for i in range(len(values))) + " }}", values)


@pytest.mark.parametrize(
    "template",
    [
        "{{ range $i, $e := .E }}{{ if eq $i 1 }}{{ continue }}{{ end }}{{ if eq $i 3 }}{{ break }}{{ end }}{{ $e }},{{ end }}",
        "{{ range .H }}x{{ else }}empty{{ end }}",
        "{{ with .Missing }}x{{ else with .A }}{{ . }}{{ end }}",
        "{{ range $k, $v := .F }}{{ $k }}={{ $v }};{{ end }}",
        "{{ if false }}{{ $z := 1 }}{{ else }}{{ $z }}{{ end }}",
        '{{ define "t" }}{{ if gt (len .) 0 }}{{ index . 0 }}{{ template "t" (slice . 1) }}{{ end }}{{ end }}{{ template "t" .E }}',
        '{{ len .A }} {{ index .A 1 }} {{ slice .A 1 2 | printf "%q" }} {{ slice .A 1 3 }}',
        "{{ slice (slice .E 0 1) 0 4 }}",
        "{{ slice (slice .E 0 1 2) 0 4 }}",
        '{{ .N }} {{ print .N }} {{ .Missing }} {{ .T.nobody }} {{ printf "%v" .Missing }}',
        "{{ .Missing.Deeper }}",
        "{{ $m := .Missing }}{{ $m.Deeper }}",
        "{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}",
        '{{ .Q }} {{ .P }} {{ .R }} {{ .Q.String }} {{ .S }} {{ printf "%d" .Q }}',
        "{{ eq .C 1 2 3 }} {{ eq .D .C }}",
        "{{ and .B .Missing (index .E 99) }} {{ or .A (index .E 99) }}",
    ],
)
def test_known_constructs(oracle: Oracle, template: str) -> None:
    check(oracle, template, DATA)
