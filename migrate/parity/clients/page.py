"""Writes docs/clients.md: the rules of both worlds as tables."""

from __future__ import annotations

from collections.abc import Sequence

from migrate.parity.clients import native, openai
from migrate.parity.clients.rule import Rule, Severity

HEAD = """\
# What changes for client code

Written by `make docs` from `migrate/parity/clients`; `make lint` fails when it is out of date.

For the person who owns code that calls Ollama. A bundle answers as the model did on Ollama, and parity proves it; but
the two servers read requests differently, and vLLM takes every field it does not know without a word. Parity holds
these rules against your own requests where it has them, and then names only what they use.

Three kinds: **breaks** is an error, or an answer that old code cannot read; **silent** is ignored, or means something
else; **fine** needs nothing. Facts are Ollama's at 0.33 and vLLM's at 0.32; what is marked *tested* is sent to a real
vLLM by the tests.

## Which defaults the bundle has

A request that names no temperature and no top_p had the Modelfile's on /api and 1.0 on /v1, whatever the Modelfile
said. vLLM has one set of defaults for all, so a bundle is made for one kind of client: `migrate convert --client
native` (the default) or `--client openai`. Prompts and greedy answers are the same for both; for sampled answers the
other kind sends both fields itself. /v1/messages kept the Modelfile's on Ollama, as /api did.
"""

NATIVE = """
## Clients of /api

Their address and their fields change: the easiest way is an OpenAI client library, pointed at `http://HOST:8000/v1`.
The column *vLLM* says what happens to a field that is carried over unchanged.

"""

OPENAI = """
## Clients of /v1

A new address is enough to get answers. It is not enough to get the same ones: read the silent rows first.

"""

_KINDS: tuple[Severity, ...] = ("breaks", "silent", "fine")


def page() -> str:
    return HEAD + NATIVE + table(native.RULES) + OPENAI + table(openai.RULES)


def table(rules: Sequence[Rule]) -> str:
    """Markdown, what breaks first, else in the order of the rules."""
    lines = ["| | what clients do | Ollama | vLLM | to do | source |", "|---|---|---|---|---|---|"]
    for kind in _KINDS:
        for rule in (rule for rule in rules if rule.severity == kind):
            cells = (kind, rule.field, rule.ollama, rule.vllm, rule.change or "-", rule.source)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
