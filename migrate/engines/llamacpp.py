"""llama.cpp, the engine inside Ollama: the source when no Ollama is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
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
    think_kwargs,
    to_openai,
)
from migrate.engines.http import DEFAULT_TIMEOUT_S, JsonClient
from migrate.engines.supervisor import Process, free_port
from migrate.errors import NotFound, ServerError

FINISH_REASONS = {"eos": "stop", "word": "stop", "limit": "length"}

NEUTRAL_SAMPLING: Mapping[str, Any] = {
    "temperature": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "seed": 1,
}


class LlamaCppEngine:
    """llama.cpp's own HTTP server. `render` is the Jinja template inside the GGUF, as Ollama's native path uses it."""

    kind: Kind = "llama.cpp"

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT_S, process: Process | None = None) -> None:
        self._client = JsonClient(url, label="llama.cpp", timeout=timeout, process=process)
        self._model: str | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(render=True, tokenize=True, generate=True, token_ids=True, score=True)

    @property
    def url(self) -> str:
        return self._client.address

    @property
    def name(self) -> str:
        if self._model is None:
            self._model = Path(str(self._object("GET", "/props").get("model_path", ""))).name
        return f"llama.cpp at {self.url}, {self._model}"

    def context_length(self) -> int | None:
        """`n_ctx` of a slot."""
        answer = self._object("GET", "/props")
        with self._client.reading("/props"):
            return int(answer["default_generation_settings"]["n_ctx"])

    def render(self, conversation: Conversation) -> str:
        body: dict[str, Any] = {"messages": to_openai(conversation.messages)}
        if conversation.tools:
            body["tools"] = list(conversation.tools)
        if kwargs := think_kwargs(conversation.think):
            body["chat_template_kwargs"] = kwargs
        answer = self._object("POST", "/apply-template", body)
        with self._client.reading("/apply-template"):
            return str(answer["prompt"])

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        body = {"content": text, "add_special": True, "parse_special": True}
        answer = self._object("POST", "/tokenize", body)
        with self._client.reading("/tokenize"):
            return tuple(int(token) for token in answer["tokens"])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        answer = self._object("POST", "/detokenize", {"tokens": list(ids)})
        with self._client.reading("/detokenize"):
            return str(answer["content"])

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        given = self._given(prompt)
        body = {
            **NEUTRAL_SAMPLING,
            "prompt": given,
            "n_predict": max_tokens,
            "n_probs": max(top_logprobs, 1),
            "post_sampling_probs": False,
            "return_tokens": True,
            "cache_prompt": False,
            "stop": list(stop),
        }
        answer = self._object("POST", "/completion", body)
        with self._client.reading("/completion"):
            return Generation(
                text=answer["content"],
                tokens=_positions(answer.get("tokens") or [], answer.get("completion_probabilities") or []),
                finish_reason=FINISH_REASONS.get(answer["stop_type"], answer["stop_type"]),
                prompt_tokens=answer["tokens_evaluated"],
                prompt_ids=tuple(given) if isinstance(given, list) else None,
                completion_tokens=answer.get("tokens_predicted"),
            )

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        """Tool calls stay in the text: nothing here knows how the model writes them."""
        body: dict[str, Any] = {"prompt": self._given(prompt), "cache_prompt": False}
        body |= NEUTRAL_SAMPLING if ask.greedy else dict(ask.sampling or {})
        if ask.repeat_penalty is not None:
            body |= {"repeat_penalty": ask.repeat_penalty, "repeat_last_n": 64}
        if ask.max_tokens is not None:
            body["n_predict"] = ask.max_tokens
        if ask.seed is not None:
            body["seed"] = ask.seed
        if ask.stop is not None:
            body["stop"] = list(ask.stop)
        if ask.format is not None:
            body["json_schema"] = {"type": "object"} if ask.format == "json" else dict(ask.format)
        if not ask.stream:
            parts = [self._object("POST", "/completion", body)]
        else:
            parts = list(self._client.stream("/completion", body | {"stream": True}))
        with self._client.reading("/completion"):
            last = parts[-1]
            return Generation(
                text="".join(str(part["content"]) for part in parts),
                tokens=(),
                finish_reason=FINISH_REASONS.get(last["stop_type"], last["stop_type"]),
                prompt_tokens=last["tokens_evaluated"],
                chunks=sum(bool(part["content"]) for part in parts) if ask.stream else 0,
                completion_tokens=int(last["tokens_predicted"]),
            )

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        raise ServerError("embeddings are compared with a live Ollama, not with llama.cpp's server", status=501)

    def _given(self, prompt: Prompt) -> str | list[int]:
        if isinstance(prompt, Conversation):
            return self.render(prompt)
        return prompt if isinstance(prompt, str) else list(prompt)

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        """One request per position, since the server gives no logprobs of prompt tokens.

        A token that is not among the `top` likeliest gets the last one's log-probability: it has at most that.
        """
        body: dict[str, Any] = {**NEUTRAL_SAMPLING, "n_predict": 1, "n_probs": top, "cache_prompt": True}
        body |= {"post_sampling_probs": False, "stop": []}
        scored = []
        for index, token in enumerate(continuation):
            answer = self._object("POST", "/completion", body | {"prompt": [*prompt, *continuation[:index]]})
            with self._client.reading("/completion"):
                entries = answer["completion_probabilities"]
                listed = _position(entries[0]).top if entries else ()
            known = next((c for c in listed if c.id == token), None)
            own = known or Candidate(token, b"", listed[-1].logprob if listed else 0.0)
            scored.append(TokenLogprob(token, own.text, own.logprob, listed))
        return tuple(scored)

    def close(self) -> None:
        self._client.close()

    def _object(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        answer = self._client.request(method, path, body)
        if not isinstance(answer, dict):
            raise ServerError(f"llama.cpp at {self.url} answered {path} with an unexpected shape", status=200)
        return answer


def _positions(ids: Sequence[int], entries: Sequence[Mapping[str, Any]]) -> tuple[TokenLogprob, ...]:
    """Every generated token; without candidates where llama.cpp tells none.

    It leaves out the numbers of tokens that only begin a character (seen with 2026.10: an emoji of four tokens has one
    entry, whose bytes are the whole character).
    """
    found: list[TokenLogprob] = []
    known, gap = list(map(_position, entries)), False
    for token in ids:
        if known and known[0].id == token:
            position = known.pop(0)
            found.append(replace(position, text=b"") if gap else position)
            gap = False
        else:
            found.append(TokenLogprob(token, b"", 0.0, ()))
            gap = True
    return (*found, *known)


def _position(entry: Mapping[str, Any]) -> TokenLogprob:
    top = tuple(Candidate(t["id"], bytes(t["bytes"]), t["logprob"]) for t in entry["top_logprobs"])
    return TokenLogprob(entry["id"], bytes(entry["bytes"]), entry["logprob"], top)


@contextmanager
def serve(
    gguf: Path,
    *,
    python: str,
    log: Path,
    context: int = 4096,
    threads: int = 0,
    adapters: Sequence[Path] = (),
    timeout: float = 300.0,
) -> Iterator[LlamaCppEngine]:
    """A llama.cpp server for a GGUF, run by a `python` that has xllamacpp, stopped on leaving. Raises EngineDied."""
    if not gguf.is_file():
        raise NotFound(f"no GGUF at {gguf}")
    port = free_port()
    script = Path(__file__).with_name("llamacpp_server.py")
    command = [python, "-I", str(script), str(gguf.resolve()), "--port", str(port), "--ctx", str(context)]
    command += ["--threads", str(threads)]
    for adapter in adapters:
        command += ["--lora", str(adapter.resolve())]
    with Process(command, name="llama.cpp", log=log) as process:
        engine = LlamaCppEngine(f"http://127.0.0.1:{port}", process=process)
        try:
            process.wait_ready(lambda: engine.generate("a", max_tokens=1), timeout=timeout)
            yield engine
        finally:
            engine.close()
