"""Executes a parsed template, as Go's text/template/exec.go does.

execute(parse("{{ range .Items }}{{ . }} {{ end }}"), {"Items": [1, 2]})
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn

from migrate.errors import TemplateError
from migrate.gotemplate import nodes
from migrate.gotemplate.builtins import BUILTINS, Builtin, printable
from migrate.gotemplate.formatting import sprint
from migrate.gotemplate.values import (
    INVALID,
    Kind,
    Map,
    Slice,
    Struct,
    Value,
    entries,
    is_true,
    kind_of,
    normalized,
    sorted_keys,
    type_name,
    zero_of,
)

Function = Callable[..., Value]
MissingKey = Literal["zero", "default"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use: `steps` are nodes evaluated, `depth` is blocks within blocks and templates within
    templates, `output` is characters, of the result and of each text on the way to it."""

    steps: int = 2_000_000
    depth: int = 200
    output: int = 32 << 20


DEFAULT_LIMITS: Final = Limits()


def execute(
    template: nodes.Template,
    data: Value,
    *,
    functions: Mapping[str, Function] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    missing_key: MissingKey = "zero",
) -> str:
    """The text that `template` makes of `data`.

    `data` is a value of `values`: plain JSON-like Python data will do. `functions` are callable besides Go's builtins;
    they get None for nil and report errors with ValueError or TemplateError. `missing_key` is Go's option of that name:
    "zero" makes a missing map key the zero value of the map's elements. Bytes of the result that are no part of valid
    UTF-8 are lone surrogates. Raises TemplateError where Go stops with an error, and when a limit is reached.
    """
    run = _Execution(template, functions or {}, limits, missing_key)
    try:
        run.template(template.root, data)
    except RecursionError:
        raise TemplateError("the template nests too deeply") from None
    return normalized("".join(run.output))


class _Signal(enum.Enum):
    BREAK = enum.auto()
    CONTINUE = enum.auto()


class _Missing:
    __slots__ = ()


_MISSING: Final = _Missing()
"""In the place of the value that a pipeline hands on, where there is none."""


@dataclass(slots=True)
class _Variable:
    name: str
    value: Value


@dataclass(slots=True)
class _Variables:
    """The variables of one template, as a stack: the newest of a name is the one that is seen."""

    stack: list[_Variable] = field(default_factory=list)
    by_name: dict[str, list[_Variable]] = field(default_factory=dict)

    def push(self, name: str, value: Value) -> None:
        variable = _Variable(name, value)
        self.stack.append(variable)
        self.by_name.setdefault(name, []).append(variable)

    def pop_to(self, mark: int) -> None:
        while len(self.stack) > mark:
            self.by_name[self.stack.pop().name].pop()

    def find(self, name: str) -> _Variable | None:
        known = self.by_name.get(name)
        return known[-1] if known else None


