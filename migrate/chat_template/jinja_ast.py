"""The part of Jinja that translated templates are written in: expressions, statements and rules that shorten them.

The builder functions (`conjunction`, `negation`, `compare`, `concat`, ...) fold constants and loop arithmetic as they
build, so a tree is never larger than it has to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace


@dataclass(frozen=True, slots=True)
class Expr:
    pass


@dataclass(frozen=True, slots=True)
class Lit(Expr):
    """A constant. Python's `True == 1` must not make two different literals equal, hence `kind`."""

    value: str | int | float | bool | None
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", type(self.value).__name__)


@dataclass(frozen=True, slots=True)
class Name(Expr):
    name: str


@dataclass(frozen=True, slots=True)
class Attr(Expr):
    node: Expr
    name: str


@dataclass(frozen=True, slots=True)
class Item(Expr):
    node: Expr
    key: Expr


@dataclass(frozen=True, slots=True)
class Slice(Expr):
    node: Expr
    start: Expr | None
    stop: Expr | None


@dataclass(frozen=True, slots=True)
class LoopVar(Expr):
    """`loop.<attr>` of one particular loop; the printer names it when an inner loop reads it."""

    loop: int
    attr: str


@dataclass(frozen=True, slots=True)
class Not(Expr):
    node: Expr


@dataclass(frozen=True, slots=True)
class And(Expr):
    nodes: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Or(Expr):
    nodes: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Compare(Expr):
    """`op` is one of == != < <= > >= in."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Binary(Expr):
    """Arithmetic: + - *"""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True)
class Concat(Expr):
    """Text, joined. `Text` parts are strings; parts wrapped in `Shown` are converted by Jinja's `~`."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Shown(Expr):
    """An integer, where its text is meant."""

    node: Expr


@dataclass(frozen=True, slots=True)
class Filter(Expr):
    node: Expr
    name: str
    args: tuple[Expr, ...] = ()
    kwargs: tuple[tuple[str, Expr], ...] = ()


@dataclass(frozen=True, slots=True)
class Call(Expr):
    func: Expr
    args: tuple[Expr, ...] = ()
    kwargs: tuple[tuple[str, Expr], ...] = ()


@dataclass(frozen=True, slots=True)
class Is(Expr):
    """`node is test`"""

    node: Expr
    test: str


@dataclass(frozen=True, slots=True)
class IfElse(Expr):
    test: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True)
class ListOf(Expr):
    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class DictOf(Expr):
    items: tuple[tuple[str, Expr], ...]


# ---- statements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stmt:
    pass


Body = tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Output(Stmt):
    expr: Expr


@dataclass(frozen=True, slots=True)
class Assign(Stmt):
    """`{% set target = expr %}`; the target is a Name, or an Attr of a namespace."""

    target: Name | Attr
    expr: Expr


@dataclass(frozen=True, slots=True)
class If(Stmt):
    test: Expr
    body: Body
    otherwise: Body = ()


@dataclass(frozen=True, slots=True)
class For(Stmt):
    """`loop` is the number that `LoopVar` refers to."""

    loop: int
    targets: tuple[str, ...]
    iterable: Expr
    body: Body
    otherwise: Body = ()


@dataclass(frozen=True, slots=True)
class Break(Stmt):
    pass


@dataclass(frozen=True, slots=True)
class Continue(Stmt):
    pass


@dataclass(frozen=True, slots=True)
class Macro(Stmt):
    name: str
    params: tuple[str, ...]
    body: Body


