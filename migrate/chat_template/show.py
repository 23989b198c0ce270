"""How Go prints a value, as Jinja: `{{ value }}`, `print`/`%v`, and Ollama's `json`.

Tools, their properties and the arguments of calls print as JSON (they have a String method in Ollama); so do
`.Function` and `.Function.Parameters` here, as they did before Ollama 0.14 and as their authors meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from migrate.chat_template import jinja_ast as j
from migrate.chat_template.values import T, Value, type_names
from migrate.gotemplate import nodes as go

if TYPE_CHECKING:
    from migrate.chat_template.translator import Translator

FUNCTION_FINDING = "{{ .Function }}"

_JSON_MACROS = {
    T.TOOLS: "json_tools",
    T.TOOL: "json_tool",
    T.FUNCTION: "json_function",
    T.PARAMETERS: "json_parameters",
    T.PROPERTIES: "json_properties",
    T.PROPERTY: "json_property",
    T.CALLS: "json_tool_calls",
    T.CALL: "json_tool_call",
    T.CALL_FUNCTION: "json_tool_call_function",
}
_PRINTED_AS_JSON = {T.TOOLS, T.TOOL, T.FUNCTION, T.PARAMETERS, T.PROPERTIES, T.ARGUMENTS}


def printed(value: Value, t: Translator, node: go.Node) -> j.Expr:
    """What the action `{{ value }}` prints. Raises Refused where Go prints something Jinja cannot."""
    return j.EMPTY if _prints_nothing(value) else formatted(value, t, node, top=True)


def _prints_nothing(value: Value) -> bool:
    return value.expr == j.EMPTY


def formatted(value: Value, t: Translator, node: go.Node, *, top: bool = False) -> j.Expr:
    """`top`: printed by an action rather than by fmt, which shows nil differently."""
    match value.type:
        case T.STRING:
            return value.expr
        case T.INT:
            return j.Shown(value.expr)
        case T.FLOAT:
            return _float(value, t, node)
        case T.BOOL:
            return j.choice(value.expr, j.Lit("true"), j.Lit("false"))
        case T.MISSING:
            return j.Lit("<no value>" if top else "<nil>")
        case T.TYPES:
            return _types(value)
        case T.ANY:
            if not top:
                raise t.refuse(node, "an argument of a tool call inside `print`")
            return j.Call(j.Name("go_value"), (value.expr,))
        case T.MIXED if value.options <= {T.STRING, T.INT}:
            return j.Shown(value.expr)
    if value.type is T.PROPERTIES:  # absent ones print as {}, though their JSON is null
        value = Value(T.PROPERTIES, j.Or((value.expr, j.DictOf(()))))
    if value.type in _PRINTED_AS_JSON:
        return as_json(value, t, node)
    raise t.refuse(node, f"printing {_DESCRIPTIONS.get(value.type, 'this value')} (Go prints its own notation)")


_DESCRIPTIONS = {
    T.MESSAGES: "the list of messages",
    T.MESSAGE: "a whole message",
    T.CALLS: "the list of tool calls without `json`",
    T.CALL: "a tool call without `json`",
    T.CALL_FUNCTION: "the function of a tool call without `json`",
    T.PROPERTY: "a property of a tool's parameters without `json`",
    T.ROOT: "all the data",
    T.NIL: "nil",
}


def _float(value: Value, t: Translator, node: go.Node) -> j.Expr:
    number = value.expr.value if isinstance(value.expr, j.Lit) else None
    if isinstance(number, float) and 1e-4 <= abs(number) < 1e6:
        text = repr(number)
        return j.Lit(text.removesuffix(".0"))
    raise t.refuse(node, "printing this number")


def _types(value: Value) -> j.Expr:
    return j.Call(j.Name("type_name"), (value.expr,))


def as_json(value: Value, t: Translator, node: go.Node) -> j.Expr:
    """Ollama's `json`. Raises Refused for what has no JSON form here."""
    if isinstance(value.expr, j.Lit) and value.type in (T.STRING, T.BOOL, T.INT):
        return j.Lit(_constant_json(value.expr.value))
    if value.type in (T.FUNCTION, T.PARAMETERS):
        t.findings[FUNCTION_FINDING] = f"line {node.line}"
    if value.type is T.PARAMETERS:
        value = Value(T.PARAMETERS, j.Or((value.expr, j.DictOf(()))))
    if value.type in _JSON_MACROS:
        return j.Call(j.Name(_JSON_MACROS[value.type]), (value.expr,))
    if value.type is T.TYPES:
        names = type_names(value)
        single = j.compare("==", j.Filter(names, "length"), j.Lit(1))
        return j.Call(j.Name("json"), (j.choice(single, j.Item(names, j.Lit(0)), names),))
    if value.type is T.ARGUMENTS:
        return j.Call(j.Name("json"), (value.expr,))
    if value.type in (T.STRING, T.BOOL, T.INT, T.ANY):
        return j.Call(j.Name("json"), (value.expr,))
    if value.type in (T.MISSING, T.NIL):
        return j.Lit("null")
    raise t.refuse(node, "`json` of this kind of value")


def _constant_json(value: object) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    for char, escape in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(char, escape)
    return text
