"""The cut after `.Response` that Ollama makes in a template without Messages before it renders the last turn.

Source: template/template.go (Execute, deleteNode).
"""

from __future__ import annotations

from migrate.errors import Refused, TemplateError
from migrate.gotemplate import nodes as go
from migrate.ollama import template


def cut_after_response(root: go.Block) -> go.Block:
    """The tree that Ollama runs for the last turn. Raises Refused where Ollama fails on every chat."""
    try:
        return template.cut_after_response(go.Template(root)).root
    except TemplateError as error:
        raise Refused(
            f"TEMPLATE line {error.line}: `.Response` inside a branch that has an `else`: "
            "Ollama fails on every chat with this template"
        ) from None
