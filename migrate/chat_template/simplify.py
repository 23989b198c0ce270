"""Makes translated Jinja what a person would have written: fewer tags, nothing that has no effect."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from typing import Any

from migrate.chat_template.jinja_ast import (
    Assign,
    Attr,
    Body,
    Concat,
    Expr,
    For,
    If,
    Lit,
    LoopVar,
    Macro,
    Name,
    Output,
    Stmt,
    concat,
    conjunction,
    expressions,
    is_raise,
    map_bodies,
    may_raise,
    negation,
    statements,
)

_LOOP_NAMES = {"index0": "index", "last": "is_last", "first": "is_first", "revindex": "remaining"}


def simplify(body: Body) -> Body:
    """The same output in fewer statements."""
    while True:
        shorter = _drop_unused(_tidy(body))
        if shorter == body:
            return _hoist(body, {name.name for name in expressions(body) if isinstance(name, Name)})
        body = shorter


def _tidy(body: Body) -> Body:
    out: list[Stmt] = []
    for original in body:
        stmt = map_bodies(original, _tidy) if isinstance(original, If | For | Macro) else original
        if isinstance(stmt, If):
            out += _tidy_if(stmt)
        elif isinstance(stmt, For):
            if stmt.body or stmt.otherwise:
                out.append(stmt)
        elif isinstance(stmt, Output):
            _append_output(out, stmt)
        else:
            out.append(stmt)
    return tuple(out)


def _tidy_if(stmt: If) -> list[Stmt]:
    if not stmt.body and not stmt.otherwise:
        return [stmt] if may_raise(stmt.test) else []
    if not stmt.body:
        return _tidy_if(If(negation(stmt.test), stmt.otherwise))
    if stmt.body == stmt.otherwise and not may_raise(stmt.test):
        return list(stmt.body)
    if not stmt.otherwise and len(stmt.body) == 1 and isinstance(stmt.body[0], If) and not stmt.body[0].otherwise:
        inner = stmt.body[0]
        return [If(conjunction([stmt.test, inner.test]), inner.body)]
    return [stmt]


def _append_output(out: list[Stmt], stmt: Output) -> None:
    if stmt.expr == Lit(""):
        return
    previous = out[-1] if out else None
    if isinstance(previous, Output) and _can_be_joined(previous.expr) and _can_be_joined(stmt.expr):
        out[-1] = Output(concat([previous.expr, stmt.expr]))
    else:
        out.append(stmt)


def _can_be_joined(expr: Expr) -> bool:
    return not is_raise(expr) and not (isinstance(expr, Concat) and len(expr.parts) > 400)


def _drop_unused(body: Body) -> Body:
    read = Counter(expr for expr in expressions(body) if isinstance(expr, Name | Attr))
    written = Counter(stmt.target for stmt in statements(body) if isinstance(stmt, Assign))
    dead = {target for target, count in written.items() if read[target] <= count}
    return _without(body, dead)


def _without(body: Body, dead: set[Name | Attr]) -> Body:
    out: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Assign) and stmt.target in dead and not may_raise(stmt.expr):
            continue
        out.append(map_bodies(stmt, lambda inner: _without(inner, dead)))
    return tuple(out)


# ---- loop variables read from an inner loop -------------------------------------------------------------------------


def _hoist(body: Body, taken: set[str]) -> Body:
    return tuple(_hoist_stmt(stmt, taken) for stmt in body)


def _hoist_stmt(stmt: Stmt, taken: set[str]) -> Stmt:
    if isinstance(stmt, For):
        attrs = sorted(_read_from_inner(stmt))
        names = {attr: _fresh(_LOOP_NAMES[attr], taken) for attr in attrs}
        body = _replace_inner(stmt.body, stmt.loop, names)
        setup = tuple(Assign(Name(names[attr]), LoopVar(stmt.loop, attr)) for attr in attrs)
        stmt = replace(stmt, body=setup + body)
    return map_bodies(stmt, lambda inner: _hoist(inner, taken))


def _read_from_inner(loop: For) -> set[str]:
    inner = [stmt for stmt in statements(loop.body) if isinstance(stmt, For)]
    return {
        expr.attr
        for nested in inner
        for expr in expressions((*nested.body, *nested.otherwise))
        if isinstance(expr, LoopVar) and expr.loop == loop.loop
    }


def _replace_inner(body: Body, loop: int, names: dict[str, str]) -> Body:
    if not names:
        return body
    out: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, For):
            inner = _substitute(stmt.body, loop, names), _substitute(stmt.otherwise, loop, names)
            out.append(replace(stmt, body=inner[0], otherwise=inner[1]))
        else:
            out.append(map_bodies(stmt, lambda nested: _replace_inner(nested, loop, names)))
    return tuple(out)


def _substitute(node: Any, loop: int, names: dict[str, str]) -> Any:
    if isinstance(node, LoopVar) and node.loop == loop:
        return Name(names[node.attr])
    if isinstance(node, tuple):
        return tuple(_substitute(item, loop, names) for item in node)
    if is_dataclass(node) and not isinstance(node, type | Lit):
        changes = {f.name: _substitute(getattr(node, f.name), loop, names) for f in fields(node)}
        return replace(node, **changes)
    return node


def _fresh(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
