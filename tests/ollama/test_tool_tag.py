"""The tag at which Ollama looks for tool calls: its own package `tools`, run on these templates, said the same."""

from __future__ import annotations

import pytest

from migrate.errors import TemplateError
from migrate.ollama.tool_tag import tool_tag


@pytest.mark.parametrize(
    ("template", "tag"),
    [
        ("{{ range .Messages }}{{ if .ToolCalls }}<tool_call>\n{{ end }}{{ end }}", "<tool_call>"),
        ('{{ if .ToolCalls }}[TOOL_CALLS] [{{ range .ToolCalls }}{"name": 1}{{ end }}]{{ end }}', "[TOOL_CALLS] ["),
        ('{{ if .ToolCalls }}\n {"name": "x"}{{ end }}', "{"),
        ('{{ if .ToolCalls }}functools[{"name"{{ end }}', "functools["),
        ("{{ if .ToolCalls }}{{ range .ToolCalls }}\n<a>{{ end }}{{ end }}", "<a>"),
        ("{{ if .ToolCalls }}{{ .Role }}<late>{{ end }}", "{"),
        ("{{ if .Content }}x{{ else }}{{ if and .ToolCalls .Tools }}<b>{{ end }}{{ end }}", "<b>"),
        ("{{ with .Messages }}{{ if .Message.ToolCalls }}<c>\r\n<d>{1{{ end }}{{ end }}", "<c>\n<d>"),
        ("{{ range $m := .Messages }}{{ if $m.ToolCalls }}<e>{{ end }}{{ end }}", "{"),
        ("{{ .Prompt }}", "{"),
    ],
)
def test_tag(template: str, tag: str) -> None:
    assert tool_tag(template) == tag


def test_a_template_that_does_not_parse() -> None:
    with pytest.raises(TemplateError):
        tool_tag("{{ if }}")
