"""From what the model writes to what the client is sent, for models that Ollama reads without a built-in parser.

Source: Ollama 0.33, the callbacks of ChatHandler and GenerateHandler (server/routes.go) and the guard against endless
repetition of llm/llama_server.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from migrate.gateway.types import Chunk, Metrics, Think, ToolCall
from migrate.ollama.conversation import SPACES
from migrate.ollama.thinking import ThinkingParser
from migrate.ollama.tool_calls import CallSearch, tool_call_id

Logprobs = Sequence[Mapping[str, Any]]

_MOST_REPEATS = 30


class AnswerReader:
    """Reads one answer piece by piece.

    `thinks`: reasoning is told from the answer. `stuck`: the same piece came more than 30 times in a row (white space
    around it aside); Ollama's stream then ends without a last message. `switched`: with `constrain`, the reasoning is
    over and text begins; that text is not given, for Ollama asks again with the format in force.
    """

    def __init__(self, thinking: ThinkingParser | None, calls: CallSearch | None, *, chat: bool) -> None:
        self.constrain = False
        self.switched = False
        self.stuck = False
        self._thinking, self._calls, self._chat = thinking, calls, chat
        self._thought = False
        self._last, self._repeats = "", 0

    @classmethod
    def for_chat(
        cls,
        *,
        tags: tuple[str, str],
        think: Think,
        prompt: str,
        tools: Sequence[Mapping[str, Any]] = (),
        tag: str = "{",
    ) -> AnswerReader:
        """`tags` surround reasoning, "" where there are none; `tag` stands before tool calls."""
        names = [tool["function"]["name"] for tool in tools]
        return cls(_thinking(tags, think, prompt), CallSearch(tag, names) if tools else None, chat=True)

    @classmethod
    def for_generate(cls, *, tags: tuple[str, str], think: Think, prompt: str) -> AnswerReader:
        return cls(_thinking(tags, think, prompt), None, chat=False)

    @property
    def thinks(self) -> bool:
        return self._thinking is not None

    def again(self) -> None:
        """A second answer to the same request follows: what was read counts, `constrain` and repetition begin anew."""
        self.constrain = self.switched = self.stuck = False
        self._last, self._repeats = "", 0

    def add(self, text: str, logprobs: Logprobs = ()) -> list[Chunk]:
        """A piece of the answer -> what to send now. Nothing more once `stuck` or `switched`."""
        if self._repeated(text) or self.switched:
            return []
        return self._read(Chunk(text, logprobs=logprobs)) if text else []

    def finish(self, done_reason: str, metrics: Metrics) -> list[Chunk]:
        """The end of the answer -> the last message, with what was held back."""
        if self._repeated("") or self.switched:
            return []
        return self._read(Chunk(done=True, done_reason=done_reason, metrics=metrics))

    def _repeated(self, text: str) -> bool:
        """llama-server's last event, which has no text, counts as well."""
        if (piece := text.strip(SPACES)) == self._last:
            self._repeats += 1
        else:
            self._last, self._repeats = piece, 0
        self.stuck = self.stuck or self._repeats > _MOST_REPEATS
        return self.stuck

    def _read(self, chunk: Chunk) -> list[Chunk]:
        if self._thinking is not None:
            thinking, content = self._thinking.add(chunk.content)
            if self._chat and not (thinking or content or chunk.done):
                return []  # the logprobs of what is held back are lost, as with Ollama
            chunk = replace(chunk, thinking=thinking, content=content)
            self._thought = self._thought or bool(thinking)
            if self.constrain and self._thought and content:
                self.switched = True
                return [replace(chunk, content="")]
        return [chunk] if self._calls is None else self._search(self._calls, chunk)

    def _search(self, search: CallSearch, chunk: Chunk) -> list[Chunk]:
        """Ollama drops calls that come in one piece with text. Pieces there are single tokens, so it hardly happens;
        vLLM's can be longer, so here both are sent, the text first."""
        content, found = search.add(chunk.content)
        first = search.found - len(found)
        calls = [ToolCall(name, given, tool_call_id(), first + i) for i, (name, given) in enumerate(found)]
        if content and calls:
            return [
                replace(chunk, content=content, done=False, done_reason="", metrics=Metrics()),
                replace(chunk, content="", thinking="", tool_calls=calls, logprobs=()),
            ]
        if content or calls or chunk.thinking:
            return [replace(chunk, content=content, tool_calls=calls)]
        if chunk.done:
            return [replace(chunk, content=search.finish())]
        return [replace(chunk, content="")] if chunk.logprobs else []


def _thinking(tags: tuple[str, str], think: Think, prompt: str) -> ThinkingParser | None:
    opening, closing = tags
    if not (think and opening and closing):
        return None
    return ThinkingParser(opening, closing, primed=prompt.strip(SPACES).endswith(opening))
