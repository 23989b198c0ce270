"""The syntax tree of Go's text/template, node for node as Go's own parser builds it.

Source of the shapes: Go's text/template/parse/node.go. `pos` is the 0-based character offset in the source,
`line` is 1-based; neither takes part in equality.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Node:
    pos: int = field(compare=False, repr=False, kw_only=True, default=0)
    line: int = field(compare=False, repr=False, kw_only=True, default=1)


# ---- operands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dot(Node):
    """`.`"""


@dataclass(frozen=True, slots=True)
class Nil(Node):
    """`nil`"""


@dataclass(frozen=True, slots=True)
class Bool(Node):
    value: bool


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A numeric or character constant; `text` is the literal as written.

    As in Go, one literal can be several things at once: `1` is an int, a uint and a float.
    """

    text: str
    int_value: int | None = None
    uint_value: int | None = None
    float_value: float | None = None
    complex_value: complex | None = None
    is_char: bool = False


@dataclass(frozen=True, slots=True)
class String(Node):
    """A string constant: `value` after unquoting, `quoted` as written."""

    value: str
    quoted: str = field(compare=False, default="")


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`.A.B` -> ("A", "B")"""

    idents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`$x.A` -> ("$x", "A"); `$` -> ("$",)"""

    idents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identifier(Node):
    """The name of a function."""

    name: str


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """A field access on something in parentheses: `(pipe).A.B`."""

    node: Operand
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command(Node):
    """One stage of a pipeline: an operand, or a function and its arguments."""

    args: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pipe(Node):
    """`$a, $b := cmd | cmd`; with `is_assign` it was `=` instead of `:=`."""

    commands: tuple[Command, ...]
    decl: tuple[Variable, ...] = ()
    is_assign: bool = False


Operand = Dot | Nil | Bool | Number | String | Field | Variable | Identifier | Chain | Pipe


# ---- statements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text(Node):
    text: str


@dataclass(frozen=True, slots=True)
class Comment(Node):
    text: str


@dataclass(frozen=True, slots=True)
class Action(Node):
    """`{{ pipe }}`: prints its value unless it declares or assigns a variable."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class If(Node):
    pipe: Pipe
    body: Block
    otherwise: Block | None = None


@dataclass(frozen=True, slots=True)
class Range(Node):
    pipe: Pipe
    body: Block
    otherwise: Block | None = None


@dataclass(frozen=True, slots=True)
class With(Node):
    pipe: Pipe
    body: Block
    otherwise: Block | None = None


@dataclass(frozen=True, slots=True)
class TemplateCall(Node):
    """`{{ template "name" pipe }}`"""

    name: str
    pipe: Pipe | None = None


@dataclass(frozen=True, slots=True)
class Break(Node):
    pass


@dataclass(frozen=True, slots=True)
class Continue(Node):
    pass


@dataclass(frozen=True, slots=True)
class Block(Node):
    """A list of statements (Go calls it ListNode)."""

    nodes: tuple[Statement, ...] = ()


Statement = Text | Comment | Action | If | Range | With | TemplateCall | Break | Continue


@dataclass(frozen=True, slots=True)
class Template(Node):
    """A parsed template: the main text and everything `define`d or `block`ed in it."""

    root: Block
    defines: dict[str, Block] = field(default_factory=dict)
    name: str = field(compare=False, kw_only=True, default="")
    """What the main text is called: `{{ template "name" }}` calls it too."""
