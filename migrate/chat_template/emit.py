"""Prints Jinja as official chat templates are written: every text inside `{{- '...' }}`, four blanks per level.

With each tag trimming to its left and transformers' `trim_blocks`, no whitespace of the layout can reach a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from migrate.chat_template.jinja_ast import (
    And,
    Assign,
    Attr,
    Binary,
    Body,
    Break,
    Call,
    Comment,
    Compare,
    Concat,
    Continue,
    DictOf,
    Expr,
    Filter,
    For,
    If,
    IfElse,
    Is,
    Item,
    ListOf,
    Lit,
    LoopVar,
    Macro,
    Name,
    Not,
    Or,
    Output,
    Shown,
    Slice,
    Source,
    Stmt,
)

WIDTH = 110

# Jinja's precedences, loosest first (jinja2/parser.py); note that `~` binds tighter than `+`.
_IF, _OR, _AND, _NOT, _COMPARE, _SUM, _CONCAT, _PRODUCT, _TEST, _ATOM = range(10)

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def render(body: Sequence[Stmt]) -> str:
    """The template's text, ending in one newline (which Jinja drops)."""
    return "\n".join(_lines(body, 0)) + "\n"


# ---- statements -----------------------------------------------------------------------------------------------------


def _lines(body: Sequence[Stmt], depth: int) -> list[str]:
    lines: list[str] = []
    for stmt in body:
        lines += [line and "    " * depth + line for line in _statement(stmt)]
    return lines


def _statement(stmt: Stmt) -> list[str]:
    match stmt:
        case Output(expr):
            return [f"{{{{- {text} }}}}" for text in output_lines(expr)]
        case Assign(target, expr):
            return [f"{{%- set {text(target)} = {text(expr)} %}}"]
        case If():
            return _if_lines(stmt)
        case For(_, targets, iterable, body, otherwise):
            lines = [f"{{%- for {', '.join(targets)} in {text(iterable, _OR)} %}}", *_lines(body, 1)]
            return [*lines, *(_else_lines(otherwise)), "{%- endfor %}"]
        case Break():
            return ["{%- break %}"]
        case Continue():
            return ["{%- continue %}"]
        case Macro(name, params, body):
            return [f"{{%- macro {name}({', '.join(params)}) %}}", *_lines(body, 1), "{%- endmacro %}"]
        case Source(source):
            return source.splitlines()
        case Comment(comment):
            return [f"{{#- {comment.replace('#}', '# }')} -#}}" if "\n" not in comment else _comment_block(comment)]
    raise TypeError(f"not a statement: {stmt!r}")


def _comment_block(comment: str) -> str:
    return "{#-\n" + "\n".join(f"    {line}".rstrip() for line in comment.replace("#}", "# }").splitlines()) + "\n-#}"


def _if_lines(stmt: If) -> list[str]:
    lines = [f"{{%- if {text(stmt.test, _OR)} %}}", *_lines(stmt.body, 1)]
    rest = stmt.otherwise
    while len(rest) == 1 and isinstance(rest[0], If):
        lines += [f"{{%- elif {text(rest[0].test, _OR)} %}}", *_lines(rest[0].body, 1)]
        rest = rest[0].otherwise
    return [*lines, *_else_lines(rest), "{%- endif %}"]


def _else_lines(body: Body) -> list[str]:
    return ["{%- else %}", *_lines(body, 1)] if body else []


def output_lines(expr: Expr) -> list[str]:
    """One output action per line, long ones cut after a newline of the text."""
    parts = list(expr.parts) if isinstance(expr, Concat) else [expr]
    whole = _joined(parts)
    if len(whole) <= WIDTH:
        return [whole]
    pieces: list[Expr] = []
    for part in parts:
        if isinstance(part, Lit) and isinstance(part.value, str):
            pieces += [Lit(line) for line in re.findall(r"[^\n]*\n+|[^\n]+", part.value)]
        else:
            pieces.append(part)
    lines: list[list[Expr]] = [[]]
    for piece in pieces:
        fits = len(_joined([*lines[-1], piece])) <= WIDTH
        if lines[-1] and not fits:
            lines.append([])
        lines[-1].append(piece)
    return [_joined(_merged(line)) for line in lines]


def _merged(parts: list[Expr]) -> list[Expr]:
    merged: list[Expr] = []
    for part in parts:
        if merged and isinstance(part, Lit) and isinstance(merged[-1], Lit):
            merged[-1] = Lit(f"{merged[-1].value}{part.value}")
        else:
            merged.append(part)
    return merged


def _joined(parts: list[Expr]) -> str:
    if len(parts) == 1:
        return text(parts[0])
    return text(Concat(tuple(_merged(parts))))


