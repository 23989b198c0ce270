"""Hypothesis strategies for Go templates: sensible ones, well-formed but wild ones, and token soup."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

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
"""What the templates are executed on; `$type` is one of the oracle's Go types."""

PRELUDE = "{{ $x := .C }}{{ $y := .A }}{{ $i := 0 }}"

Texts = st.SearchStrategy[str]


def _named(strategy: Texts) -> Texts:
    """Hides what a strategy is made of: Hypothesis writes it out in full, and large ones slow it down."""

    @st.composite
    def inner(draw: st.DrawFn) -> str:
        return draw(strategy)

    return inner()


def _action(pipe: Texts) -> Texts:
    return st.builds("{}{}{}".format, st.sampled_from(["{{ ", "{{- "]), pipe, st.sampled_from([" }}", " -}}"]))


# ---- sensible: every argument has a type that fits ------------------------------------------------------------------

strings = _named(
    st.recursive(
        st.sampled_from(["$.A", "$.G", '"lit\\t"', "`raw`", '""', "$y", "(index $.S 1)", "$.P.Label", "$.Q.Name"]),
        lambda inner: st.one_of(
            st.builds("(print {} {})".format, inner, inner),
            st.builds('(printf "%s|%q" {} {})'.format, inner, inner),
            st.builds("({} | {})".format, inner, st.sampled_from(["html", "js", "urlquery", "twice", "printf `%x`"])),
            st.builds("(slice {} 0)".format, inner),
            st.builds("(or {} {})".format, inner, inner),
        ),
        max_leaves=3,
    )
)
collections = st.sampled_from(
    [
        "$.E",
        "$.F",
        "$.H",
        "$.I",
        "$.R",
        "$.S",
        "$.T",
        "(slice $.E 1)",
        "(slice $.E 1 3)",
        "(list 1 $.A $.N)",
        "$.Q.Items",
    ]
)
integers = _named(
    st.one_of(
        st.sampled_from(
            ["0", "1", "$.C", "-7", "0x10", "'a'", "(index $.E 0)", "$.T.ann", "$.T.nobody", "(index $.A 1)"]
        ),
        st.builds("(len {})".format, st.one_of(collections, strings)),
    )
)
anything = _named(
    st.one_of(
        strings,
        integers,
        collections,
        st.sampled_from(
            ["$.N", "$.Missing", "$.D", "$.Big", "$.P", "$.Q", "$.B", "$x", "$", ".", "$.P.X", "(index $.F `a`)", "2i"]
        ),
    )
)
compare = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"])
booleans = _named(
    st.recursive(
        st.one_of(
            st.builds("({} {} {})".format, compare, integers, integers),
            st.builds("({} {} {})".format, compare, strings, strings),
            st.builds("(eq {} {} {})".format, strings, strings, strings),
            st.builds("(eq {} nil)".format, anything),
            st.builds("(not {})".format, anything),
        ),
        lambda inner: st.builds("({} {} {})".format, st.sampled_from(["and", "or"]), inner, st.one_of(inner, anything)),
        max_leaves=3,
    )
)
printed = _named(
    st.one_of(
        anything,
        booleans,
        st.builds("print {} {}".format, anything, anything),
        st.builds("{} | printf `%v/%d/%s` {}".format, anything, anything),
        st.builds("$x = {}".format, anything),
        st.builds("$z := {}".format, anything),
    )
)
plain_texts = st.sampled_from(["a", " ", "\n", " \n\t", "é", "{", "- "])


def _sensible_blocks(inner: Texts) -> Texts:
    body = st.builds("".join, st.lists(inner, max_size=3))
    condition = st.one_of(booleans, anything)
    loop = st.sampled_from(["range {}", "range $i, $x = {}", "range $k, $v := {}", "range $v := {}"])
    leave = st.builds(
        "{{{{ if {} }}}}{{{{ {} }}}}{{{{ end }}}}".format, booleans, st.sampled_from(["break", "continue"])
    )
    return st.one_of(
        st.builds("{{{{ if {} }}}}{}{{{{ end }}}}".format, condition, body),
        st.builds("{{{{- if {} }}}}{}{{{{ else if {} -}}}}{}{{{{ end }}}}".format, condition, body, condition, body),
        st.builds("{{{{ with {} }}}}{}{{{{ else }}}}{}{{{{ end }}}}".format, anything, body, body),
        st.builds(
            lambda head, over, first, out, last: f"{{{{ {head.format(over)} }}}}{first}{out}{last}{{{{ end }}}}",
            *(loop, st.one_of(collections, st.just("$.C")), body, leave, body),
        ).filter(lambda text: ", $" not in text or "$.C }}" not in text),
        st.builds("{{{{ range {} }}}}{}{{{{ else }}}}{}{{{{ end }}}}".format, collections, body, body),
    )


sensible = _named(
    st.builds(
        lambda parts: PRELUDE + '{{ define "t" }}<{{ . }}>{{ end }}' + "".join(parts),
        st.lists(
            st.recursive(
                st.one_of(plain_texts, _action(printed), _action(st.builds('template "t" {}'.format, anything))),
                _sensible_blocks,
                max_leaves=6,
            ),
            min_size=1,
            max_size=4,
        ),
    )
)

# ---- wild: well-formed, but anything goes anywhere ------------------------------------------------------------------

