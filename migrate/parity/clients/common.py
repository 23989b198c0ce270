"""Rules that are the same in both worlds."""

from __future__ import annotations

from migrate.parity.clients.rule import (
    Client,
    ClientRequest,
    Rule,
    answers,
    chats,
    either,
    embeds,
    empty_stop,
    ends_with_answer,
    field_named,
    lacks_tool_parser,
    longest_stop,
    misnamed,
    names_asked,
    number,
    outside,
    too_many_stops,
)
from migrate.parity.facts import BundleFacts

SAMPLING = "Ollama api/types.go; vLLM 0.32 sampling_params.py, tested"
LENGTH = "Ollama llm/llama_server.go; vLLM 0.32, tested"


def _penalties(request: ClientRequest, facts: BundleFacts) -> bool:
    return any(number(request.get(name)) for name in ("presence_penalty", "frequency_penalty"))


def _top_p_outside(request: ClientRequest, facts: BundleFacts) -> bool:
    value = number(request.get("top_p"))
    return value is not None and not 0 < value <= 1


def _seed(request: ClientRequest, facts: BundleFacts) -> bool:
    value = number(request.get("seed"))
    return value is not None and value >= 0


def _top_logprobs_alone(request: ClientRequest, facts: BundleFacts) -> bool:
    return bool(number(request.body.get("top_logprobs"))) and not request.body.get("logprobs")


def common(client: Client) -> tuple[Rule, ...]:
    """The shared rules for one world; sampling fields are `options.NAME` for native clients."""
    inside = "options." if client == "native" else ""
    return (
        Rule("model", client, "model", "finds it in any case, and with registry.ollama.ai/library/ in front",
             "answers 404 to any spelling but those it serves", "send a served name", "breaks",
             "Ollama types/model/name.go; vLLM 0.32, tested", misnamed, detail=names_asked),
        Rule("long-prompt", client, "a conversation longer than the context",
             "drops the oldest messages without a word, then shifts the context", "answers 400",
             "drop old messages in the client, or convert with a larger num_ctx", "breaks",
             "Ollama server/prompt.go; vLLM 0.32, tested", None, answers),
        Rule("long-embedding", client, "a text longer than the context", "cuts it", "answers 400",
             "send truncate_prompt_tokens: -1", "breaks",
             "Ollama server/routes.go; vLLM 0.32 pooling/base/protocol.py", None, embeds),
        Rule("dimensions", client, "dimensions", "cuts the vector and normalises it again",
             "answers 400 unless the model is declared to allow it (matryoshka)", "cut and normalise in the client",
             "breaks", "Ollama server/routes.go; vLLM 0.32 pooling_params.py", field_named("dimensions"), embeds),
        Rule("temperature", client, f"{inside}temperature below 0 or above 2", "takes any number", "answers 400",
             "send 0 to 2", "breaks", SAMPLING, outside("temperature", 0, 2), answers, rare=True),
        Rule("top-p", client, f"{inside}top_p 0 or less, or above 1", "takes any number", "answers 400",
             "send temperature 0 for the likeliest token, 1 for no limit", "breaks", SAMPLING, _top_p_outside, answers,
             rare=True),
        Rule("top-k", client, f"{inside}top_k below -1, min_p outside 0 to 1",
             "takes any number" if client == "native" else "ignores them", "answers 400", "send 0 to switch it off",
             "breaks", SAMPLING, either(outside("top_k", -1, float("inf")), outside("min_p", 0, 1)), answers,
             rare=True),
        Rule("penalties", client, f"{inside}presence_penalty, frequency_penalty",
             "counts in the last 64 tokens, the prompt's included", "counts in the whole answer and not in the prompt",
             "look at long answers; parity compares without penalties", "silent",
             "llama.cpp src/llama-sampler.cpp; vLLM 0.32 worker/gpu/sample/penalties.py", _penalties, answers),
        Rule("penalties-range", client, f"{inside}presence_penalty, frequency_penalty outside -2 to 2",
             "takes any number", "answers 400", "send -2 to 2", "breaks", SAMPLING,
             either(outside("presence_penalty", -2, 2), outside("frequency_penalty", -2, 2)), answers, rare=True),
        Rule("seed", client, f"{inside}seed", "repeats its own answers with it",
             "repeats its own answers with it, never Ollama's: the generators differ", "", "fine",
             "Ollama api/types.go; vLLM 0.32 sampling_params.py", _seed, answers),
        Rule("stop-many", client, f"{inside}stop, a long list", "takes any number of texts",
             "answers 400 to more than 16 (VLLM_MAX_STOP_STRINGS)", "set VLLM_MAX_STOP_STRINGS where the server starts",
             "breaks", "vLLM 0.32 generate/base/protocol.py, tested", too_many_stops, answers, detail=longest_stop),
        Rule("stop-empty", client, f"{inside}stop with an empty text", "takes it; nothing stops there", "answers 400",
             "leave it out", "breaks", SAMPLING, empty_stop, answers, rare=True),
        Rule("tools-empty", client, "tools: []", "takes it as no tools", "answers 400", "leave it out", "breaks",
             "vLLM 0.32 chat_completion/protocol.py, tested", lambda request, facts: request.body.get("tools") == [],
             answers, rare=True),
        Rule("tools-parser", client, "tools", "finds calls in the answer",
             "answers 400: the bundle has no tool parser", "convert with --tool-call-parser", "breaks",
             "vLLM 0.32 chat_completion/serving.py, tested", lambda request, facts: bool(request.body.get("tools")),
             lacks_tool_parser),
        Rule("prefill", client, "a last message of the assistant", "goes on with it, where the template allows",
             "closes it and begins a new answer", "send continue_final_message: true and add_generation_prompt: false",
             "silent", "Ollama template/template.go; vLLM 0.32, tested", ends_with_answer, answers),
        Rule("top-logprobs", client, "top_logprobs without logprobs", "ignores it", "answers 400",
             "send logprobs: true", "breaks", "vLLM 0.32 chat_completion/protocol.py, tested",
             chats(_top_logprobs_alone), answers, rare=True),
        Rule("errors", client, "errors", 'says {"error": "text"}' if client == "native"
             else 'says {"error": {"message", "type": "not_found_error", "code": null}}',
             'says {"error": {"message", "type", "param", "code"}} with types of its own and the status as code, '
             'and {"detail"} for a path it does not have',
             "read the status, then error.message; many values that Ollama took or answered with 500 are 400 now",
             "silent", "Ollama api/types.go; vLLM 0.32, tested", None),
        Rule("content-type", client, "Content-Type", "does not look at it",
             "answers 400 unless it is application/json", "send Content-Type: application/json", "breaks",
             "vLLM 0.32 serve/utils/api_utils.py, tested", None),
        Rule("browser", client, "requests of web pages (CORS)", "allows pages from localhost",
             "allows none unless told", "add allowed-origins to serve.yaml", "breaks",
             "Ollama envconfig/config.go; vLLM 0.32, tested", None),
    )  # fmt: skip
