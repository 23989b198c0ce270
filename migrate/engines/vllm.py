"""vLLM: talking to a running server, starting one, and the GPU-less render server (`vllm launch render`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

START_TIMEOUT_S = 900.0
"""Loading and compiling a large model takes minutes; a server that dies is noticed at once."""

BASE_ENV: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
CPU_ENV: Mapping[str, str] = {**BASE_ENV, "VLLM_CPU_KVCACHE_SPACE": "1"}
"""Environment of a vLLM on CPU for small models; the KV cache is in GiB (vllm.md section 6.4)."""

COMPARE_ARGS = ("--dtype", "float32", "--enforce-eager")
"""Arguments for comparing numbers on CPU: weights and activations in float32, no compilation."""

NO_PENALTIES: Mapping[str, float] = {"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""For the plugin in a bundle; a server without it does not look at them."""

GREEDY: Mapping[str, Any] = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "vllm_xargs": NO_PENALTIES,
}

SAMPLING_NAMES: Mapping[str, str] = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Ollama's name of a sampling parameter and vLLM's; what is not listed has no counterpart."""


class VllmEngine:
    """A vLLM server. `extra` is merged into every chat and tokenize request."""

    kind: Kind = "vllm"

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        process: Process | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`model` defaults to the first one served; `api_key` to VLLM_API_KEY."""
        key = api_key or os.environ.get("VLLM_API_KEY") or None
        self._client = JsonClient(url, label="vLLM", timeout=timeout, api_key=key, process=process)
        self._model = model
        self._version: str | None = None
        self.extra = dict(extra or {})

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(render=True, tokenize=True, generate=True, token_ids=True, score=True, embed=True)

    @property
    def url(self) -> str:
        return self._client.address

    @property
    def version(self) -> str:
        if self._version is None:
            self._version = str(self._get("/version", "version"))
        return self._version

    @property
    def name(self) -> str:
        return f"vLLM {self.version} at {self.url}, model {self.model}"

    @property
    def model(self) -> str:
        if self._model is None:
            models = self._get("/v1/models", "data")
            if not models:
                raise ServerError(f"vLLM at {self.url} serves no model", status=200)
            self._model = str(models[0]["id"])
        return self._model

    def context_length(self) -> int | None:
        """`max_model_len`, as /tokenize tells it."""
        return int(self._post("/tokenize", {"model": self.model, "prompt": ""}, "max_model_len"))

    def render(self, conversation: Conversation) -> str:
        body = self._chat(conversation) | {"max_tokens": 1, "temperature": 0, "return_prompt_text": True}
        text = self._post("/v1/chat/completions", body, "prompt_text")
        return str(text) if text is not None else self.detokenize(self.tokenize(conversation))

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        if isinstance(prompt, str):
            body: dict[str, Any] = {"model": self.model, "prompt": prompt, "add_special_tokens": True}
        else:
            body = self._chat(prompt)
        return tuple(self._post("/tokenize", body, "tokens"))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self._post("/detokenize", {"model": self.model, "tokens": list(ids)}, "prompt"))

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        body: dict[str, Any] = {
            **GREEDY,
            "max_tokens": max_tokens,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        if stop:
            body["stop"] = list(stop)
        if isinstance(prompt, Conversation):
            body |= self._chat(prompt) | {"logprobs": True, "top_logprobs": top_logprobs}
            answer = self._request("/v1/chat/completions", body)
            with self._client.reading("/v1/chat/completions"):
                return _chat_generation(answer)
        body |= {"model": self.model, "logprobs": top_logprobs}
        body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
        answer = self._request("/v1/completions", body)
        with self._client.reading("/v1/completions"):
            return _completion_generation(answer)

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        if not isinstance(prompt, Conversation):
            raise ServerError("vLLM is compared through its chat endpoint", status=501)
        body = self._chat(prompt)
        if prompt.tools and ask.call_tools:
            body["tool_choice"] = "auto"
        sampling = {SAMPLING_NAMES[k]: x for k, x in (ask.sampling or {}).items() if k in SAMPLING_NAMES}
        body |= GREEDY if ask.greedy else sampling
        if ask.sampling is not None:
            body["vllm_xargs"] = NO_PENALTIES
        if ask.repeat_penalty is not None and ask.plugin:
            body["vllm_xargs"] = {**NO_PENALTIES, "repeat_penalty": ask.repeat_penalty, "repeat_last_n": 64}
        elif ask.repeat_penalty is not None:
            body["repetition_penalty"] = ask.repeat_penalty
        if ask.max_tokens is not None:
            body["max_tokens"] = ask.max_tokens
        if ask.seed is not None:
            body["seed"] = ask.seed
        if ask.stop is not None:
            body["stop"] = list(ask.stop)
        if ask.format == "json":
            body["response_format"] = {"type": "json_object"}
        elif ask.format is not None:
            schema = {"name": "answer", "schema": dict(ask.format)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        path = "/v1/chat/completions"
        if not ask.stream:
            answer = self._request(path, body)
            with self._client.reading(path):
                return _chat_generation(answer)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with self._client.reading(path):
            return _streamed(list(self._client.stream(path, body)))

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        answer = self._request("/v1/embeddings", {"model": self.model, "input": list(texts)})
        with self._client.reading("/v1/embeddings"):
            rows = sorted(answer["data"], key=lambda row: row["index"])
            return tuple(tuple(float(x) for x in row["embedding"]) for row in rows)

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        if not continuation:
            return ()
        body = {
            "model": self.model,
            "prompt": [*prompt, *continuation],
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": top,
        }
        answer = self._request("/v1/completions", body)
        with self._client.reading("/v1/completions"):
            positions = answer["choices"][0]["prompt_logprobs"][len(prompt) :]
            return tuple(_prompt_position(*pair) for pair in zip(continuation, positions, strict=True))

    def answer_once(self) -> None:
        """A token, or the vector of an embedding model, whose server has no completions. Raises EngineError."""
        try:
            self.generate("a", max_tokens=1)
        except ServerError as error:
            if error.status != 404:
                raise
            self.embed(["a"])

    def close(self) -> None:
        self._client.close()

    def _chat(self, conversation: Conversation) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": to_openai(conversation.messages)}
        if conversation.tools:
            body["tools"] = list(conversation.tools)
            body["tool_choice"] = "none"
        if conversation.continue_final:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        kwargs = think_kwargs(conversation.think) | dict(self.extra.get("chat_template_kwargs") or {})
        if kwargs:
            body["chat_template_kwargs"] = kwargs
        return body | {key: value for key, value in self.extra.items() if key != "chat_template_kwargs"}

    def _request(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._client.post(path, body)
        if not isinstance(answer, dict):
            raise ServerError(f"vLLM at {self.url} answered {path} with an unexpected shape", status=200)
        return answer

    def _get(self, path: str, key: str) -> Any:
        return self._field(path, self._client.get(path), key)

    def _post(self, path: str, body: dict[str, Any], key: str) -> Any:
        return self._field(path, self._client.post(path, body), key)

    def _field(self, path: str, answer: Any, key: str) -> Any:
        if not isinstance(answer, dict) or key not in answer:
            raise ServerError(
                f"vLLM at {self.url} answered {path} without {key!r}", status=200, hint="is this really a vLLM server?"
            )
        return answer[key]


class RenderEngine(VllmEngine):
    """`vllm launch render`: templates and tokens as vLLM makes them, without weights (vllm.md section 4)."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(render=True, tokenize=True)

    def render(self, conversation: Conversation) -> str:
        return self.detokenize(self.tokenize(conversation))

    def sampling_params(self, conversation: Conversation) -> dict[str, Any]:
        """Sampling parameters that a request would get, with the defaults of generation_config.json merged in."""
        params = self._post("/v1/chat/completions/render", self._chat(conversation), "sampling_params")
        return dict(params)


def _prompt_position(token: int, position: Mapping[str, Any]) -> TokenLogprob:
    """One entry of `prompt_logprobs`: {id: {logprob, rank, decoded_token}}, the token itself always among them."""
    candidates = sorted(
        (
            Candidate(int(key), str(value.get("decoded_token") or "").encode(), float(value["logprob"]))
            for key, value in position.items()
        ),
        key=lambda candidate: -candidate.logprob,
    )
    own = candidates[[candidate.id for candidate in candidates].index(token)]
    return TokenLogprob(token, own.text, own.logprob, tuple(candidates))


def _id_of(text: str) -> int | None:
    """The id in vLLM's spelling of a token under `return_tokens_as_token_ids`."""
    head, _, number = text.partition(":")
    return int(number) if head == "token_id" and number.isdigit() else None


def _chat_generation(answer: Mapping[str, Any]) -> Generation:
    choice = answer["choices"][0]
    tokens = []
    for entry in (choice.get("logprobs") or {}).get("content") or []:
        own = _id_of(entry["token"])
        top = tuple(Candidate(_id_of(t["token"]), b"", t["logprob"]) for t in entry.get("top_logprobs") or [])
        tokens.append(TokenLogprob(own, bytes(entry.get("bytes") or []), entry["logprob"], top))
    message = choice["message"]
    return Generation(
        text=message.get("content") or "",
        tokens=tuple(tokens),
        finish_reason=choice.get("finish_reason") or "",
        prompt_tokens=answer["usage"]["prompt_tokens"],
        prompt_ids=tuple(answer.get("prompt_token_ids") or ()) or None,
        thinking=message.get("reasoning") or "",
        tool_calls=tuple(message.get("tool_calls") or ()),
        completion_tokens=answer["usage"].get("completion_tokens"),
    )


def _streamed(parts: Sequence[Mapping[str, Any]]) -> Generation:
    """The chunks of a streamed answer put together; the usage comes in a chunk without choices."""
    choices = [choice for part in parts for choice in part.get("choices") or ()]
    deltas = [choice.get("delta") or {} for choice in choices]
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for piece in delta.get("tool_calls") or ():
            call = calls.setdefault(piece.get("index", 0), {"function": {"name": "", "arguments": ""}})
            for key, value in (piece.get("function") or {}).items():
                call["function"][key] = call["function"].get(key, "") + (value or "")
    usage: Mapping[str, Any] = next((part["usage"] for part in reversed(parts) if part.get("usage")), {})
    return Generation(
        text="".join(delta.get("content") or "" for delta in deltas),
        tokens=(),
        finish_reason=next((c["finish_reason"] for c in reversed(choices) if c.get("finish_reason")), ""),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        thinking="".join(delta.get("reasoning") or "" for delta in deltas),
        tool_calls=tuple(calls[index] for index in sorted(calls)),
        chunks=sum(bool(delta.get("content")) for delta in deltas),
        completion_tokens=usage.get("completion_tokens"),
    )


def _completion_generation(answer: Mapping[str, Any]) -> Generation:
    choice = answer["choices"][0]
    logprobs = choice.get("logprobs") or {}
    ids = choice.get("token_ids") or []
    tokens = []
    for index, token in enumerate(ids):
        top = (logprobs.get("top_logprobs") or [{}] * len(ids))[index] or {}
        value = (logprobs.get("token_logprobs") or [0.0] * len(ids))[index]
        candidates = sorted((Candidate(_id_of(t), b"", lp) for t, lp in top.items()), key=lambda c: -c.logprob)
        tokens.append(TokenLogprob(token, b"", value, tuple(candidates)))
    return Generation(
        text=choice.get("text") or "",
        tokens=tuple(tokens),
        finish_reason=choice.get("finish_reason") or "",
        prompt_tokens=answer["usage"]["prompt_tokens"],
        prompt_ids=tuple(choice.get("prompt_token_ids") or ()) or None,
        completion_tokens=answer["usage"].get("completion_tokens"),
    )


def serve_command(target: Path, vllm: str, port: int, args: Sequence[str]) -> list[str]:
    """How to start what lies in `target`: a bundle (`serve.sh`, else `serve.yaml`) or a checkpoint directory."""
    if (target / "serve.sh").is_file():
        return ["bash", str(target / "serve.sh"), "--port", str(port), *args]
    where = ["--host", "127.0.0.1", "--port", str(port), *args]
    if (target / "serve.yaml").is_file():
        return [vllm, "serve", "--config", str(target / "serve.yaml"), *where]
    if (target / "config.json").is_file():
        return [vllm, "serve", str(target), *where]
    raise NotFound(
        f"{target} is neither a bundle nor a checkpoint", hint="expected serve.sh, serve.yaml or config.json"
    )


@contextmanager
def serve(
    target: Path,
    *,
    vllm: str = "vllm",
    args: Sequence[str] = (),
    env: Mapping[str, str] = BASE_ENV,
    log: Path,
    port: int | None = None,
    timeout: float = START_TIMEOUT_S,
) -> Iterator[VllmEngine]:
    """A vLLM server for a bundle or checkpoint, ready (it has generated a token) and stopped on leaving.

    Raises NotFound, and EngineDied with the reason from the log.
    """
    target = target.resolve()
    port = port or free_port()
    command = serve_command(target, vllm, port, args)
    with Process(command, name="vllm serve", log=log, env={**env, "VLLM_COMMAND": vllm}, cwd=target) as process:
        engine = VllmEngine(f"http://127.0.0.1:{port}", process=process)
        try:
            process.wait_ready(engine.answer_once, timeout=timeout)
            yield engine
        finally:
            engine.close()


@contextmanager
def launch_render(
    directory: Path,
    *,
    vllm: str = "vllm",
    args: Sequence[str] = (),
    env: Mapping[str, str] = BASE_ENV,
    log: Path,
    timeout: float = 300.0,
) -> Iterator[RenderEngine]:
    """A render server for a checkpoint directory (about 20 s to start, no weights needed). Raises EngineDied."""
    port = free_port()
    command = [vllm, "launch", "render", str(directory.resolve()), "--host", "127.0.0.1", "--port", str(port), *args]
    with Process(command, name="vllm launch render", log=log, env=env) as process:
        engine = RenderEngine(f"http://127.0.0.1:{port}", process=process)
        try:
            process.wait_ready(lambda: engine.tokenize("a"), timeout=timeout)
            yield engine
        finally:
            engine.close()