@dataclass(frozen=True, slots=True)
class Source(Stmt):
    """Lines of Jinja written by hand (the macros of `prelude`), printed as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Comment(Stmt):
    text: str


TRUE = Lit(True)
FALSE = Lit(False)
EMPTY = Lit("")


def truth(expr: Expr) -> bool | None:
    """What a condition is known to be, None if that depends on the conversation."""
    if isinstance(expr, Lit):
        return bool(expr.value)
    if isinstance(expr, ListOf | DictOf):
        return bool(expr.items)
    return None


def raise_(message: str) -> Expr:
    return Call(Name("raise_exception"), (Lit("migrate: " + message),))


def is_raise(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.func == Name("raise_exception")


# ---- builders -------------------------------------------------------------------------------------------------------


def conjunction(nodes: Iterable[Expr]) -> Expr:
    return _junction(nodes, And, stop=False)


def disjunction(nodes: Iterable[Expr]) -> Expr:
    return _junction(nodes, Or, stop=True)


def _junction(nodes: Iterable[Expr], kind: type[And] | type[Or], stop: bool) -> Expr:
    flat: list[Expr] = []
    for node in nodes:
        for part in node.nodes if isinstance(node, And | Or) and type(node) is kind else (node,):
            known = truth(part)
            if known is stop:
                flat.append(Lit(stop))
                return flat[0] if len(flat) == 1 else _finish(flat, kind)
            if known is None and part not in flat:
                flat.append(part)
            if is_raise(part):
                return _finish(flat, kind)
    if not flat:
        return Lit(not stop)
    return _finish(flat, kind)


def _finish(flat: list[Expr], kind: type[And] | type[Or]) -> Expr:
    stop = Lit(kind is Or)
    # `x and false` is false unless evaluating x can raise
    if flat[-1] == stop and not any(may_raise(part) for part in flat):
        return stop
    return flat[0] if len(flat) == 1 else kind(tuple(flat))


def negation(node: Expr) -> Expr:
    known = truth(node)
    if known is not None:
        return Lit(not known)
    if isinstance(node, Not):
        return node.node
    if isinstance(node, Compare) and node.op in _OPPOSITE:
        return Compare(_OPPOSITE[node.op], node.left, node.right)
    return node if is_raise(node) else Not(node)


_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def compare(op: str, left: Expr, right: Expr) -> Expr:
    """A comparison of two values of the same kind."""
    for side in (left, right):
        if is_raise(side):
            return side
    if isinstance(left, Lit) and isinstance(right, Lit):
        return Lit(_compare_constants(op, left.value, right.value))
    if isinstance(left, Lit):
        op, left, right = _MIRRORED[op], right, left
    if isinstance(right, Lit) and isinstance(right.value, int):
        return _compare_int(op, left, right.value)
    return Compare(op, left, right)


def _compare_constants(op: str, left: object, right: object) -> bool:
    if op == "==":
        return left == right
    if op == "!=":
        return left != right
    if isinstance(left, str) and isinstance(right, str):
        a, b = left.encode(), right.encode()
        return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]
    assert isinstance(left, int | float)
    assert isinstance(right, int | float)
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[op]


def _compare_int(op: str, left: Expr, number: int) -> Expr:
    """Loop arithmetic: `revindex == 1` is `loop.last`, `index0 > 0` is `not loop.first`."""
    if isinstance(left, LoopVar) and left.attr in ("revindex", "index0"):
        lowest = 1 if left.attr == "revindex" else 0
        edge = LoopVar(left.loop, "last" if left.attr == "revindex" else "first")
        above = {"==": number < lowest, "!=": number < lowest, ">": number < lowest, ">=": number <= lowest}
        if op in (">", ">=") and above[op]:
            return TRUE
        if (op == "<" and number <= lowest) or (op in ("<=", "==") and number < lowest):
            return FALSE
        if op == "!=" and number < lowest:
            return TRUE
        if (op, number) in (("==", lowest), ("<=", lowest), ("<", lowest + 1)):
            return edge
        if (op, number) in (("!=", lowest), (">", lowest), (">=", lowest + 1)):
            return Not(edge)
    if isinstance(left, Filter) and left.name == "length" and not left.args:
        sized = left.node.func.node if _is_encoded(left.node) else left.node  # type: ignore[attr-defined]
        if (op, number) in ((">", 0), ("!=", 0), (">=", 1)):
            return sized
        if (op, number) in (("==", 0), ("<", 1), ("<=", 0)):
            return negation(sized)
        if op == ">=" and number <= 0:
            return TRUE
    return Compare(op, left, Lit(number))


def _is_encoded(node: Expr) -> bool:
    return isinstance(node, Call) and isinstance(node.func, Attr) and node.func.name == "encode"


def byte_length(text: Expr) -> Expr:
    """Go's `len` of a string counts bytes of UTF-8."""
    if isinstance(text, Lit):
        return Lit(len(str(text.value).encode()))
    if isinstance(text, Concat):
        return add(*(byte_length(part) for part in text.parts))
    if isinstance(text, Binary) and text.op == "*" and text.left == Lit(" "):
        return text.right
    return Filter(Call(Attr(text, "encode")), "length")


