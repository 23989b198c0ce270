"""From Ollama's Go templates to the Jinja chat templates of transformers and vLLM, with proof.

translation = translate(template, system=system, messages=messages)
assert prove(template, translation.jinja, system=system, messages=messages).holds
"""

from migrate.chat_template.convert import Translation, translate
from migrate.chat_template.environment import environment, render
from migrate.chat_template.native import native
from migrate.chat_template.prove import BATTERY, Check, Proof, prove
from migrate.chat_template.renderers import renderer

__all__ = [
    "BATTERY",
    "Check",
    "Proof",
    "Translation",
    "environment",
    "native",
    "prove",
    "render",
    "renderer",
    "translate",
]
