"""A Go template's syntax tree -> Jinja, by evaluating it with values that are known only by type.

Whatever does not depend on the conversation is computed here (constants, missing keys, dead branches); what does
becomes Jinja. What fails in Ollama whenever it is reached becomes `raise_exception` there; what cannot be expressed is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from migrate.chat_template import functions, show, values
from migrate.chat_template import jinja_ast as j
from migrate.chat_template.facts import Facts
from migrate.chat_template.names import is_reserved, jinja_name
from migrate.chat_template.values import T, Value
from migrate.errors import Refused
from migrate.gotemplate import nodes as go

MAX_STATEMENTS = 20_000
MAX_CALL_DEPTH = 20
MAX_PASSES = 12
NAMESPACE = j.Name("ns")

_ELEMENT_NAMES = {
    T.MESSAGE: "message",
    T.TOOL: "tool",
    T.CALL: "tool_call",
    T.PROPERTY: "property",
    T.STRING: "item",
    T.ANY: "value",
}


@dataclass(slots=True)
class Variable:
    """A Go variable: either its value itself, or a Jinja variable (`target`)."""

    key: object
    value: Value
    loop_depth: int
    target: j.Name | j.Attr | None = None


@dataclass(slots=True)
class Assigned:
    """What is known of a variable that is assigned to after its declaration."""

    value: Value
    in_inner_loop: bool = False


@dataclass(slots=True)
class Loop:
    number: int
    source: j.Expr


@dataclass(slots=True)
class Translator:
    """Translates one template. `root` is the data: a key that is not in it is missing in Ollama, too.

    The types of variables that are assigned to are found by translating until they no longer change.
    """

    template: go.Template
    root: Mapping[str, Value]
    without_functions: bool = False
    """Ollama runs the cut tree without its own functions and without sub-templates."""
    assigned: dict[object, Assigned] = field(default_factory=dict)
    findings: dict[str, str] = field(default_factory=dict)
    facts: Facts = field(init=False)
    _scopes: list[dict[str, Variable]] = field(default_factory=list)
    _loops: list[Loop] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)
    _initial: dict[str, j.Expr] = field(default_factory=dict)
    _calls: tuple[object, ...] = ()
    _count: int = 0
    _loop_count: int = 0
    _changed: bool = False

    def __post_init__(self) -> None:
        self.facts = Facts(self._is_mutable)

    def translate(self, root_block: go.Block) -> j.Body:
        """The statements of a block executed with the data as dot. Raises Refused."""
        for _ in range(MAX_PASSES):
            self._reset()
            body = self.block(root_block, values.ROOT)
            if not self._changed:
                return self._with_namespace(body)
        raise Refused("the TEMPLATE's variables change their types in a way that has no translation")

    def _reset(self) -> None:
        self._scopes, self._loops, self._names, self._initial = [{}], [], set(), {}
        self._count = self._loop_count = 0
        self._calls, self._changed = (), False
        self.findings.clear()

    def _with_namespace(self, body: j.Body) -> j.Body:
        used = any(node == NAMESPACE for node in j.expressions(body))
        if not used:
            return body
        initial = tuple(sorted(self._initial.items()))
        return (j.Assign(NAMESPACE, j.Call(j.Name("namespace"), kwargs=initial)), *body)

    def _is_mutable(self, expr: j.Expr) -> bool:
        if expr == NAMESPACE:
            return True
        return isinstance(expr, j.Name) and any(
            v.target == expr and v.key in self.assigned for scope in self._scopes for v in scope.values()
        )

    def refuse(self, node: go.Node, what: str) -> Refused:
        return Refused(f"TEMPLATE line {node.line}: {what}")

    # ---- statements -------------------------------------------------------------------------------------------------

    def block(self, block: go.Block | None, dot: Value) -> j.Body:
        out: list[j.Stmt] = []
        for node in block.nodes if block else ():
            self._count += 1
            if self._count > MAX_STATEMENTS:
                raise self.refuse(node, "the template is too large once its parts are put together")
            out += self._statement(node, dot)
            if out and _ends(out[-1]):
                break
        return tuple(out)

    def _statement(self, node: go.Statement, dot: Value) -> j.Body:
        match node:
            case go.Text(text):
                return (j.Output(j.Lit(text)),) if text else ()
            case go.Comment():
                return ()
            case go.Action(pipe):
                return self._action(pipe, dot)
            case go.If():
                return self._if(node, dot)
            case go.With():
                return self._with(node, dot)
            case go.Range():
                return self._range(node, dot)
            case go.TemplateCall():
                return self._call(node, dot)
            case go.Break():
                return (j.Break(),)
            case go.Continue():
                return (j.Continue(),)
        raise self.refuse(node, f"{type(node).__name__} has no translation")

    def _action(self, pipe: go.Pipe, dot: Value) -> j.Body:
        value = self.pipe(pipe, dot)
        if value.type is T.ERROR or j.is_raise(value.expr):
            return (j.Output(value.expr),)
        if pipe.decl:
            return self._bind(pipe, value)
        shown = show.printed(value, self, pipe)
        return (j.Output(shown),) if shown != j.EMPTY else ()

    def _bind(self, pipe: go.Pipe, value: Value) -> j.Body:
        if len(pipe.decl) != 1:
            raise self.refuse(pipe, "two variables outside `range`")
        variable = pipe.decl[0]
        name = variable.idents[0]
        return self._assign(variable, name, value) if pipe.is_assign else self._declare(variable, name, value)

    def _declare(self, node: go.Variable, name: str, value: Value) -> j.Body:
        key = (node.pos, self._calls)
        known = self.assigned.get(key)
        if known is None:
            return self._declare_constant(key, name, value)
        joined = values.join(known.value, value)
        self._note(key, joined)
        own = self._fresh(jinja_name(name), in_namespace=known.in_inner_loop)
        target = j.Attr(NAMESPACE, own) if known.in_inner_loop else j.Name(own)
        stored = Value(joined.type, target, joined.options)
        self._scopes[-1][name] = Variable(key, stored, len(self._loops), target)
        if known.in_inner_loop and not self._loops and len(self._scopes) == 1 and isinstance(value.expr, j.Lit):
            self._initial[own] = value.expr
            return ()
        return (j.Assign(target, value.expr),)

    def _declare_constant(self, key: object, name: str, value: Value) -> j.Body:
        variable = Variable(key, value, len(self._loops))
        self._scopes[-1][name] = variable
        size = sum(1 for _ in j.walk(value.expr))
        if value.type in (T.ROOT, T.MISSING, T.NIL) or isinstance(value.expr, j.Lit):
            return ()
        if size <= 3 and not any(self._is_mutable(n) or j.is_raise(n) for n in j.walk(value.expr)):
            return ()
        target = j.Name(self._fresh(jinja_name(name)))
        variable.target, variable.value = target, Value(value.type, target, value.options)
        return (j.Assign(target, value.expr),)

    def _assign(self, node: go.Variable, name: str, value: Value) -> j.Body:
        variable = self._lookup(node, name)
        inner = len(self._loops) > variable.loop_depth
        known = self.assigned.get(variable.key)
        if known is None:
            known = self.assigned[variable.key] = Assigned(variable.value, inner)
            self._changed = True
        if inner and not known.in_inner_loop:
            known.in_inner_loop = self._changed = True
        self._note(variable.key, values.join(known.value, value))
        return (j.Assign(variable.target, value.expr),) if variable.target else ()

    def _note(self, key: object, joined: Value) -> None:
        known = self.assigned[key]
        if (joined.type, joined.options) != (known.value.type, known.value.options):
            known.value = joined
            self._changed = True

    def _lookup(self, node: go.Node, name: str) -> Variable:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        raise self.refuse(node, f"undefined variable {name}")

    @contextmanager
    def _scope(self) -> Iterator[None]:
        self._scopes.append({})
        try:
            yield
        finally:
            self._scopes.pop()

    def _fresh(self, name: str, *, in_namespace: bool = False) -> str:
        candidate, number = name, 1
        while candidate in self._names or (is_reserved(candidate) and not in_namespace):
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate

    # ---- control ----------------------------------------------------------------------------------------------------

    def _if(self, node: go.If, dot: Value) -> j.Body:
        with self._scope():
            before: j.Body = ()
            if node.pipe.decl:
                value = self.pipe(node.pipe, dot)
                before = self._bind(node.pipe, value)
                test = values.condition(self._lookup(node, node.pipe.decl[0].idents[0]).value)
            else:
                test = self.test(node.pipe, dot)
            return before + self._branch(test, node.body, node.otherwise, dot, dot)

    def _with(self, node: go.With, dot: Value) -> j.Body:
        with self._scope():
            value = self.pipe(node.pipe, dot)
            before = self._bind(node.pipe, value) if node.pipe.decl else ()
            if node.pipe.decl:
                value = self._lookup(node, node.pipe.decl[0].idents[0]).value
            test = value.expr if value.type is T.ERROR else self.facts.simplify(values.condition(value))
            return before + self._branch(test, node.body, node.otherwise, value, dot)

    def _branch(
        self, test: j.Expr, body: go.Block, otherwise: go.Block | None, dot: Value, otherwise_dot: Value
    ) -> j.Body:
        known = j.truth(test)
        if known is not None:
            return self._scoped(body, dot) if known else self._scoped(otherwise, otherwise_dot)
        if j.is_raise(test):
            return (j.Output(test),)
        with self.facts.assuming(test, True):
            then = self._scoped(body, dot)
        with self.facts.assuming(test, False):
            orelse = self._scoped(otherwise, otherwise_dot)
        return (j.If(test, then, orelse),)

    def _scoped(self, block: go.Block | None, dot: Value) -> j.Body:
        with self._scope():
            return self.block(block, dot)

    def _range(self, node: go.Range, dot: Value) -> j.Body:
        pipe = node.pipe
        if pipe.is_assign:
            raise self.refuse(node, "`range` that assigns to variables declared before it")
        value = self.pipe(pipe, dot)
        if value.type is T.ERROR:
            return (j.Output(value.expr),)
        if value.type in (T.MISSING, T.NIL):
            return self._scoped(node.otherwise, dot)
        with self._scope():
            if value.type is T.INT:
                return self._range_integers(node, value, dot)
            if value.type in values.LISTS:
                return self._range_list(node, value, dot)
            if value.type in values.MAPS:
                return self._range_map(node, value, dot)
        if value.type in (T.STRING, T.BOOL, T.FLOAT, *values.STRUCTS):
            return (j.Output(values.error("range over something that is no list").expr),)
        raise self.refuse(node, "`range` over a value of unknown kind")

    def _range_list(self, node: go.Range, value: Value, dot: Value) -> j.Body:
        iterable = values.listed(value)
        if isinstance(iterable, j.Or) and j.truth(self.facts.simplify(iterable.nodes[0])):
            iterable = iterable.nodes[0]
        kind = values.LISTS[value.type]
        name = self._element_name(kind)
        with self._loop(value.expr) as number:
            element = Value(kind, j.Name(name))
            index = Value(T.INT, j.LoopVar(number, "index0"))
            bound = self._bind_range(node, index, element)
            body = bound + self._scoped(node.body, element)
        self._names.discard(name)
        return _loop_or_else(j.For(number, (name,), iterable, body, self._scoped(node.otherwise, dot)), value)

    def _range_map(self, node: go.Range, value: Value, dot: Value) -> j.Body:
        kind = values.MAPS[value.type]
        key, name = self._element_name(T.STRING, "name"), self._element_name(kind)
        mapping: j.Expr = j.Or((value.expr, j.DictOf(())))
        if j.truth(self.facts.simplify(value.expr)):
            mapping = value.expr
        iterable = j.Filter(mapping, "dictsort", (j.TRUE,))
        with self._loop(iterable) as number:
            element = Value(kind, j.Name(name))
            bound = self._bind_range(node, Value(T.STRING, j.Name(key)), element)
            body = bound + self._scoped(node.body, element)
        self._names -= {key, name}
        loop = j.For(number, (key, name), iterable, body, self._scoped(node.otherwise, dot))
        return _loop_or_else(loop, value)

    def _range_integers(self, node: go.Range, value: Value, dot: Value) -> j.Body:
        if not isinstance(value.expr, j.Lit) or not isinstance(value.expr.value, int) or value.expr.value > 1000:
            raise self.refuse(node, "`range` over a number that is not a small constant")
        iterable = j.Call(j.Name("range"), (value.expr,))
        name = self._element_name(T.INT, "number")
        with self._loop(iterable) as number:
            element = Value(T.INT, j.Name(name))
            bound = self._bind_range(node, element, element)
            body = bound + self._scoped(node.body, element)
        self._names.discard(name)
        loop = j.For(number, (name,), iterable, body, self._scoped(node.otherwise, dot))
        return _loop_or_else(loop, value)

    def _bind_range(self, node: go.Range, index: Value, element: Value) -> j.Body:
        """Declares the loop's variables; one that the body assigns to begins every round as a copy."""
        names = node.pipe.decl
        bound = [element] if len(names) == 1 else [index, element]
        setup: list[j.Stmt] = []
        for variable, value in zip(names, bound, strict=False):
            if (variable.pos, self._calls) in self.assigned:
                setup += self._declare(variable, variable.idents[0], value)
            else:
                key = (variable.pos, self._calls)
                self._scopes[-1][variable.idents[0]] = Variable(key, value, len(self._loops))
        return tuple(setup)

    def _element_name(self, kind: T, name: str | None = None) -> str:
        return self._fresh(name or _ELEMENT_NAMES.get(kind, "item"))

    @contextmanager
    def _loop(self, source: j.Expr) -> Iterator[int]:
        self._loop_count += 1
        self._loops.append(Loop(self._loop_count, source))
        try:
            yield self._loop_count
        finally:
            self._loops.pop()

    def loop_over(self, source: j.Expr, number: int) -> bool:
        """Whether loop `number` is running and iterates exactly over this list."""
        return any(loop.number == number and loop.source == source for loop in self._loops)

    def _call(self, node: go.TemplateCall, dot: Value) -> j.Body:
        body = None if self.without_functions else self.template.defines.get(node.name)
        if body is None:
            if self.without_functions or node.name != self.template.name:
                return (j.Output(values.error(f"template {node.name!r} is not defined").expr),)
            body = self.template.root
        if len(self._calls) >= MAX_CALL_DEPTH:
            raise self.refuse(node, "templates that call each other too deeply")
        argument = self.pipe(node.pipe, dot) if node.pipe else Value(T.NIL, j.Lit(None))
        if argument.type is T.ERROR:
            return (j.Output(argument.expr),)
        saved_scopes, saved_calls = self._scopes, self._calls
        self._scopes = [{"$": Variable("$", argument, 0)}]
        self._calls = (*saved_calls, node.pos)
        try:
            return self._scoped(body, argument)
        finally:
            self._scopes, self._calls = saved_scopes, saved_calls

    # ---- expressions ------------------------------------------------------------------------------------------------

    def test(self, pipe: go.Pipe, dot: Value) -> j.Expr:
        """A pipeline where only its truth matters."""
        if len(pipe.commands) == 1:
            return self._test_command(pipe.commands[0], dot)
        return self.truth_of(self.pipe(pipe, dot))

    def truth_of(self, value: Value) -> j.Expr:
        return value.expr if value.type is T.ERROR else self.facts.simplify(values.condition(value))

    def test_operand(self, operand: go.Operand, dot: Value) -> j.Expr:
        if isinstance(operand, go.Pipe) and not operand.decl:
            return self.test(operand, dot)
        return self.truth_of(self.operand(operand, dot))

    def _test_command(self, command: go.Command, dot: Value) -> j.Expr:
        first, *rest = command.args
        if isinstance(first, go.Identifier) and first.name in ("and", "or") and rest:
            return self._test_junction(first.name, rest, dot)
        if isinstance(first, go.Identifier) and first.name == "not" and len(rest) == 1:
            return j.negation(self.test_operand(rest[0], dot))
        return self.test_operand(first, dot) if not rest else self.truth_of(self.command(command, dot))

    def _test_junction(self, name: str, operands: list[go.Operand], dot: Value) -> j.Expr:
        """`and`/`or` stop at the first operand that decides: later ones may rely on earlier ones."""
        tests: list[j.Expr] = []
        first = self.test_operand(operands[0], dot)
        tests.append(first)
        if len(operands) > 1 and j.truth(first) is not (name == "or"):
            with self.facts.assuming(first, name == "and"):
                tests.append(self._test_junction(name, operands[1:], dot))
        return j.conjunction(tests) if name == "and" else j.disjunction(tests)

    def pipe(self, pipe: go.Pipe, dot: Value) -> Value:
        value: Value | None = None
        for command in pipe.commands:
            value = self.command(command, dot, value)
            if value.type is T.ERROR:
                return value
        assert value is not None
        return value

    def command(self, command: go.Command, dot: Value, final: Value | None = None) -> Value:
        first, *rest = command.args
        if isinstance(first, go.Identifier):
            return functions.call(self, first, rest, dot, final)
        if rest or final is not None:
            if isinstance(first, go.Field | go.Variable | go.Chain | go.Dot):
                return values.error(f"line {command.line}: a value is called like a function")
            raise self.refuse(command, "a value is called like a function")
        return self.operand(first, dot)

    def operand(self, node: go.Operand, dot: Value) -> Value:
        match node:
            case go.Dot():
                return dot
            case go.Nil():
                return Value(T.NIL, j.Lit(None))
            case go.Bool(value):
                return values.constant(value)
            case go.String(text):
                return values.constant(text)
            case go.Number():
                return self._number(node)
            case go.Field(idents):
                return self._fields(node, dot, idents)
            case go.Variable(idents):
                start = values.ROOT if idents[0] == "$" and not self._calls else self._lookup(node, idents[0]).value
                return self._fields(node, start, idents[1:])
            case go.Chain(inner, names):
                return self._fields(node, self.operand(inner, dot), names)
            case go.Pipe():
                return self.pipe(node, dot)
            case go.Identifier():
                return functions.call(self, node, [], dot, None)
        raise self.refuse(node, f"{type(node).__name__} has no translation")

    def _number(self, node: go.Number) -> Value:
        if node.int_value is not None:
            return values.constant(node.int_value)
        if node.float_value is not None and node.uint_value is None and node.complex_value is None:
            return values.constant(node.float_value)
        raise self.refuse(node, f"the number {node.text}")

    def _fields(self, node: go.Node, value: Value, names: tuple[str, ...]) -> Value:
        for name in names:
            if value.type is T.ERROR:
                return value
            value = self._field(node, value, name)
        return value

    def _field(self, node: go.Node, value: Value, name: str) -> Value:
        if value.type is T.ROOT:
            return self.root.get(name, values.MISSING)
        if value.type in values.STRUCTS:
            found = values.field(value, name)
            if found is not None:
                return found
            if name in values.METHODS:
                raise self.refuse(node, f"the method {name}")
            return values.error(f"line {node.line}: no field {name} here")
        if value.type is T.ARGUMENTS and name not in values.METHODS:
            return Value(T.ANY, values.lookup(value.expr, j.Lit(name)))
        if value.type in (T.MIXED, T.ANY, T.PROPERTIES, T.IMAGES) or name in values.METHODS:
            raise self.refuse(node, f".{name} of a value whose kind is not known")
        return values.error(f"line {node.line}: no field {name} here")


def _loop_or_else(loop: j.For, value: Value) -> j.Body:
    """Jinja takes `for ... else` for an empty list, too, when the last round was cut short."""
    if not loop.otherwise or not _is_cut_short(loop.body):
        return (loop,)
    otherwise = loop.otherwise
    return (j.If(values.condition(value), (replace(loop, otherwise=()),), otherwise),)


def _is_cut_short(body: j.Body) -> bool:
    return any(
        isinstance(stmt, j.Break | j.Continue)
        or (isinstance(stmt, j.If) and (_is_cut_short(stmt.body) or _is_cut_short(stmt.otherwise)))
        for stmt in body
    )


def _ends(stmt: j.Stmt) -> bool:
    return isinstance(stmt, j.Break | j.Continue) or (isinstance(stmt, j.Output) and j.is_raise(stmt.expr))
