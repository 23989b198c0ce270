"""Clients of Ollama's OpenAI route (/v1): the same address with another port, and the differences nobody sees."""

from __future__ import annotations

from collections.abc import Mapping

from migrate.parity.clients.common import LENGTH, SAMPLING, common
from migrate.parity.clients.rule import (
    ClientRequest,
    Rule,
    answers,
    asks_for_defaults,
    at,
    calls_tools,
    context_and_largest,
    defaults_differ,
    embeds,
    field_named,
    field_set,
    loose_tool_call,
    number,
    parts,
    thinks,
)
from migrate.parity.facts import BundleFacts

COMPLETIONS = "/v1/completions"
HONOURED = (
    "top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words",
    "allowed_token_ids", "include_stop_str_in_output", "skip_special_tokens", "chat_template_kwargs",
    "structured_outputs", "truncate_prompt_tokens", "continue_final_message", "add_generation_prompt",
)  # fmt: skip
"""Fields of vLLM that Ollama's OpenAI route never read, often left over from another server."""
OLLAMAS_OWN = ("options", "format", "keep_alive", "think", "num_ctx", "num_predict", "repeat_penalty", "raw", "images")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")

NEW = "Ollama openai/openai.go does not read it; vLLM 0.32 chat_completion/protocol.py, tested"


def _limit(request: ClientRequest) -> float | int | None:
    """What vLLM takes as the limit: max_completion_tokens before max_tokens, and only the latter for completions."""
    limit = None if request.path == COMPLETIONS else request.body.get("max_completion_tokens")
    return number(request.body.get("max_tokens") if limit is None else limit)


def _limit_below_one(request: ClientRequest, facts: BundleFacts) -> bool:
    limit = _limit(request)
    return limit is not None and limit < 1


def _limit_above_context(request: ClientRequest, facts: BundleFacts) -> bool:
    limit, context = _limit(request), facts.target.max_model_len
    return limit is not None and context is not None and limit > context


