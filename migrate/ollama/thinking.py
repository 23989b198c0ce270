"""Reasoning and answer told apart in what a model writes, as Ollama does for models without a built-in parser.

Source: Ollama 0.33, thinking/parser.go. White space is what Go's unicode.IsSpace calls so.
"""

from __future__ import annotations

from typing import Literal

from migrate.ollama.conversation import SPACES

State = Literal["before", "opened", "thinking", "closed", "answer"]


class ThinkingParser:
    """Reasoning stands between two tags at the very start of an answer, else there is none.

    `primed`: the prompt ended with the opening tag, so the answer begins behind it. White space behind either tag is
    dropped. What may be the beginning of a tag is held back, and lost if the answer ends there.
    """

    def __init__(self, opening: str, closing: str, *, primed: bool = False) -> None:
        self._opening, self._closing = opening, closing
        self._held = ""
        self._state: State = "before"
        if primed:
            self.add(opening)

    def add(self, text: str) -> tuple[str, str]:
        """More of the answer -> the reasoning and the text that are certain by now."""
        self._held += text
        if self._state == "before":
            self._open()
        if self._state == "opened" and (rest := self._taken().lstrip(SPACES)):
            self._state, self._held = "thinking", rest
        match self._state:
            case "before" | "opened":
                return "", ""
            case "thinking":
                return self._think()
            case "closed":
                rest = self._taken().lstrip(SPACES)
                if rest:
                    self._state = "answer"
                return "", rest
        return "", self._taken()

    def _open(self) -> None:
        start = self._held.lstrip(SPACES)
        if start.startswith(self._opening):
            self._state, self._held = "opened", start[len(self._opening) :]
        elif not self._opening.startswith(start):
            self._state = "answer"

    def _think(self) -> tuple[str, str]:
        thinking, closed, rest = self._taken().partition(self._closing)
        if closed:
            rest = rest.lstrip(SPACES)
            self._state = "answer" if rest else "closed"
            return thinking, rest
        keep = _overlap(thinking, self._closing)
        self._held = thinking[len(thinking) - keep :]
        return thinking[: len(thinking) - keep], ""

    def _taken(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, tag: str) -> int:
    """Length of the longest beginning of `tag` that `text` ends with."""
    return next((n for n in range(min(len(text), len(tag)), 0, -1) if text.endswith(tag[:n])), 0)