class _Execution:
    def __init__(
        self, template: nodes.Template, functions: Mapping[str, Function], limits: Limits, missing_key: MissingKey
    ) -> None:
        self.templates = {template.name: template.root, **template.defines}
        self.functions = functions
        self.limits = limits
        self.missing_key = missing_key
        self.output: list[str] = []
        self.variables = _Variables()
        self._room = limits.output
        self._steps = limits.steps
        self._depth = 0
        self._line = 1

    # ---- limits and errors ----------------------------------------------------------------------------------------

    def _fail(self, message: str) -> NoReturn:
        raise TemplateError(f"line {self._line}: {message}", line=self._line)

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            self._fail(f"stopped after {self.limits.steps:,} steps")

    def _write(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            self._fail(f"stopped after {self.limits.output:,} characters of output")
        self.output.append(text)

    # ---- statements -----------------------------------------------------------------------------------------------

    def template(self, root: nodes.Block, dot: Value) -> None:
        outer, self.variables = self.variables, _Variables()
        self.variables.push("$", dot)
        self._block(root, dot)
        self.variables = outer

    def _block(self, block: nodes.Block, dot: Value) -> _Signal | None:
        self._depth += 1
        if self._depth > self.limits.depth:
            self._fail(f"nested more than {self.limits.depth} deep")
        signal = None
        for node in block.nodes:
            self._spend(1)
            self._line = node.line
            signal = _STATEMENTS[type(node)](self, node, dot)
            if signal is not None:
                break
        self._depth -= 1
        return signal

    def _text(self, node: nodes.Text, dot: Value) -> None:
        self._write(node.text)

    def _comment(self, node: nodes.Comment, dot: Value) -> None:
        pass

    def _action(self, node: nodes.Action, dot: Value) -> None:
        value = self._pipe(node.pipe, dot)
        if node.pipe.decl:
            return
        if isinstance(value, str):
            self._write(value)
            return
        if kind_of(value) is Kind.FUNC:
            self._fail("can't print a function")
        self._write(self._guarded(sprint, [printable(value)], self.limits.output))

    def _if(self, node: nodes.If, dot: Value) -> _Signal | None:
        return self._branch(node, dot, dot_is_value=False)

    def _with(self, node: nodes.With, dot: Value) -> _Signal | None:
        return self._branch(node, dot, dot_is_value=True)

    def _branch(self, node: nodes.If | nodes.With, dot: Value, *, dot_is_value: bool) -> _Signal | None:
        mark = len(self.variables.stack)
        value = self._pipe(node.pipe, dot)
        signal = None
        if is_true(value):
            signal = self._block(node.body, value if dot_is_value else dot)
        elif node.otherwise is not None:
            signal = self._block(node.otherwise, dot)
        self.variables.pop_to(mark)
        return signal

    def _break(self, node: nodes.Break, dot: Value) -> _Signal:
        return _Signal.BREAK

    def _continue(self, node: nodes.Continue, dot: Value) -> _Signal:
        return _Signal.CONTINUE

    def _range(self, node: nodes.Range, dot: Value) -> _Signal | None:
        outer = len(self.variables.stack)
        value = self._pipe(node.pipe, dot)
        mark = len(self.variables.stack)
        ran, signal = False, None
        for key, element in self._iterate(value, node):
            ran = True
            self._spend(1)
            self._bind(node.pipe, key, element)
            signal = self._block(node.body, element)
            self.variables.pop_to(mark)
            if signal is _Signal.BREAK:
                break
        signal = None
        if not ran and node.otherwise is not None:
            signal = self._block(node.otherwise, dot)
        self.variables.pop_to(outer)
        return signal

    def _iterate(self, value: Value, node: nodes.Range) -> Iterable[tuple[Value, Value]]:
        """Pairs of key and element; a number counts, and has no keys."""
        kind = kind_of(value)
        if kind is Kind.SLICE:
            return enumerate(value)
        if kind is Kind.MAP:
            items = entries(value)
            self._spend(len(items))
            return ((key, items[key]) for key in sorted_keys(value))
        if kind in (Kind.INT, Kind.UINT):
            if len(node.pipe.decl) > 1:
                self._fail(f"can't use {value} to iterate over more than one variable")
            return ((INVALID, type(value)(i)) for i in range(value))
        if kind is not Kind.INVALID:
            self._fail(f"range can't iterate over a value of type {type_name(value)}")
        return ()

    def _bind(self, pipe: nodes.Pipe, key: Value, element: Value) -> None:
        """Sets the variables of a range: one takes the element, two take key and element."""
        values = (key, element) if len(pipe.decl) > 1 else (element,)
        if pipe.is_assign:
            for variable, value in zip(pipe.decl, values, strict=False):
                self._assign(variable.idents[0], value)
        elif pipe.decl:
            for bound, value in zip(self.variables.stack[-len(pipe.decl) :], values, strict=True):
                bound.value = value

    def _call_template(self, node: nodes.TemplateCall, dot: Value) -> None:
        body = self.templates.get(node.name)
        if body is None:
            self._fail(f'template "{node.name}" not defined')
        self.template(body, INVALID if node.pipe is None else self._pipe(node.pipe, dot))

    # ---- pipelines ------------------------------------------------------------------------------------------------

    def _pipe(self, pipe: nodes.Pipe, dot: Value) -> Value:
        value: Value = _MISSING
        for command in pipe.commands:
            value = self._command(command, dot, value)
            if value is None:
                value = INVALID
        for variable in pipe.decl:
            if pipe.is_assign:
                self._assign(variable.idents[0], value)
            else:
                self.variables.push(variable.idents[0], value)
        return value

    def _assign(self, name: str, value: Value) -> None:
        variable = self.variables.find(name)
        if variable is None:
            self._fail(f"undefined variable: {name}")
        variable.value = value

    def _command(self, command: nodes.Command, dot: Value, final: Value) -> Value:
        self._spend(len(command.args))
        first = command.args[0]
        self._line = first.line
        if isinstance(first, nodes.Field):
            return self._chain(dot, dot, first.idents, command.args, final)
        if isinstance(first, nodes.Identifier):
            return self._function(first.name, dot, command.args[1:], final)
        if isinstance(first, nodes.Chain):
            return self._chain(dot, self._chain_start(first, dot), first.fields, command.args, final)
        if isinstance(first, nodes.Variable):
            if len(first.idents) > 1:
                return self._chain(dot, self._variable(first), first.idents[1:], command.args, final)
            self._no_arguments(command.args, final)
            return self._variable(first)
        self._no_arguments(command.args, final)
        if isinstance(first, nodes.Pipe):
            return self._pipe(first, dot)
        if isinstance(first, nodes.Nil):
            self._fail("nil is not a command")
        return dot if isinstance(first, nodes.Dot) else self._constant(first)

    def _no_arguments(self, args: Sequence[nodes.Operand], final: Value) -> None:
        if len(args) > 1 or final is not _MISSING:
            self._fail("can't give argument to non-function")

    def _constant(self, node: nodes.Bool | nodes.Number | nodes.String) -> Value:
        if not isinstance(node, nodes.Number):
            return node.value
        if node.complex_value is not None:
            return node.complex_value
        text = node.text
        hex_int = text[:2] in ("0x", "0X") and len(text) > 2 and not ("p" in text or "P" in text)
        float_like = not node.is_char and not hex_int and any(char in ".eEpP" for char in text)
        if node.float_value is not None and float_like:
            return node.float_value
        if node.int_value is None:
            self._fail(f"{text} overflows int")
        return node.int_value

    def _variable(self, node: nodes.Variable) -> Value:
        variable = self.variables.find(node.idents[0])
        if variable is None:
            self._fail(f"undefined variable: {node.idents[0]}")
        return variable.value

    def _chain_start(self, node: nodes.Chain, dot: Value) -> Value:
        if isinstance(node.node, nodes.Nil):
            self._fail("indirection through explicit nil")
        return self._argument(node.node, dot)

    def _argument(self, node: nodes.Operand, dot: Value) -> Value:
        """The value of an operand that is an argument of a function."""
        self._spend(1)
        if isinstance(node, nodes.Field):
            return self._chain(dot, dot, node.idents, (), _MISSING)
        if isinstance(node, nodes.Variable):
            if len(node.idents) == 1:
                return self._variable(node)
            return self._chain(dot, self._variable(node), node.idents[1:], (), _MISSING)
        if isinstance(node, nodes.Pipe):
            return self._pipe(node, dot)
        if isinstance(node, nodes.Dot):
            return dot
        if isinstance(node, nodes.Nil):
            return None
        if isinstance(node, nodes.Identifier):
            return self._function(node.name, dot, (), _MISSING)
        if isinstance(node, nodes.Chain):
            return self._chain(dot, self._chain_start(node, dot), node.fields, (), _MISSING)
        return self._constant(node)

    # ---- fields ---------------------------------------------------------------------------------------------------

    def _chain(
        self, dot: Value, receiver: Value, names: Sequence[str], args: Sequence[nodes.Operand], final: Value
    ) -> Value:
        for name in names[:-1]:
            receiver = self._field(dot, receiver, name, (), _MISSING)
        return self._field(dot, receiver, names[-1], args[1:], final)

    def _field(self, dot: Value, receiver: Value, name: str, args: Sequence[nodes.Operand], final: Value) -> Value:
        if receiver is INVALID:
            return INVALID
        if receiver is None:
            self._fail(f"nil pointer evaluating interface {{}}.{name}")
        if isinstance(receiver, (Struct, Map, Slice)):
            method = receiver.string if name == "String" else receiver.methods.get(name)
            if method is not None and not (isinstance(receiver, Struct) and receiver.is_nil):
                return self._call(name, method, self._arguments(args, dot, final))
        if isinstance(receiver, Struct):
            if name in receiver.fields:
                if receiver.is_nil:
                    self._fail(f"nil pointer evaluating {type_name(receiver)}.{name}")
                if not name[0].isupper():
                    self._fail(f"{name} is an unexported field of struct type {type_name(receiver)}")
                self._no_field_arguments(name, args, final)
                return receiver.fields[name]
        elif isinstance(receiver, (dict, Map)):
            self._no_field_arguments(name, args, final)
            items = entries(receiver)
            if name in items:
                return items[name]
            return zero_of(receiver) if self.missing_key == "zero" else INVALID
        self._fail(f"can't evaluate field {name} in type {type_name(receiver)}")

    def _no_field_arguments(self, name: str, args: Sequence[nodes.Operand], final: Value) -> None:
        if args or final is not _MISSING:
            self._fail(f"{name} is not a method but has arguments")

    # ---- functions ------------------------------------------------------------------------------------------------

    def _function(self, name: str, dot: Value, args: Sequence[nodes.Operand], final: Value) -> Value:
        function = self.functions.get(name)
        if function is not None:
            return self._call(name, function, self._arguments(args, dot, final))
        if name in ("and", "or"):
            return self._and_or(name, dot, args, final)
        builtin = BUILTINS.get(name)
        if builtin is None:
            self._fail(f'"{name}" is not a defined function')
        self._check_count(name, builtin, len(args) + (final is not _MISSING))
        if name == "printf" and args and isinstance(args[0], nodes.Nil):
            self._fail("cannot assign nil to string")
        values = self._arguments(args, dot, final)
        self._spend(sum(len(value) for value in values if isinstance(value, str)) >> 6)
        result = self._guarded(builtin.call, values, self.limits.output)
        if isinstance(result, str):
            self._spend(len(result) >> 6)
        return result

    def _and_or(self, name: str, dot: Value, args: Sequence[nodes.Operand], final: Value) -> Value:
        """Evaluates no argument after the one that decides."""
        if not args and final is _MISSING:
            self._fail(f"wrong number of args for {name}: want at least 1 got 0")
        value: Value = None
        for arg in args:
            value = self._argument(arg, dot)
            if is_true(value) == (name == "or"):
                return value
        return value if final is _MISSING else final

    def _arguments(self, args: Sequence[nodes.Operand], dot: Value, final: Value) -> list[Value]:
        values = [self._argument(arg, dot) for arg in args]
        if final is not _MISSING:
            values.append(final)
        return [None if value is INVALID else value for value in values]

    def _check_count(self, name: str, builtin: Builtin, count: int) -> None:
        if count < builtin.least or (builtin.most is not None and count > builtin.most):
            least = "at least " if builtin.most is None else ""
            self._fail(f"wrong number of args for {name}: want {least}{builtin.least} got {count}")

    def _call(self, name: str, function: Function, values: Sequence[Value]) -> Value:
        least, most = _arity(function)
        if not least <= len(values) <= most:
            self._fail(f"wrong number of args for {name}: want {least} got {len(values)}")
        return self._guarded(function, *values)

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        line = self._line
        try:
            return function(*args)
        except ValueError as error:
            raise TemplateError(f"line {line}: {error}", line=line) from None
        except TemplateError as error:
            if error.line is not None:
                raise
            raise TemplateError(f"line {line}: {error}", line=line) from None


def _arity(function: Function) -> tuple[int, float]:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return 0, float("inf")
    least = sum(parameter.default is parameter.empty for parameter in parameters)
    return least, len(parameters)


_STATEMENTS: dict[type[nodes.Node], Callable[[_Execution, Any, Value], _Signal | None]] = {
    nodes.Action: _Execution._action,
    nodes.Break: _Execution._break,
    nodes.Comment: _Execution._comment,
    nodes.Continue: _Execution._continue,
    nodes.If: _Execution._if,
    nodes.Range: _Execution._range,
    nodes.TemplateCall: _Execution._call_template,
    nodes.Text: _Execution._text,
    nodes.With: _Execution._with,
}