def _completion_limit(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path == "/v1/chat/completions" and request.body.get("max_completion_tokens") is not None


def _tool_choice(request: ClientRequest, facts: BundleFacts) -> bool:
    return bool(request.body.get("tools")) and request.body.get("tool_choice") not in (None, "auto")


def _tool_choice_alone(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.body.get("tools") is None and request.body.get("tool_choice") not in (None, "none")


def _several(request: ClientRequest, facts: BundleFacts) -> bool:
    value = number(request.body.get("n"))
    return value is not None and value > 1


def _unnamed_schema(request: ClientRequest, facts: BundleFacts) -> bool:
    wanted = request.body.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return False
    schema = wanted.get("json_schema")
    return not isinstance(schema, Mapping) or not isinstance(schema.get("name"), str)


def _stream_options_alone(request: ClientRequest, facts: BundleFacts) -> bool:
    return bool(request.body.get("stream_options")) and not request.body.get("stream")


def _unknown_effort(request: ClientRequest, facts: BundleFacts) -> bool:
    effort = request.body.get("reasoning_effort")
    return effort is not None and effort not in EFFORTS


def _several_texts(request: ClientRequest, facts: BundleFacts) -> bool:
    return any(len(content) > 1 for content in parts(request)) and not _has_media(request, facts)


def _has_media(request: ClientRequest, facts: BundleFacts) -> bool:
    return any(isinstance(part, Mapping) and part.get("type") not in (None, "text")
               for content in parts(request) for part in content)  # fmt: skip


def _one_model(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path.startswith("/v1/models/")


RULES: tuple[Rule, ...] = (
    Rule("defaults", "openai", "temperature, top_p, left out", "takes 1.0 and 1.0, whatever the Modelfile says",
         "takes the bundle's, which are the Modelfile's", "convert with --client openai, or send both", "silent",
         "Ollama openai/openai.go; vLLM 0.32 config/model.py", asks_for_defaults,
         lambda facts: facts.target.client == "native" and defaults_differ(facts)),
    Rule("defaults-messages", "openai", "temperature, top_p, left out on /v1/messages", "takes the Modelfile's",
         "takes the bundle's, which were made for the other OpenAI clients: 1.0 and 1.0", "send both", "silent",
         "Ollama openai/openai.go", asks_for_defaults,
         lambda facts: facts.target.client == "openai" and defaults_differ(facts), rare=True),
    Rule("completions", "openai", "POST /v1/completions",
         "puts the prompt into the chat template, with SYSTEM and MESSAGEs, and answers to the end",
         "takes the prompt as it is, and ends after 16 tokens when max_tokens is missing",
         "POST /v1/chat/completions with the prompt as a user message", "silent",
         "Ollama openai/openai.go; vLLM 0.32 completion/protocol.py, tested", at(COMPLETIONS), answers, compared=False),
    Rule("completion-tokens", "openai", "max_completion_tokens", "ignores it",
         "obeys it, and prefers it to max_tokens", "look whether the number is large enough: it has never counted",
         "silent", NEW, _completion_limit, answers),
    Rule("max-tokens-small", "openai", "max_tokens below 1", "goes on, up to ten times num_ctx", "answers 400",
         "leave it out: it is the rest of the context then", "breaks", SAMPLING, _limit_below_one, answers, rare=True),
    Rule("max-tokens-large", "openai", "max_tokens above max-model-len", "takes any number", "answers 400",
         "send less, or nothing", "breaks", LENGTH, _limit_above_context, answers,
         detail=context_and_largest("max_tokens")),
    Rule("sampling", "openai", "top_k, min_p, repetition_penalty, chat_template_kwargs, ...", "ignores them",
         "obeys them", "leave out what was never meant", "silent", NEW, field_named(*HONOURED), answers),
    Rule("n", "openai", "n above 1", "gives one answer", "gives n answers, and 400 with temperature 0", "send n: 1",
         "silent", NEW, _several, answers),
    Rule("logit-bias", "openai", "logit_bias", "ignores it", "obeys it, by the token ids of this model",
         "leave it out unless the ids are this model's", "silent", NEW, field_set("logit_bias"), answers),
    Rule("tool-choice", "openai", "tool_choice required, none or a name", "ignores it", "obeys it",
         "leave it out, or mean it", "silent", NEW, _tool_choice, calls_tools),
    Rule("tool-choice-alone", "openai", "tool_choice without tools", "ignores it", "answers 400", "leave it out",
         "breaks", NEW, _tool_choice_alone, answers, rare=True),
    Rule("parallel-tool-calls", "openai", "parallel_tool_calls false", "ignores it", "keeps the first call only",
         "leave it out unless that is meant", "silent",
         "Ollama openai/openai.go; vLLM 0.32 serve/utils/tool_calls_utils.py",
         lambda request, facts: request.body.get("parallel_tool_calls") is False, calls_tools),
    Rule("tool-history", "openai", "tool_calls in earlier answers, not in OpenAI's form",
         "takes them without id or type", "answers 400", "send id, type: function and arguments as a JSON text",
         "breaks", "vLLM 0.32, tested", loose_tool_call, calls_tools),
    Rule("schema-name", "openai", "response_format json_schema without a name", "reads the schema only", "answers 400",
         "give json_schema a name", "breaks", "Ollama openai/openai.go; vLLM 0.32 generate/base/protocol.py, tested",
         _unnamed_schema, answers, rare=True),
    Rule("response-format", "openai", "response_format json_object, json_schema", "forces it", "forces it", "", "fine",
         "Ollama openai/openai.go; vLLM 0.32, tested", field_set("response_format"), answers),
    Rule("stream-options", "openai", "stream_options without stream", "ignores it", "answers 400", "leave it out",
         "breaks", "vLLM 0.32 chat_completion/protocol.py, tested", _stream_options_alone, answers, rare=True),
    Rule("effort-unknown", "openai", 'reasoning_effort "ultra" and other words', "takes ultra as max", "answers 400",
         "send none, minimal, low, medium, high, xhigh or max", "breaks", "Ollama openai/openai.go; vLLM 0.32, tested",
         _unknown_effort, answers, rare=True),
    Rule("reasoning-object", "openai", "reasoning {effort}", "reads the effort", "ignores it on chat completions",
         "send reasoning_effort", "silent", "Ollama openai/openai.go; vLLM 0.32, tested",
         lambda request, facts: request.path == "/v1/chat/completions" and bool(request.body.get("reasoning")), thinks),
    Rule("reasoning", "openai", "reasoning in answers", "tells the thoughts there", "tells them there too", "", "fine",
         "Ollama openai/openai.go; vLLM 0.32 chat_completion/protocol.py, tested", None, thinks),
    Rule("content-parts", "openai", "content in several text parts",
         "makes a message of each; a Go template joins them by an empty line", "joins them with a line break",
         "send one text", "silent", "Ollama openai/openai.go; vLLM 0.32 renderers/chat_utils.py, tested",
         _several_texts, answers),
    Rule("images", "openai", "image_url and other parts that are not text", "shows the images to the model",
         "answers 400: the bundle is text only", "keep these requests on Ollama", "breaks", "vLLM 0.32, tested",
         _has_media, answers, compared=False),
    Rule("suffix", "openai", "suffix", "fills in the middle, if the template can",
         "answers 400 for models whose form it does not know",
         "write the model's own fill-in-the-middle tokens into the prompt", "breaks",
         "vLLM 0.32 renderers/online_renderer.py, tested",
         lambda request, facts: request.path == COMPLETIONS and request.body.get("suffix") is not None, answers,
         compared=False, rare=True),
    Rule("one-model", "openai", "GET /v1/models/NAME", "describes one model", "has no such path (404)",
         "GET /v1/models", "breaks", "vLLM 0.32 openai/models/api_router.py, tested", _one_model, rare=True),
    Rule("not-embeddings", "openai", "POST /v1/embeddings", "gives vectors of any model that can",
         "has no such path for a model that answers (404)", "move the embedding model too, as a bundle of its own",
         "breaks", "vLLM 0.32, tested", at("/v1/embeddings"), answers, compared=False, rare=True),
    Rule("embeddings", "openai", "POST /v1/embeddings", "takes input as a text or a list, float or base64",
         "does the same", "", "fine", "Ollama openai/openai.go; vLLM 0.32 pooling/embed/protocol.py",
         at("/v1/embeddings"), embeds),
    Rule("audio", "openai", "POST /v1/audio/transcriptions", "writes down speech", "has no such path (404)",
         "keep these requests on Ollama", "breaks", "Ollama server/routes.go; vLLM 0.32, tested",
         at("/v1/audio/transcriptions"), compared=False, rare=True),
    Rule("other-routes", "openai", "POST /v1/responses, /v1/messages", "has them", "has them too, of its own make",
         "try them: parity compares chat completions", "silent", "Ollama server/routes.go; vLLM 0.32, tested",
         at("/v1/responses", "/v1/messages"), answers, compared=False, rare=True),
    Rule("ollamas-fields", "openai", "options, format, keep_alive, think, num_ctx", "ignores them on this route",
         "ignores them", "", "fine", "Ollama openai/openai.go; vLLM 0.32, tested", field_named(*OLLAMAS_OWN)),
    Rule("user", "openai", "user", "ignores it", "ignores it", "", "fine",
         "Ollama openai/openai.go; vLLM 0.32, tested", field_named("user")),
    Rule("usage", "openai", "usage, finish_reason, the stream", "speaks OpenAI's form",
         "speaks it too; the first event of a stream has an empty text", "", "fine",
         "Ollama openai/openai.go; vLLM 0.32, tested", None, answers),
    *common("openai"),
)  # fmt: skip
