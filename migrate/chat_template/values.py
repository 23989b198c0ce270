"""What a Go expression is known to be while a template is translated: its Go type and the Jinja that computes it.

The types are those of the data Ollama hands to a template (template/template.go, api/types.go); the Jinja reads the
messages and tools in the shape in which vLLM hands them to a chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from migrate.chat_template.jinja_ast import (
    EMPTY,
    FALSE,
    TRUE,
    Attr,
    Call,
    DictOf,
    Expr,
    IfElse,
    Is,
    ListOf,
    Lit,
    Or,
    disjunction,
    raise_,
)


class T(Enum):
    STRING = auto()
    BOOL = auto()
    INT = auto()
    FLOAT = auto()
    NIL = auto()
    MISSING = auto()
    """What a key that Ollama does not provide gives: false in conditions, printed as `<no value>`."""
    ROOT = auto()
    MESSAGES = auto()
    MESSAGE = auto()
    IMAGES = auto()
    TOOLS = auto()
    TOOL = auto()
    FUNCTION = auto()
    PARAMETERS = auto()
    PROPERTIES = auto()
    PROPERTY = auto()
    PROPERTY_LIST = auto()
    NESTED_PROPERTIES = auto()
    """The properties of a property: a pointer to an ordered map, of which a template sees only whether it is there."""
    TYPES = auto()
    """The `type` of a JSON schema property: a name or a list of names; to Go always a list."""
    STRINGS = auto()
    CALLS = auto()
    CALL = auto()
    CALL_FUNCTION = auto()
    ARGUMENTS = auto()
    ANY = auto()
    """A JSON value: an argument of a tool call."""
    ANY_LIST = auto()
    MIXED = auto()
    """A variable that holds values of different types at different times."""
    ERROR = auto()
    """Evaluating it fails in Ollama; the expression raises."""


@dataclass(frozen=True, slots=True)
class Value:
    """`options` are the types a MIXED value may have."""

    type: T
    expr: Expr
    options: frozenset[T] = frozenset()

    @property
    def is_constant(self) -> bool:
        return isinstance(self.expr, Lit)


MISSING = Value(T.MISSING, Lit("<no value>"))
ROOT = Value(T.ROOT, Lit(None))

STRUCTS = {T.MESSAGE, T.TOOL, T.FUNCTION, T.PARAMETERS, T.PROPERTY, T.CALL, T.CALL_FUNCTION}
"""Go structs (or pointers that are never nil): always true."""

LISTS = {
    T.MESSAGES: T.MESSAGE,
    T.TOOLS: T.TOOL,
    T.CALLS: T.CALL,
    T.STRINGS: T.STRING,
    T.TYPES: T.STRING,
    T.ANY_LIST: T.ANY,
    T.PROPERTY_LIST: T.PROPERTY,
}
MAPS = {T.PROPERTIES: T.PROPERTY, T.ARGUMENTS: T.ANY}

METHODS = {"String", "MarshalJSON", "UnmarshalJSON", "ToTypeScriptType", "Get", "Len", "All", "ToMap"}
"""Names that Go may resolve as a method where no field of that name exists."""

_FIELDS: dict[T, dict[str, tuple[T, str]]] = {
    T.MESSAGE: {
        "Role": (T.STRING, "role"),
        "Content": (T.STRING, "content"),
        "Thinking": (T.STRING, "thinking"),
        "Images": (T.IMAGES, "images"),
        "ToolCalls": (T.CALLS, "tool_calls"),
        "ToolName": (T.STRING, "tool_name"),
        "ToolCallID": (T.STRING, "tool_call_id"),
    },
    T.TOOL: {"Type": (T.STRING, "type"), "Items": (T.ANY, "items"), "Function": (T.FUNCTION, "function")},
    T.FUNCTION: {
        "Name": (T.STRING, "name"),
        "Description": (T.STRING, "description?"),
        "Parameters": (T.PARAMETERS, "parameters"),
    },
    T.PARAMETERS: {
        "Type": (T.STRING, "type?"),
        "Defs": (T.ANY, "$defs"),
        "Items": (T.ANY, "items"),
        "Required": (T.STRINGS, "required"),
        "Properties": (T.PROPERTIES, "properties"),
    },
    T.PROPERTY: {
        "AnyOf": (T.PROPERTY_LIST, "anyOf"),
        "Type": (T.TYPES, "type"),
        "Items": (T.ANY, "items"),
        "Description": (T.STRING, "description?"),
        "Enum": (T.ANY_LIST, "enum"),
        "Properties": (T.NESTED_PROPERTIES, "properties"),
        "Required": (T.STRINGS, "required"),
    },
    T.CALL: {"ID": (T.STRING, "id?"), "Function": (T.CALL_FUNCTION, "function")},
    T.CALL_FUNCTION: {
        "Index": (T.INT, "index?"),
        "Name": (T.STRING, "name"),
        "Arguments": (T.ARGUMENTS, "arguments"),
    },
}

_TAKEN = set(dir(dict))


def field(value: Value, name: str) -> Value | None:
    """The field of a struct, None if Go knows no such field."""
    entry = _FIELDS.get(value.type, {}).get(name)
    if entry is None:
        return None
    kind, key = entry
    if value.type is T.PARAMETERS and _needs_lookup(key):  # vLLM passes null for absent parameters
        value = Value(T.PARAMETERS, Or((value.expr, DictOf(()))))
    optional = key.endswith("?")
    expr = member(value.expr, key.rstrip("?"))
    if optional:
        expr = Or((expr, Lit(0) if kind is T.INT else EMPTY))
    return Value(kind, expr)


def member(node: Expr, key: str) -> Expr:
    """`node.key`, or `node.get('key')` where that would find a method of Python's dict."""
    return lookup(node, Lit(key)) if _needs_lookup(key) else Attr(node, key)


def _needs_lookup(key: str) -> bool:
    return key in _TAKEN or not key.rstrip("?").isidentifier()


def lookup(node: Expr, key: Expr) -> Expr:
    """A key of a JSON object, none if it is missing. `node[key]` would find dict's own methods then."""
    return Call(Attr(node, "get"), (key,))


def constant(value: str | bool | int | float) -> Value:
    kinds = {str: T.STRING, bool: T.BOOL, int: T.INT, float: T.FLOAT}
    return Value(kinds[type(value)], Lit(value))


def error(reason: str) -> Value:
    return Value(T.ERROR, raise_("Ollama cannot render this conversation: " + reason))


def condition(value: Value) -> Expr:
    """Go's truth of a value; Jinja's is the same wherever the value is not a struct."""
    if value.type in STRUCTS or value.type is T.ROOT:
        return TRUE
    if value.type in (T.MISSING, T.NIL):
        return FALSE
    if value.type is T.NESTED_PROPERTIES:
        return Is(value.expr, "mapping")
    return disjunction([value.expr])


def join(a: Value, b: Value) -> Value:
    """The type of something that is either; the expression is the first one's."""
    if a.type is b.type and a.type is not T.MIXED:
        return a
    options = (a.options or {a.type}) | (b.options or {b.type})
    return Value(T.MIXED, a.expr, frozenset(options))


def type_names(value: Value) -> Expr:
    """The names of a schema `type` as a list."""
    return IfElse(Is(value.expr, "string"), ListOf((value.expr,)), Or((value.expr, ListOf(()))))


def listed(value: Value) -> Expr:
    """A list that is never none."""
    if value.type is T.TYPES:
        return type_names(value)
    if value.type in (T.MESSAGES, T.CALLS):  # the prelude and the API make sure of these
        return value.expr
    return Or((value.expr, ListOf(())))
