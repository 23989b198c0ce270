"""The GGUF's own chat template, with the Modelfile's SYSTEM and MESSAGE applied around it.

Ollama's native path sends SYSTEM, the MESSAGE lines and the request's messages, in this order, to llama-server, which
renders the GGUF's Jinja (server/routes.go, ChatHandler); neighbours of one role are not merged there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrate.chat_template import emit, prelude
from migrate.chat_template.convert import Translation


def native(jinja: str, *, system: str | None = None, messages: Sequence[Mapping[str, Any]] = ()) -> Translation:
    """`jinja` itself where there is neither SYSTEM nor MESSAGE, else with `messages` completed before it runs."""
    setup = prelude.modelfile(system, messages)
    return Translation(emit.render(setup) + jinja if setup else jinja)
