"""The functions of Go's text/template and Ollama's own, applied to values known by type.

Semantics from Go's text/template/funcs.go. Wrong arguments fail in Ollama when the call is reached, so they become
errors of the conversation; calls that are right in Go and have no Jinja are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from migrate.chat_template import jinja_ast as j
from migrate.chat_template import show, values
from migrate.chat_template.values import T, Value
from migrate.gotemplate import nodes as go

if TYPE_CHECKING:
    from migrate.chat_template.translator import Translator

Arguments = list[Value]
_OLLAMAS_OWN = {"json", "currentDate", "yesterdayDate", "toTypeScriptType"}
_OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def call(t: Translator, name: go.Identifier, operands: list[go.Operand], dot: Value, final: Value | None) -> Value:
    """`final` is what the pipeline hands over as the last argument."""
    if name.name in ("and", "or"):
        return _junction(t, name, operands, dot, final)
    if name.name == "not" and len(operands) + (final is not None) == 1:
        return Value(T.BOOL, j.negation(t.test_operand(operands[0], dot) if operands else t.truth_of(_given(final))))
    arguments = [t.operand(operand, dot) for operand in operands] + ([final] if final is not None else [])
    for argument in arguments:
        if argument.type is T.ERROR:
            return argument
    if name.name in _OPERATORS:
        return _without_loss(t, name, arguments, _ordered(t, name, arguments))
    function = _FUNCTIONS.get(name.name)
    if t.without_functions and name.name in _OLLAMAS_OWN:
        return values.error(f"line {name.line}: function {name.name!r} is not defined when the last turn is rendered")
    if function is None:
        raise t.refuse(name, f"the function {name.name}")
    return _without_loss(t, name, arguments, function(t, name, arguments))


def _without_loss(t: Translator, name: go.Identifier, arguments: Arguments, result: Value) -> Value:
    """Go evaluates every argument: one that can fail must not be folded away."""
    for argument in arguments:
        if j.may_raise(argument.expr) and not j.may_raise(result.expr):
            raise t.refuse(name, f"`{name.name}` of something that fails for some conversations")
    return result


def _given(value: Value | None) -> Value:
    assert value is not None
    return value


def _wrong_count(name: go.Identifier) -> Value:
    return values.error(f"line {name.line}: wrong number of arguments for {name.name}")


def _junction(t: Translator, name: go.Identifier, operands: list[go.Operand], dot: Value, final: Value | None) -> Value:
    """`and`/`or` give one of their operands, not a bool."""
    stop = name.name == "or"
    if not operands and final is None:
        return _wrong_count(name)
    first = t.operand(operands[0], dot) if operands else _given(final)
    if len(operands) + (final is not None) == 1 or first.type is T.ERROR:
        return first
    test = t.truth_of(first)
    if j.truth(test) is not None:
        decided = j.truth(test) is stop
        return first if decided else _junction(t, name, operands[1:], dot, final)
    with t.facts.assuming(test, not stop):
        rest = _junction(t, name, operands[1:], dot, final)
    if first.type is T.BOOL and rest.type in (T.BOOL, T.ERROR):
        expr = j.disjunction([test, rest.expr]) if stop else j.conjunction([test, rest.expr])
        return Value(T.BOOL, expr)
    if rest.type is T.ERROR:
        rest = Value(first.type, rest.expr)
    if rest.type in values.STRUCTS or rest.type in (T.MISSING, T.NIL, T.MIXED) or first.type is T.MIXED:
        raise t.refuse(name, f"`{name.name}` of values of different kinds whose result is used as a value")
    joined = values.join(first, rest)
    return Value(joined.type, (j.Or if stop else j.And)((first.expr, rest.expr)), joined.options)


# ---- comparison -----------------------------------------------------------------------------------------------------

_BASIC = {T.STRING: "string", T.BOOL: "bool", T.INT: "int", T.FLOAT: "float"}


def _eq(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) < 2:
        return _wrong_count(name) if not arguments else values.error(f"line {name.line}: missing argument for eq")
    first, *others = arguments
    if any(j.may_raise(other.expr) for other in others[1:]):  # Jinja would stop before it
        raise t.refuse(name, "`eq` of something that fails for some conversations")
    return Value(T.BOOL, j.disjunction(t.facts.simplify(_equal(t, name, first, other)) for other in others))


def _ne(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) != 2:
        return _wrong_count(name)
    return Value(T.BOOL, t.facts.simplify(j.negation(_equal(t, name, *arguments))))


def _equal(t: Translator, name: go.Identifier, a: Value, b: Value) -> j.Expr:
    kinds = _BASIC.get(a.type), _BASIC.get(b.type)
    absent = [value.type in (T.MISSING, T.NIL) for value in (a, b)]
    if any(absent):
        if all(absent):
            return j.TRUE
        if T.MIXED in (a.type, b.type) or T.ANY in (a.type, b.type):
            raise t.refuse(name, "a comparison of values whose kinds are not known")
        return j.FALSE
    if kinds[0] and kinds[0] == kinds[1]:
        return _same_kind_equal(a, b)
    if T.ANY in (a.type, b.type) and "string" in kinds:
        value = a if a.type is T.ANY else b
        wrong = values.error(f"line {name.line}: incompatible types for comparison").expr
        return j.IfElse(j.Is(value.expr, "string"), j.compare("==", a.expr, b.expr), wrong)
    if T.MIXED in (a.type, b.type) or T.ANY in (a.type, b.type) or not any(kinds):
        raise t.refuse(name, "a comparison of values whose kinds are not known")
    return values.error(f"line {name.line}: incompatible types for comparison").expr


def _same_kind_equal(a: Value, b: Value) -> j.Expr:
    for value, other in ((a, b), (b, a)):
        text = _plain_prefix(value.expr, other.expr)
        if text is not None:
            return j.compare("==", text, other.expr)
    if a.type is T.BOOL:
        for value, other in ((a, b), (b, a)):
            if isinstance(other.expr, j.Lit):
                return value.expr if other.expr.value else j.negation(value.expr)
    return j.compare("==", a.expr, b.expr)


def _plain_prefix(expr: j.Expr, constant: j.Expr) -> j.Expr | None:
    """Compared with an ASCII constant of the same length, the first n bytes are the first n characters."""
    if not isinstance(constant, j.Lit) or not isinstance(constant.value, str) or not constant.value.isascii():
        return None
    match expr:
        case j.Call(j.Attr(j.Slice(j.Call(j.Attr(text, "encode")), None, j.Lit(stop)), "decode")):
            if stop == len(constant.value):
                return j.Slice(text, None, j.Lit(stop))
    return None


def _ordered(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) != 2:
        return _wrong_count(name)
    a, b = arguments
    if a.type is b.type and a.type in (T.INT, T.STRING, T.FLOAT):
        return Value(T.BOOL, t.facts.simplify(j.compare(_OPERATORS[name.name], a.expr, b.expr)))
    if T.MIXED in (a.type, b.type) or T.ANY in (a.type, b.type):
        raise t.refuse(name, "a comparison of values whose kinds are not known")
    return values.error(f"line {name.line}: incompatible types for comparison")


# ---- length, parts --------------------------------------------------------------------------------------------------


def _len(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) != 1:
        return _wrong_count(name)
    (value,) = arguments
    if value.type is T.STRING:
        return Value(T.INT, j.byte_length(value.expr))
    if value.type in values.LISTS:
        return Value(T.INT, _list_length(t, value))
    if value.type in values.MAPS:
        return Value(T.INT, j.Filter(j.Or((value.expr, j.DictOf(()))), "length"))
    if value.type in (T.MIXED, T.ANY, T.IMAGES):
        raise t.refuse(name, "`len` of a value whose kind is not known")
    return values.error(f"line {name.line}: len of something that has no length")


def _list_length(t: Translator, value: Value) -> j.Expr:
    match value.expr:
        case j.Slice(source, j.LoopVar(loop, "index0"), None) if t.loop_over(source, loop):
            return j.LoopVar(loop, "revindex")
    return j.Filter(values.listed(value), "length")


def _index(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if not arguments:
        return _wrong_count(name)
    value, *keys = arguments
    for key in keys:
        value = _index_once(t, name, value, key)
        if value.type is T.ERROR:
            return value
    return value


def _index_once(t: Translator, name: go.Identifier, value: Value, key: Value) -> Value:
    wrong = values.error(f"line {name.line}: index out of range")
    if value.type in values.LISTS and key.type is T.INT:
        if isinstance(key.expr, j.Lit) and isinstance(key.expr.value, int) and key.expr.value < 0:
            return wrong
        kind = values.LISTS[value.type]
        if value.type is T.MESSAGES and key.expr == j.Lit(0):  # there is always a message
            return Value(kind, j.Item(value.expr, key.expr))
        listed = values.listed(value)
        inside: j.Expr = j.compare(">", j.Filter(listed, "length"), key.expr)
        if not isinstance(key.expr, j.Lit | j.LoopVar):
            inside = j.conjunction([j.compare(">=", key.expr, j.Lit(0)), inside])
        return Value(kind, j.choice(t.facts.simplify(inside), j.Item(listed, key.expr), wrong.expr))
    if value.type is T.ARGUMENTS and key.type is T.STRING:
        return Value(T.ANY, values.lookup(value.expr, key.expr))
    if value.type in (T.MISSING, T.NIL):
        return values.error(f"line {name.line}: index of something that Ollama does not provide")
    raise t.refuse(name, "`index` of this kind of value")


def _slice(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if not arguments:
        return _wrong_count(name)
    value, *bounds = arguments
    if any(bound.type is not T.INT for bound in bounds):
        return values.error(f"line {name.line}: slice bounds that are no integers")
    if len(bounds) > 2:
        raise t.refuse(name, "`slice` with three bounds")
    if not bounds:
        return value
    start, stop = bounds[0].expr, bounds[1].expr if len(bounds) == 2 else None
    if value.type in values.LISTS:
        return _slice_list(t, name, value, start, stop)
    if value.type is T.STRING:
        return _slice_text(t, name, value, start, stop)
    if value.type in (T.MISSING, T.NIL):
        return values.error(f"line {name.line}: slice of something that Ollama does not provide")
    raise t.refuse(name, "`slice` of this kind of value")


def _slice_list(t: Translator, name: go.Identifier, value: Value, start: j.Expr, stop: j.Expr | None) -> Value:
    source = value.expr if value.type is T.MESSAGES else values.listed(value)
    if isinstance(start, j.LoopVar) and start.attr == "index0" and stop is None:
        for candidate in (value.expr, source):
            if t.loop_over(candidate, start.loop):
                return Value(value.type, j.Slice(candidate, start, None))
    if start == j.Lit(0) and stop is None:
        return value
    within = _within(start, stop, j.Filter(source, "length"))
    wrong = values.error(f"line {name.line}: slice bounds out of range").expr
    return Value(value.type, j.choice(t.facts.simplify(within), j.Slice(source, _bound(start), stop), wrong))


def _slice_text(t: Translator, name: go.Identifier, value: Value, start: j.Expr, stop: j.Expr | None) -> Value:
    """Go cuts bytes; a cut inside a character raises in Python, where Go would go on with broken text."""
    if isinstance(value.expr, j.Lit) and isinstance(start, j.Lit) and isinstance(stop, j.Lit | None):
        return _slice_constant(t, name, value.expr, start, stop)
    cut = j.Slice(j.Call(j.Attr(value.expr, "encode")), _bound(start), stop)
    within = t.facts.simplify(_within(start, stop, j.byte_length(value.expr)))
    wrong = values.error(f"line {name.line}: slice bounds out of range").expr
    return Value(T.STRING, j.choice(within, j.Call(j.Attr(cut, "decode")), wrong))


def _slice_constant(t: Translator, name: go.Identifier, text: j.Lit, start: j.Lit, stop: j.Lit | None) -> Value:
    raw = str(text.value).encode()
    first, last = start.value, len(raw) if stop is None else stop.value
    assert isinstance(first, int)
    assert isinstance(last, int)
    if not 0 <= first <= last <= len(raw):
        return values.error(f"line {name.line}: slice bounds out of range")
    try:
        return values.constant(raw[first:last].decode())
    except UnicodeDecodeError:
        raise t.refuse(name, "`slice` that cuts a character in two") from None


def _bound(start: j.Expr) -> j.Expr | None:
    return None if start == j.Lit(0) else start


def _within(start: j.Expr, stop: j.Expr | None, length: j.Expr) -> j.Expr:
    checks = [] if isinstance(start, j.LoopVar) else [j.compare(">=", start, j.Lit(0))]
    if stop is not None:
        checks.append(j.compare("<=", start, stop))
    checks.append(j.compare(">=", length, stop if stop is not None else start))
    return j.conjunction(checks)


# ---- text -----------------------------------------------------------------------------------------------------------


def _print(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    """fmt.Sprint: a blank between operands when neither is a string."""
    parts: list[j.Expr] = []
    for i, argument in enumerate(arguments):
        if i and not _is_text(t, name, arguments[i - 1]) and not _is_text(t, name, argument):
            parts.append(j.Lit(" "))
        parts.append(show.formatted(argument, t, name))
    return Value(T.STRING, j.concat(parts))


def _is_text(t: Translator, name: go.Identifier, value: Value) -> bool:
    return value.type is T.STRING


def _println(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    parts: list[j.Expr] = []
    for i, argument in enumerate(arguments):
        parts += [j.Lit(" ")] * (i > 0) + [show.formatted(argument, t, name)]
    return Value(T.STRING, j.concat([*parts, j.Lit("\n")]))


def _printf(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if not arguments:
        return _wrong_count(name)
    pattern, *rest = arguments
    if not isinstance(pattern.expr, j.Lit) or not isinstance(pattern.expr.value, str):
        raise t.refuse(name, "`printf` with a format that is not constant")
    parts: list[j.Expr] = []
    source, position = pattern.expr.value, 0
    while position < len(source):
        found = source.find("%", position)
        if found < 0:
            parts.append(j.Lit(source[position:]))
            break
        parts.append(j.Lit(source[position:found]))
        verb = source[found + 1 : found + 2]
        position = found + 2
        if verb == "*":
            parts.append(_padded(t, name, source[position : position + 1], rest))
            position, rest = position + 1, rest[2:]
        elif verb == "%":
            parts.append(j.Lit("%"))
        else:
            parts.append(_verb(t, name, verb, rest))
            rest = rest[1:]
    if rest:
        raise t.refuse(name, "`printf` with more arguments than its format names")
    return Value(T.STRING, j.concat(parts))


def _verb(t: Translator, name: go.Identifier, verb: str, rest: Arguments) -> j.Expr:
    if not rest:
        raise t.refuse(name, "`printf` with fewer arguments than its format names")
    value = rest[0]
    if verb == "v" or (verb == "s" and value.type is T.STRING) or (verb == "d" and value.type is T.INT):
        return show.formatted(value, t, name)
    if verb == "t" and value.type is T.BOOL:
        return show.formatted(value, t, name)
    raise t.refuse(name, f"`printf` with %{verb} for this kind of value")


def _padded(t: Translator, name: go.Identifier, verb: str, rest: Arguments) -> j.Expr:
    """`%*s` of an empty string: as many blanks as the width says."""
    if verb != "s" or len(rest) < 2 or rest[0].type is not T.INT or rest[1].expr != j.EMPTY:
        raise t.refuse(name, "`printf` with a width")
    return j.Binary("*", j.Lit(" "), j.Filter(rest[0].expr, "abs"))


def _json(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) != 1:
        return _wrong_count(name)
    return Value(T.STRING, show.as_json(arguments[0], t, name))


def _typescript_type(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if len(arguments) != 1:
        return _wrong_count(name)
    if arguments[0].type is not T.PROPERTY:
        raise t.refuse(name, "`toTypeScriptType` of something that is no property")
    return Value(T.STRING, j.Call(j.Name("typescript_type"), (arguments[0].expr,)))


def _current_date(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if any(argument.type is not T.STRING for argument in arguments):
        return values.error(f"line {name.line}: wrong type of argument for {name.name}")
    return Value(T.STRING, j.Call(j.Name("strftime_now"), (j.Lit("%Y-%m-%d"),)))


def _yesterday_date(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    if any(argument.type is not T.STRING for argument in arguments):
        return values.error(f"line {name.line}: wrong type of argument for {name.name}")
    return Value(T.STRING, j.Call(j.Name("yesterday")))


def _not(t: Translator, name: go.Identifier, arguments: Arguments) -> Value:
    return _wrong_count(name)


_FUNCTIONS: dict[str, Callable[[Translator, go.Identifier, Arguments], Value]] = {
    "not": _not,
    "eq": _eq,
    "ne": _ne,
    "len": _len,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "json": _json,
    "currentDate": _current_date,
    "yesterdayDate": _yesterday_date,
    "toTypeScriptType": _typescript_type,
}
