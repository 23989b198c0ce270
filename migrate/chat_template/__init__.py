"""From Ollama's Go templates to the Jinja chat templates of transformers and vLLM, with proof."""

from migrate.chat_template.convert import Translation, translate
from migrate.chat_template.environment import environment, render

__all__ = ["Translation", "environment", "render", "translate"]