names = st.sampled_from([*DATA, "Missing", "X", "Label", "Name", "Items", "a", "b", "ann", "String"])
fields = st.builds(lambda parts: "".join("." + part for part in parts), st.lists(names, min_size=1, max_size=2))
variables = st.sampled_from(["$", "$x", "$y", "$i"])
numbers = (
    "0",
    "1",
    "2",
    "-1",
    "0x1F",
    "1.5",
    "1e3",
    "2.0",
    "'a'",
    "0b11",
    "1_000",
    "017",
    "2i",
    "1+2i",
    "5e-7",
    "1e21",
)
others = ("true", "false", "nil", '"s"', '"é\\u00e9\\x41"', "`raw`", '""', '"\\xff"', "'\\n'", "9223372036854775807")
atoms = st.one_of(
    st.sampled_from([*numbers, *others]),
    fields,
    fields,
    st.just("."),
    variables,
    st.builds("{}{}".format, variables, fields),
    st.just("print"),
)
collection_functions = ("and", "or", "not", "len", "index", "slice", "list", "call", "eq", "ne", "lt", "le", "gt", "ge")
text_functions = ("print", "println", "html", "js", "urlquery", "twice", 'printf "%v|%s"', 'printf "%d %5.1f%%"')
functions = st.sampled_from([*collection_functions, *text_functions])


def _command(operand: Texts) -> Texts:
    return st.builds(lambda name, args: " ".join([name, *args]), functions, st.lists(operand, max_size=3))


def _parenthesized(inner: Texts) -> Texts:
    pipe = st.builds(" | ".join, st.lists(st.one_of(_command(inner), inner), min_size=1, max_size=3))
    return st.one_of(st.builds("({})".format, pipe), st.builds("({}).{}".format, pipe, names))


operands = _named(st.recursive(atoms, _parenthesized, max_leaves=6))
pipes = _named(st.builds(" | ".join, st.lists(st.one_of(operands, _command(operands)), min_size=1, max_size=2)))
heads = _named(
    st.one_of(
        st.builds("{} {}".format, st.sampled_from(["if", "with", "range", "range $i, $x :=", "range $x :="]), pipes),
        st.sampled_from(["range .E", "range $y = .E", "range 3", "range $x, $y = .H", "with $x := .P"]),
    )
)


def _wild_blocks(inner: Texts) -> Texts:
    body = st.builds("".join, st.lists(inner, max_size=3))
    plain = st.builds("{{{{{}}}}}{}{{{{end}}}}".format, heads, body)
    with_else = st.builds("{{{{{}}}}}{}{{{{else}}}}{}{{{{end}}}}".format, heads, body, body)
    chained = st.builds(
        "{{{{{0} {1}}}}}{2}{{{{else {0} {3}}}}}{4}{{{{end}}}}".format,
        st.sampled_from(["if", "with"]),
        *(pipes, body, pipes, body),
    )
    block = st.builds('{{{{block "x" {}}}}}{}{{{{end}}}}'.format, pipes, body)
    return st.one_of(plain, plain, with_else, chained, block)


actions = _action(st.builds("{}{}".format, st.sampled_from(["", "", "", "$x := ", "$y = ", "$i := "]), pipes))
odd = st.sampled_from(["{{break}}", "{{continue}}", "{{/* c */}}", "{{- /* c */ -}}", '{{template "x"}}', "}}"])
wild = _named(
    st.builds(
        lambda parts: PRELUDE + "".join(parts),
        st.lists(
            st.recursive(st.one_of(plain_texts, actions, actions, odd), _wild_blocks, max_leaves=6),
            min_size=1,
            max_size=3,
        ),
    )
)

# ---- soup -----------------------------------------------------------------------------------------------------------

_DELIMITERS = ("{{", "}}", "{{-", "-}}", "{{ ", " }}", "{{- ", " -}}", " ", "\n", "\t", "/*", "*/", "{{/*", "*/}}")
_MARKS = ("(", ")", "|", ".", "$", "=", ":=", ",", '"', "`", "'", "+", "-", "_", "\\", "#", "\x00", "\u00a0")
_KEYWORDS = ("if", "else", "end", "range", "with", "define", "block", "template", "break", "continue", "nil", "true")
_WORDS = (".A", "$x", "eq", "len", "print", "nope", "é", "text", '"s"', "'a'", "`r\n`", "{{end}}", "{{if .}}")
_NUMBERS = ("1", "1.", "0x", "1e", "1_0", "08", "1i")
soup = st.lists(st.sampled_from([*_DELIMITERS, *_MARKS, *_KEYWORDS, *_WORDS, *_NUMBERS]), max_size=14).map("".join)

# ---- printing -------------------------------------------------------------------------------------------------------

formats = st.builds(
    "%{}{}{}{}".format,
    st.text("+-# 0", max_size=3),
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


def _composed(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    point = st.builds(lambda x, label: {"$type": "Point", "X": x, "Label": label}, inner, st.text("aé\n", max_size=3))
    named = st.builds(
        lambda name, items: {"$type": "Named", "Name": name, "Items": items},
        st.text("bc", max_size=2),
        st.lists(inner, max_size=2),
    )
    shouts = st.builds(
        lambda items: {"$type": "Shouts", "Items": items}, st.lists(st.text("de", max_size=2), max_size=3)
    )
    objects = st.dictionaries(st.text(characters, max_size=3), inner, max_size=3)
    return st.one_of(st.lists(inner, max_size=3), objects, point, named, shouts)


data_values = st.recursive(scalars, _composed, max_leaves=5)
