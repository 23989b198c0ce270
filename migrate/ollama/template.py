"""Ollama's use of Go templates (work in progress)."""

from __future__ import annotations

from migrate.gotemplate import nodes, parse

FUNCTION_NAMES = frozenset({"json", "currentDate", "yesterdayDate", "toTypeScriptType"})


def parse_template(text: str) -> nodes.Template:
    """Parses a TEMPLATE as Ollama does. Raises TemplateError with the line."""
    return parse(text, functions=FUNCTION_NAMES)
