"""A live Ollama server as the source of truth: its own prompts, its own answers, its own logprobs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from migrate.engines.base import (
    Ask,
    Candidate,
    Capabilities,
    Conversation,
    Generation,
    Kind,
    Prompt,
    TokenLogprob,
)
from migrate.engines.http import DEFAULT_TIMEOUT_S, JsonClient, base_url
from migrate.errors import ServerError

DEFAULT_PORT = 11434
DEFAULT_URL = f"http://127.0.0.1:{DEFAULT_PORT}"

NEUTRAL_OPTIONS: Mapping[str, Any] = {
    "temperature": 0,
    "seed": 1,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Greedy, with the penalties of the Modelfile switched off."""


class OllamaEngine:
    """An Ollama server and one of its models. It never tells token ids: tokens come as bytes, prompts as a count."""

    kind: Kind = "ollama"

    def __init__(self, url: str | None = None, *, model: str, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """`url` defaults to OLLAMA_HOST, as Ollama's own client has it."""
        self._client = JsonClient(
            ollama_url(url or os.environ.get("OLLAMA_HOST") or ""), label="Ollama", timeout=timeout
        )
        self.model = model
        self._version: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(render=True, generate=True, embed=True)

    @property
    def url(self) -> str:
        return self._client.address

    @property
    def version(self) -> str:
        if self._version is None:
            self._version = str(self._object("GET", "/api/version").get("version", "?"))
        return self._version

    @property
    def name(self) -> str:
        return f"Ollama {self.version} at {self.url}, model {self.model}"

    def context_length(self) -> int | None:
        """`num_ctx` of the running model, as /api/ps tells it (ollama.md section 7.3); None when it is not loaded."""
        answer = self._object("GET", "/api/ps")
        with self._client.reading("/api/ps"):
            for entry in answer.get("models") or ():
                if self.model in (entry.get("name"), entry.get("name", "").removesuffix(":latest")):
                    length = entry.get("context_length")
                    return int(length) if length else None
        return None

    def render(self, conversation: Conversation) -> str:
        """The prompt before BOS handling (ollama.md section 7.3). The server loads the model for it."""
        body = self._chat(conversation) | {"_debug_render_only": True}
        info = self._object("POST", "/api/chat", body).get("_debug_info")
        if not isinstance(info, dict) or "rendered_template" not in info:
            raise ServerError(
                f"Ollama {self.version} at {self.url} does not tell its prompts",
                status=200,
                hint="_debug_render_only needs Ollama 0.11.5 or newer",
            )
        return str(info["rendered_template"])

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        raise ServerError("Ollama has no endpoint that tells token ids", status=501)

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        """A greedy answer to a conversation. The stop strings of the Modelfile apply unless `stop` replaces them."""
        if not isinstance(prompt, Conversation):
            raise ServerError("Ollama is compared through its chat endpoint", status=501)
        options: dict[str, Any] = {**NEUTRAL_OPTIONS, "num_predict": max_tokens}
        if stop:
            options["stop"] = list(stop)
        body = self._chat(prompt) | {"options": options}
        if top_logprobs:
            body |= {"logprobs": True, "top_logprobs": top_logprobs}
        answer = self._object("POST", "/api/chat", body)
        with self._client.reading("/api/chat"):
            return _generation(answer)

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        if not isinstance(prompt, Conversation):
            raise ServerError("Ollama is compared through its chat endpoint", status=501)
        options: dict[str, Any] = {**NEUTRAL_OPTIONS} if ask.greedy else dict(ask.sampling or {})
        if ask.repeat_penalty is not None:
            options |= {"repeat_penalty": ask.repeat_penalty, "repeat_last_n": 64}
        if ask.max_tokens is not None:
            options["num_predict"] = ask.max_tokens
        if ask.seed is not None:
            options["seed"] = ask.seed
        if ask.stop is not None:
            options["stop"] = list(ask.stop)
        body = self._chat(prompt) | {"options": options}
        if ask.format is not None:
            body["format"] = ask.format
        if not ask.stream:
            answer = self._object("POST", "/api/chat", body)
            with self._client.reading("/api/chat"):
                return _generation(answer)
        with self._client.reading("/api/chat"):
            return _streamed(list(self._client.stream("/api/chat", body | {"stream": True})))

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        asked: str | list[str] = texts[0] if len(texts) == 1 else list(texts)
        answer = self._object("POST", "/api/embed", {"model": self.model, "input": asked})
        with self._client.reading("/api/embed"):
            return tuple(tuple(float(x) for x in vector) for vector in answer["embeddings"])

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        raise ServerError("Ollama gives no logprobs of prompt tokens", status=501)

    def close(self) -> None:
        self._client.close()

    def _chat(self, conversation: Conversation) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in conversation.messages],
            "stream": False,
        }
        if conversation.tools:
            body["tools"] = [dict(tool) for tool in conversation.tools]
        if conversation.think is not None:
            body["think"] = conversation.think
        return body

    def _object(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._client.request(method, path, body)
        if not isinstance(answer, dict):
            raise ServerError(f"Ollama at {self.url} answered {path} with an unexpected shape", status=200)
        return answer


def ollama_url(host: str) -> str:
    """An address in the spellings that OLLAMA_HOST allows: port 11434 unless one is given, 0.0.0.0 meaning here.

    Raises UsageError.
    """
    if not host:
        return DEFAULT_URL
    url = base_url(host)
    if url.port is None and "://" not in host:
        url = url.copy_with(port=DEFAULT_PORT)
    if url.host in ("0.0.0.0", "::"):
        url = url.copy_with(host="127.0.0.1")
    return str(url)


def _generation(answer: Mapping[str, Any]) -> Generation:
    message = answer["message"]
    return Generation(
        text=str(message.get("content", "")),
        tokens=tuple(_position(entry) for entry in answer.get("logprobs") or []),
        finish_reason=str(answer.get("done_reason", "")),
        prompt_tokens=int(answer.get("prompt_eval_count", 0)),
        thinking=str(message.get("thinking") or ""),
        tool_calls=tuple(message.get("tool_calls") or ()),
        completion_tokens=_count(answer),
    )


def _streamed(parts: Sequence[Mapping[str, Any]]) -> Generation:
    """The pieces of a streamed /api/chat put together; the last one says how it ended."""
    messages = [part["message"] for part in parts]
    last = parts[-1]
    return Generation(
        text="".join(str(message.get("content") or "") for message in messages),
        tokens=(),
        finish_reason=str(last.get("done_reason", "")) if last.get("done") else "",
        prompt_tokens=int(last.get("prompt_eval_count", 0)),
        thinking="".join(str(message.get("thinking") or "") for message in messages),
        tool_calls=tuple(call for message in messages for call in message.get("tool_calls") or ()),
        chunks=sum(bool(message.get("content")) for message in messages),
        completion_tokens=_count(last),
    )


def _count(answer: Mapping[str, Any]) -> int | None:
    """`eval_count`, which is left out when it is 0."""
    return int(answer.get("eval_count") or 0) if answer.get("done") else None


def _bytes_of(entry: Mapping[str, Any]) -> bytes:
    """A token's bytes; Ollama leaves them out for special tokens, whose text is empty as well."""
    return bytes(entry["bytes"]) if entry.get("bytes") else str(entry.get("token", "")).encode()


def _position(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple(Candidate(None, _bytes_of(t), float(t["logprob"])) for t in entry.get("top_logprobs") or [])
    return TokenLogprob(None, _bytes_of(entry), float(entry["logprob"]), top)