# ---- expressions ----------------------------------------------------------------------------------------------------


def text(expr: Expr, minimum: int = 0) -> str:
    level, source = _expression(expr)
    return f"({source})" if level < minimum else source


def _expression(expr: Expr) -> tuple[int, str]:
    match expr:
        case Lit():
            return _literal(expr)
        case Name(name):
            return _ATOM, name
        case LoopVar(_, attr):
            return _ATOM, f"loop.{attr}"
        case Attr(node, name):
            return _ATOM, f"{text(node, _ATOM)}.{name}"
        case Item(node, key):
            return _ATOM, f"{text(node, _ATOM)}[{text(key)}]"
        case Slice(node, start, stop):
            bounds = f"{text(start) if start else ''}:{text(stop) if stop else ''}"
            return _ATOM, f"{text(node, _ATOM)}[{bounds}]"
        case Not(Is(node, test)):
            return _TEST, f"{text(node, _ATOM)} is not {test}"
        case Not(Or(nodes)) if (listed := _one_of(nodes)) is not None:
            return _COMPARE, f"{listed[0]} not in {listed[1]}"
        case Or(nodes) if (listed := _one_of(nodes)) is not None:
            return _COMPARE, f"{listed[0]} in {listed[1]}"
        case Not(node):
            return _NOT, f"not {text(node, _NOT)}"
        case Is(node, test):
            return _TEST, f"{text(node, _ATOM)} is {test}"
        case And(nodes):
            return _AND, " and ".join(text(node, _NOT) for node in nodes)
        case Or(nodes):
            return _OR, " or ".join(text(node, _AND) for node in nodes)
        case Compare(op, left, right):
            return _COMPARE, f"{text(left, _SUM)} {op} {text(right, _SUM)}"
        case Binary(op, left, right):
            level = _PRODUCT if op == "*" else _SUM
            return level, f"{text(left, level)} {op} {text(right, level + 1)}"
        case Concat(parts):
            return _concat(parts)
        case Shown(node):
            return _expression(node)
        case IfElse(test, then, otherwise):
            return _IF, f"{text(then, _OR)} if {text(test, _OR)} else {text(otherwise)}"
        case _:
            return _ATOM, _compound(expr)


def _one_of(nodes: tuple[Expr, ...]) -> tuple[str, str] | None:
    """`x == 'a' or x == 'b'` is `x in ['a', 'b']`: its two sides."""
    subject = nodes[0].left if isinstance(nodes[0], Compare) else None
    options: list[Expr] = []
    for node in nodes:
        if not isinstance(node, Compare) or node.op != "==" or node.left != subject or not isinstance(node.right, Lit):
            return None
        options.append(node.right)
    return text(nodes[0].left, _SUM), text(ListOf(tuple(options)))  # type: ignore[attr-defined]


def _compound(expr: Expr) -> str:
    match expr:
        case Filter(node, name, args, kwargs):
            arguments = _arguments(args, kwargs)
            return f"{text(node, _ATOM)}|{name}" + (f"({arguments})" if arguments else "")
        case Call(func, args, kwargs):
            return f"{text(func, _ATOM)}({_arguments(args, kwargs)})"
        case ListOf(items):
            return f"[{', '.join(text(item) for item in items)}]"
        case DictOf(items):
            return "{" + ", ".join(f"{quoted(key)}: {text(value)}" for key, value in items) + "}"
    raise TypeError(f"not an expression: {expr!r}")


def _arguments(args: tuple[Expr, ...], kwargs: tuple[tuple[str, Expr], ...]) -> str:
    return ", ".join([text(arg) for arg in args] + [f"{name}={text(value)}" for name, value in kwargs])


def _concat(parts: tuple[Expr, ...]) -> tuple[int, str]:
    if any(isinstance(part, Shown) for part in parts):
        return _CONCAT, " ~ ".join(text(part, _PRODUCT) for part in parts)
    return _SUM, " + ".join(text(part, _SUM if i == 0 else _CONCAT) for i, part in enumerate(parts))


def _literal(lit: Lit) -> tuple[int, str]:
    if isinstance(lit.value, str):
        return _ATOM, quoted(lit.value)
    if isinstance(lit.value, bool):
        return _ATOM, "true" if lit.value else "false"
    if lit.value is None:
        return _ATOM, "none"
    return (_PRODUCT if lit.value < 0 else _ATOM), repr(lit.value)


def quoted(value: str) -> str:
    """A Jinja string literal: what looks like a tag inside it is only text."""
    quote = '"' if "'" in value and '"' not in value else "'"
    return quote + "".join(_escaped(char, quote) for char in value) + quote


def _escaped(char: str, quote: str) -> str:
    if char == quote:
        return "\\" + char
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
