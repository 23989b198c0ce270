"""What every engine can be asked, and the plain data it answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
"""One chat message in the form of Ollama's API: role, content, tool_calls, tool_name."""

MAX_TOP_LOGPROBS = 20
"""The most alternatives per position that Ollama (`top_logprobs`) and vLLM (`--max-logprobs` default) both give."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat request in Ollama's form; `name` is how reports call it.

    `continue_final` asks engines that must be told (vLLM's `continue_final_message`) to go on with a last message of
    the assistant instead of opening a new one. `think` is Ollama's field: None leaves it to the server.
    """

    name: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    continue_final: bool = False
    think: bool | str | None = None

    @property
    def is_prefill(self) -> bool:
        """The last message is the beginning of the answer."""
        return bool(self.messages) and self.messages[-1].get("role") == "assistant"


Prompt = str | Sequence[int] | Conversation
"""Text as the engine's tokenizer takes it, token ids, or a conversation for its chat endpoint."""


Kind = Literal["ollama", "llama.cpp", "vllm"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can answer. `token_ids`: its answers carry ids, not only text."""

    render: bool = False
    tokenize: bool = False
    generate: bool = False
    token_ids: bool = False
    score: bool = False
    embed: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token the model considered. `id` is None where the engine gives none (Ollama), `text` its bytes (empty for
    a special token in llama.cpp and Ollama), `logprob` the natural logarithm of its probability before sampling."""

    id: int | None
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One position: the token there, and the most likely ones, best first."""

    id: int | None
    text: bytes
    logprob: float
    top: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer.

    `tokens` are the generated positions in order; llama.cpp and vLLM include the end-of-sequence token, Ollama does
    not. `finish_reason` is "stop", "length" or the engine's own word. `prompt_tokens` counts the prompt with its BOS.
    `prompt_ids` are the prompt's ids where the engine tells them.
    """

    text: str
    tokens: tuple[TokenLogprob, ...]
    finish_reason: str
    prompt_tokens: int
    prompt_ids: tuple[int, ...] | None = None
    thinking: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    chunks: int = 0
    """Pieces with text in which a streamed answer came; 0 when it was not streamed."""
    completion_tokens: int | None = None
    """Generated tokens as the server counts them."""

    @property
    def ids(self) -> tuple[int, ...] | None:
        """Ids of the generated tokens, None when any is unknown."""
        ids = tuple(t.id for t in self.tokens if t.id is not None)
        return ids if len(ids) == len(self.tokens) else None


@dataclass(frozen=True, slots=True)
class Ask:
    """How a chat request is made when it is not the plain greedy one of `Engine.generate`.

    `greedy`: temperature 0 and penalties off; otherwise the server's defaults with `sampling` (Ollama's names) on top.
    `stop` None: the server's own stop strings. `format`: "json", or a JSON schema. `call_tools`: the model may call the
    conversation's tools, and calls are parsed. `repeat_penalty` is sent along where it is given, over a window of 64.
    """

    max_tokens: int | None = None
    greedy: bool = True
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    format: Literal["json"] | Mapping[str, Any] | None = None
    call_tools: bool = False
    stream: bool = False
    sampling: Mapping[str, float] | None = None
    repeat_penalty: float | None = None
    plugin: bool = False
    """The bundle has Ollama's penalties: vLLM gets `repeat_penalty` for them, not as its own."""


class Engine(Protocol):
    """A server that runs one model.

    All methods raise `ServerUnreachable`, `ServerError` or `EngineDied`; none blocks longer than the client's timeout.
    A method that `capabilities` rules out raises `ServerError`.
    """

    kind: Kind

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def name(self) -> str:
        """Kind, version and address, for people."""
        ...

    def context_length(self) -> int | None:
        """Longest prompt plus answer in tokens, None where the server does not tell."""
        ...

    def render(self, conversation: Conversation) -> str:
        """The prompt text this engine makes of a conversation."""
        ...

    def tokenize(self, prompt: str | Conversation) -> tuple[int, ...]:
        """Token ids of a prompt, with everything the engine puts before it (BOS). Special tokens in text are parsed."""
        ...

    def generate(
        self, prompt: Prompt, *, max_tokens: int, top_logprobs: int = 0, stop: Sequence[str] = ()
    ) -> Generation:
        """Greedy continuation with penalties off."""
        ...

    def score(self, prompt: Sequence[int], continuation: Sequence[int], *, top: int) -> tuple[TokenLogprob, ...]:
        """Teacher forcing: the model's distribution at each position of `continuation`, given what stands before it."""
        ...

    def chat(self, prompt: Prompt, ask: Ask) -> Generation:
        """An answer to a request as a client makes it. `tokens` may be empty."""
        ...

    def embed(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        """One vector per text."""
        ...

    def close(self) -> None: ...


def think_kwargs(think: bool | str | None) -> dict[str, Any]:
    """Ollama's `think` as the variables that chat templates know (ollama.md section 5.7); {} when it is not said."""
    if think is None:
        return {}
    if isinstance(think, str):
        return {"enable_thinking": True, "reasoning_effort": think}
    return {"enable_thinking": think}


def to_openai(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in the form of OpenAI's API, which vLLM speaks.

    Tool calls get a type, an id and their arguments as a JSON string; a tool's answer gets the id of the call it
    answers, in order, and `tool_name` becomes `name` (reference: vllm.md section 5, ollama.md section 7.2).
    """
    import json

    converted: list[dict[str, Any]] = []
    pending: list[str] = []
    for index, message in enumerate(messages):
        out: dict[str, Any] = {"role": message["role"], "content": message.get("content", "")}
        if message.get("tool_calls"):
            calls = []
            for number, call in enumerate(message["tool_calls"]):
                function = call["function"]
                call_id = call.get("id") or f"call_{index}_{number}"
                pending.append(call_id)
                arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
                calls.append(
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": function["name"], "arguments": arguments},
                    }
                )
            out["tool_calls"] = calls
        if message["role"] == "tool":
            answered = message.get("tool_call_id") or (pending[0] if pending else f"call_{index}")
            if answered in pending:
                pending.remove(answered)
            out["tool_call_id"] = answered
            if name := message.get("tool_name"):
                out["name"] = name
        converted.append(out)
    return converted
