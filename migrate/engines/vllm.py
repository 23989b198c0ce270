"""vLLM: talking to a running server, starting one, and the GPU-less render server (`vllm launch render`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from migrate.engines.base import (
    Candidate,
    Capabilities,
    Conversation,
    Generation,
    Kind,
    Prompt,
    TokenLogprob,
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
        return Capabilities(render=True, tokenize=True, generate=True, token_ids=True, score=True)

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

    def max_model_len(self) -> int:
        """Longest prompt plus answer, in tokens."""
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
            "max_tokens": max_tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
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

    def close(self) -> None:
        self._client.close()

    def _chat(self, conversation: Conversation) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": to_openai(conversation.messages)}
        if conversation.tools:
            body["tools"] = list(conversation.tools)
            body["tool_choice"] = "none"
        if conversation.continue_final:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body | self.extra

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
            process.wait_ready(lambda: engine.generate("a", max_tokens=1), timeout=timeout)
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