def add(*terms: Expr) -> Expr:
    total = sum(t.value for t in terms if isinstance(t, Lit) and isinstance(t.value, int))
    open_terms = [t for t in terms if not isinstance(t, Lit)]
    if not open_terms:
        return Lit(total)
    result = open_terms[0]
    for term in open_terms[1:]:
        result = Binary("+", result, term)
    return Binary("+", result, Lit(total)) if total else result


def concat(parts: Iterable[Expr]) -> Expr:
    """Joins text; `parts` are strings or `Shown` integers."""
    flat: list[Expr] = []
    for part in parts:
        for piece in part.parts if isinstance(part, Concat) else (part,):
            if is_raise(piece):
                return piece
            if isinstance(piece, Shown) and isinstance(piece.node, Lit):
                piece = Lit(str(piece.node.value))
            if piece == EMPTY:
                continue
            if flat and isinstance(piece, Lit) and isinstance(flat[-1], Lit):
                flat[-1] = Lit(str(flat[-1].value) + str(piece.value))
            else:
                flat.append(piece)
    if not flat:
        return EMPTY
    if len(flat) == 1:
        return Filter(flat[0].node, "string") if isinstance(flat[0], Shown) else flat[0]
    return Concat(tuple(flat))


def choice(test: Expr, then: Expr, otherwise: Expr) -> Expr:
    known = truth(test)
    if known is not None:
        return then if known else otherwise
    if then == otherwise:
        return then
    return IfElse(test, then, otherwise)


# ---- walking --------------------------------------------------------------------------------------------------------


def children(node: object) -> Iterator[Expr]:
    """The expressions directly inside an expression or a statement (not those of nested statements)."""
    for item in fields(node):  # type: ignore[arg-type]
        yield from _expressions(getattr(node, item.name))


def _expressions(value: object) -> Iterator[Expr]:
    if isinstance(value, Expr):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _expressions(item)


def walk(expr: Expr) -> Iterator[Expr]:
    yield expr
    for child in children(expr):
        yield from walk(child)


def statements(body: Body) -> Iterator[Stmt]:
    """Every statement in a body, nested ones included."""
    for stmt in body:
        yield stmt
        for nested in nested_bodies(stmt):
            yield from statements(nested)


def nested_bodies(stmt: Stmt) -> tuple[Body, ...]:
    if isinstance(stmt, If | For):
        return (stmt.body, stmt.otherwise)
    return (stmt.body,) if isinstance(stmt, Macro) else ()


def expressions(body: Body) -> Iterator[Expr]:
    """Every expression in a body, nested ones included."""
    for stmt in statements(body):
        for expr in children(stmt):
            yield from walk(expr)


def may_raise(expr: Expr) -> bool:
    return any(is_raise(node) for node in walk(expr))


def map_bodies(stmt: Stmt, change: object) -> Stmt:
    """The statement with `change(body)` in place of each nested body."""
    assert callable(change)
    if isinstance(stmt, If | For):
        return replace(stmt, body=change(stmt.body), otherwise=change(stmt.otherwise))
    return replace(stmt, body=change(stmt.body)) if isinstance(stmt, Macro) else stmt
