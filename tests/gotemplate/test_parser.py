"""The tree, the errors and their lines; the limits of our own."""

from __future__ import annotations

import time

import pytest

from migrate.errors import TemplateError
from migrate.gotemplate import nodes, parse
from migrate.gotemplate.nodes import Action, Block, Command, Field, Identifier, If, Number, Pipe, String, Text, Variable


def pipe(*args: nodes.Operand) -> Pipe:
    return Pipe((Command(args),))


ONE = Number("1", 1, 1, 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [Text("plain")]),
        ("a {{- .B -}} \n c", [Text("a"), Action(pipe(Field(("B",)))), Text("c")]),
        ("a{{/* no */}}b", [Text("a"), Text("b")]),
        ("a {{- /* no */ -}} b", [Text("a"), Text("b")]),
        ("{{ .A.B.C }}", [Action(pipe(Field(("A", "B", "C"))))]),
        ("{{ $.A }}", [Action(pipe(Variable(("$", "A"))))]),
        ("{{ len .A }}", [Action(pipe(Identifier("len"), Field(("A",))))]),
        ('{{ "a\\n" }}', [Action(pipe(String("a\n")))]),
        ("{{ `a\\n` }}", [Action(pipe(String("a\\n")))]),
        ("{{ (index . 1).A }}", [Action(pipe(nodes.Chain(pipe(Identifier("index"), nodes.Dot(), ONE), ("A",))))]),
        ("{{ .A | len }}", [Action(Pipe((Command((Field(("A",)),)), Command((Identifier("len"),)))))]),
        ("{{ $x := 1 }}", [Action(Pipe((Command((ONE,)),), (Variable(("$x",)),)))]),
        (
            "{{ range $i, $e := . }}{{ break }}{{ end }}",
            [
                nodes.Range(
                    Pipe((Command((nodes.Dot(),)),), (Variable(("$i",)), Variable(("$e",)))), Block((nodes.Break(),))
                )
            ],
        ),
        (
            "{{ if .A }}a{{ else if .B }}b{{ else }}c{{ end }}",
            [
                If(
                    pipe(Field(("A",))),
                    Block((Text("a"),)),
                    Block((If(pipe(Field(("B",))), Block((Text("b"),)), Block((Text("c"),))),)),
                )
            ],
        ),
    ],
)
def test_tree(text: str, expected: list[nodes.Statement]) -> None:
    assert parse(text).root == Block(tuple(expected))


def test_definitions_leave_the_main_text() -> None:
    template = parse('{{ define "a" }}x{{ end }}{{ block "b" . }}y{{ end }}')
    assert template.defines == {"a": Block((Text("x"),)), "b": Block((Text("y"),))}
    assert template.root == Block((nodes.TemplateCall("b", pipe(nodes.Dot())),))


def test_positions() -> None:
    first, _, second = parse("{{ .A }}\n  {{ .B }}").root.nodes
    assert (first.line, second.line) == (1, 2)
    assert (first.pos, second.pos) == (3, 14)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a\n{{ if .A }}", 2, "unexpected EOF"),
        ("{{ .A", 1, "unclosed action"),
        ("\n\n{{ nope }}", 3, 'function "nope" not defined'),
        ("{{ $x }}", 1, 'undefined variable "$x"'),
        ("{{ end }}", 1, "unexpected {{end}}"),
        ("{{ break }}", 1, "{{break}} outside {{range}}"),
        ("{{ (1 }}", 1, "unclosed left paren"),
        ("{{ 1 | 2 }}", 1, "non executable command in pipeline stage 2"),
        ('{{ "a }}', 1, "unterminated quoted string"),
        ("{{/* a }}", 1, "unclosed comment"),
        ("{{ 089 }}", 1, 'integer overflow: "089"'),
        ("{{ 12ab }}", 1, "bad number syntax"),
        ('{{ define "a" }}x{{ end }}{{ define "a" }}y{{ end }}', 1, 'multiple definition of template "a"'),
        ("{{}}", 1, "missing value for command"),
        ("{{\n.A\n.5x }}", 3, "in the action that starts on line 1"),
    ],
)
def test_errors(text: str, line: int, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert caught.value.line == line
    assert message in str(caught.value)


def test_other_functions() -> None:
    assert parse("{{ json . }}", functions={"json"}).root == Block((Action(pipe(Identifier("json"), nodes.Dot())),))


@pytest.mark.parametrize("opening", ["{{if .}}", "{{with .}}", "{{range .}}", "{{if .}}{{else ", "{{(", "("])
def test_hostile_nesting_is_refused(opening: str) -> None:
    text = "{{" + opening * 50_000 if opening == "(" else opening * 50_000
    with pytest.raises(TemplateError):
        parse(text)


def test_a_nesting_nobody_needs_still_parses() -> None:
    depth = 90
    assert len(parse("{{if .}}" * depth + "x" + "{{end}}" * depth).root.nodes) == 1


@pytest.mark.parametrize(
    "unit",
    ["a{{.B}} ", "{{- .A -}} \n", "{{/* c */}}", "x\n", " ", "{{`raw`}}", "{{$x := 1}}{{$x}}", "{{ if .A }}{{ end }}"],
)
def test_time_is_linear(unit: str) -> None:
    """Half a megabyte takes a second or two; with quadratic time it would take minutes."""
    start = time.perf_counter()
    parse(unit * (500_000 // len(unit)))
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "text",
    [
        "{{" + "1 " * 300_000,
        '{{ "' + "\\n" * 500_000,
        "{{ `" + "a" * 1_000_000,
        "{{/*" * 250_000,
        "{{ " + "1" * 1_000_000,
        "{{ - " * 200_000,
        "{{" + " " * 1_000_000,
        "{{ .A" + ".A" * 400_000,
    ],
)
def test_damaged_megabytes_fail_fast(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError):
        parse(text)
    assert time.perf_counter() - start < 20
