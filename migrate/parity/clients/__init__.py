"""Two worlds of clients: what code written for Ollama meets on vLLM, and for whom a parity result holds.

Native clients speak /api/chat and /api/generate, the others Ollama's OpenAI route (/v1). One table of rules per world
(`native`, `openai`) says what Ollama did with a field, what vLLM does with it and what to change; `verdicts` reads a
user's own requests against them, and `page` writes docs/clients.md.
"""

from __future__ import annotations

from migrate.parity.clients.page import page
from migrate.parity.clients.rule import Client, ClientRequest, Rule
from migrate.parity.clients.verdicts import RULES, verdicts

__all__ = ["RULES", "Client", "ClientRequest", "Rule", "page", "verdicts"]
