"""The mark at which Ollama begins to look for tool calls in an answer, inferred from the Go template.

Source: Ollama 0.33, tools/template.go (parseTag): the first text inside the first `if` on `.ToolCalls`, up to `{`.
"""

from __future__ import annotations

from collections.abc import Sequence

from migrate.gotemplate import nodes
from migrate.ollama.conversation import SPACES
from migrate.ollama.template import parse_template

NO_TAG = "{"
"""Any JSON object at the start of an answer may be a call."""


def tool_tag(template: str) -> str:
    """The tag, e.g. `<tool_call>` or `[TOOL_CALLS]`; `{` where the template shows none. Raises TemplateError."""
    found = _if_tool_calls(parse_template(template).root.nodes)
    text = _first_text(found.body.nodes) if found else None
    if text is None:
        return NO_TAG
    return text.replace("\r\n", "\n").partition("{")[0].strip(SPACES) or NO_TAG


def _if_tool_calls(statements: Sequence[nodes.Statement]) -> nodes.If | None:
    for node in statements:
        if isinstance(node, nodes.If) and _mentions_tool_calls(node.pipe):
            return node
        if isinstance(node, nodes.If | nodes.Range | nodes.With):
            for block in (node.body, node.otherwise):
                if block is not None and (found := _if_tool_calls(block.nodes)):
                    return found
    return None


def _mentions_tool_calls(pipe: nodes.Pipe) -> bool:
    operands = [operand for command in pipe.commands for operand in command.args]
    return any(isinstance(operand, nodes.Field) and "ToolCalls" in operand.idents for operand in operands)


def _first_text(statements: Sequence[nodes.Statement]) -> str | None:
    """The first text that is not blank, as deep as it is; nothing behind an action that prints or declares."""
    for node in statements:
        if isinstance(node, nodes.Text) and node.text.strip(SPACES):
            return node.text
        if isinstance(node, nodes.If | nodes.Range | nodes.With):
            for block in (node.body, node.otherwise):
                if block is not None and (text := _first_text(block.nodes)) is not None:
                    return text
            return None
        if isinstance(node, nodes.Action):
            return None
    return None
