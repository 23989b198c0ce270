"""Go's text/template: a complete parser and interpreter. Knows nothing of Ollama.

    template = parse("Hello {{ .Name }}")
    execute(template, {"Name": "you"})

Source of every rule: the text/template, fmt and strconv packages of Go 1.26/1.27.
"""

from migrate.gotemplate import nodes
from migrate.gotemplate.interpreter import Limits, execute
from migrate.gotemplate.parser import BUILTIN_FUNCTIONS, parse
from migrate.gotemplate.values import Map, Slice, Struct, Uint8, Value

__all__ = [
    "BUILTIN_FUNCTIONS",
    "Limits",
    "Map",
    "Slice",
    "Struct",
    "Uint8",
    "Value",
    "execute",
    "nodes",
    "parse",
]
