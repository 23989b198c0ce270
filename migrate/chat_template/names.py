"""Names of Jinja variables: which are taken, and what becomes of a Go variable's name."""

from __future__ import annotations

from migrate.chat_template import macros

RESERVED = {
    "messages", "tools", "system", "prompt", "response", "documents", "loop", "namespace", "range", "dict", "ns",
    "chat", "effort", "switch", "system_prompt", "generation_prompt", "yesterday", "json_pairs",
    "think", "think_set", "think_level", "true", "false", "none", "not", "and", "or", "in", "is", "if", "else", "self",
    "bos_token", "eos_token", "add_generation_prompt", "enable_thinking", "reasoning_effort", "caller", "cycler",
    "joiner", "lipsum", "turn", "last_turn", "raise_exception", "strftime_now", "role", "content",
    "None", "True", "False", "import", "from", "as", "set", "for", "macro", "call", "filter", "recursive",
}  # fmt: skip


def is_reserved(name: str) -> bool:
    """Whether a chat template already means something by this name."""
    return name in RESERVED or macros.known(name)


def jinja_name(name: str) -> str:
    """`$lastUserIdx` -> `last_user_idx`"""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name.lstrip("$"))
    snake = "".join(
        f"_{c.lower()}" if c.isupper() and i and not plain[i - 1].isupper() else c.lower() for i, c in enumerate(plain)
    )
    snake = snake.strip("_")
    return snake if snake and not snake[0].isdigit() else f"v{snake}"
