"""Clients of /api/chat, /api/generate and /api/embed: what their code meets on vLLM.

`vllm` is what happens when a field is carried over to vLLM's route unchanged, which is the mistake people make.
"""

from __future__ import annotations

from migrate.parity.clients.common import LENGTH, common
from migrate.parity.clients.rule import (
    ClientRequest,
    Rule,
    answers,
    asks_for_defaults,
    at,
    calls_tools,
    chats,
    context_and_largest,
    defaults_differ,
    embeds,
    field_named,
    field_set,
    largest,
    loose_tool_call,
    number,
    option_named,
    thinks,
)
from migrate.parity.facts import BundleFacts

CHAT, GENERATE = "/api/chat", "/api/generate"
LOAD_OPTIONS = frozenset(
    ("num_gpu", "main_gpu", "num_thread", "num_batch", "use_mmap", "use_mlock", "numa", "low_vram", "f16_kv",
     "logits_all", "vocab_only", "draft_num_predict")
)  # fmt: skip
WITHOUT_COUNTERPART = frozenset(
    ("repeat_last_n", "typical_p", "num_keep", "tfs_z", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline")
)
MANAGEMENT = (
    "/api/tags", "/api/show", "/api/ps", "/api/version", "/api/pull", "/api/push", "/api/create", "/api/copy",
    "/api/delete", "/api/status",
)  # fmt: skip

API = "Ollama api/types.go; vLLM 0.32 answers 404, tested"
ANSWER = "Ollama api/types.go; vLLM 0.32 chat_completion/protocol.py, tested"
OPTIONS = "Ollama api/types.go; vLLM 0.32 serve/engine/protocol.py, tested"
IGNORED = "Ollama api/types.go; vLLM 0.32 serve/engine/protocol.py, tested"


def _generates(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path == GENERATE and not request.body.get("raw") and not request.body.get("suffix")


def _loads(request: ClientRequest, facts: BundleFacts) -> bool:
    name = {CHAT: "messages", GENERATE: "prompt"}.get(request.path)
    return name is not None and not request.body.get(name)


def _streams_by_default(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path in (CHAT, GENERATE) and request.body.get("stream") is None


def _streams(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path in (CHAT, GENERATE) and request.body.get("stream") is not False


def _limits(request: ClientRequest, facts: BundleFacts) -> bool:
    value = number(request.get("num_predict"))
    return value is not None and value > 0


def _unlimited(request: ClientRequest, facts: BundleFacts) -> bool:
    value = number(request.get("num_predict"))
    return value is not None and value <= 0


def _repeats(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.get("repeat_penalty") not in (None, 1)


def _has_images(request: ClientRequest, facts: BundleFacts) -> bool:
    return bool(request.body.get("images")) or any(m.get("images") for m in request.messages)


def _manages(request: ClientRequest, facts: BundleFacts) -> bool:
    return request.path in MANAGEMENT or request.path.startswith("/api/blobs")


RULES: tuple[Rule, ...] = (
    Rule("chat", "native", "POST /api/chat", "answers conversations there", "has no such path (404)",
         "POST /v1/chat/completions with the same model and messages", "breaks", API, at(CHAT), answers),
    Rule("generate", "native", "POST /api/generate",
         "makes a conversation of prompt and system, with SYSTEM and MESSAGEs of the Modelfile",
         "has no such path (404)",
         "POST /v1/chat/completions with the prompt as a user message; /v1/completions would leave the template out",
         "breaks", API, _generates, answers),
    Rule("embed", "native", "POST /api/embed", "gives embeddings[]", "has no such path (404)",
         "POST /v1/embeddings with the same input; the vectors are in data[].embedding", "breaks", API,
         at("/api/embed"), embeds),
    Rule("embeddings", "native", "POST /api/embeddings", "gives one vector, for bert and nomic-bert not normalised",
         "has no such path (404)", "POST /v1/embeddings with input instead of prompt; parity compared with /api/embed",
         "breaks", "Ollama server/routes.go", at("/api/embeddings"), embeds, compared=False),
    Rule("not-embeddings", "native", "POST /api/embed, /api/embeddings", "gives vectors of any model that can",
         "has no such path, and no /v1/embeddings for a model that answers",
         "move the embedding model too, as a bundle of its own", "breaks", "vLLM 0.32, tested",
         at("/api/embed", "/api/embeddings"), answers, compared=False, rare=True),
    Rule("management", "native", "/api/tags, show, ps, version, pull, create, ...", "lists and manages many models",
         "serves one model: 404 for all of them", "GET /v1/models and GET /version; leave the rest out", "breaks", API,
         _manages),
    Rule("load", "native", "no messages, no prompt", "loads or unloads the model", "answers 400",
         "leave these requests out: the model is loaded from start to stop", "breaks",
         "Ollama api/types.go; vLLM 0.32, tested", _loads, answers, rare=True),
    Rule("answer", "native", "message.content, response", "answers there",
         "answers in choices[0].message.content, in a stream in choices[0].delta.content", "read the answer there",
         "breaks", ANSWER, None, answers),
    Rule("ndjson", "native", "the stream", "sends one JSON object per line (NDJSON)",
         "sends server-sent events: lines `data: {...}`, the last one `data: [DONE]`",
         "read it with an OpenAI client or an SSE reader", "breaks", "Ollama server/routes.go; vLLM 0.32, tested",
         _streams, answers),
    Rule("stream", "native", "stream, left out", "streams", "does not stream",
         "send stream: true where the answer is read as it comes", "silent",
         "Ollama server/routes.go; vLLM 0.32, tested", _streams_by_default, answers),
    Rule("counts", "native", "prompt_eval_count, eval_count, durations",
         "counts tokens and nanoseconds in the last object",
         "counts in usage.prompt_tokens and usage.completion_tokens, in a stream only with stream_options "
         '{"include_usage": true}, and gives no times', "read usage; measure times in the client", "breaks", ANSWER,
         None, answers),
    Rule("done-reason", "native", "done, done_reason", "ends with done: true and stop, length, load or unload",
         "ends with finish_reason stop, length or tool_calls", "read choices[0].finish_reason", "breaks", ANSWER, None,
         answers),
    Rule("defaults", "native", "temperature, top_p, left out", "takes the Modelfile's",
         "takes the bundle's, which were made for OpenAI clients: 1.0 and 1.0",
         "convert with --client native, or send both", "silent", "Ollama openai/openai.go", asks_for_defaults,
         lambda facts: facts.target.client == "openai" and defaults_differ(facts)),
    Rule("options", "native", "options", "reads the sampling fields in it", "ignores the whole object",
         "move its fields beside the messages (temperature, top_p, top_k, min_p, seed, stop and the two penalties keep "
         "their names)", "silent", OPTIONS, field_set("options")),
    Rule("num-predict", "native", "options.num_predict", "limits the answer", "ignores it", "send it as max_tokens",
         "silent", OPTIONS, _limits, answers),
    Rule("num-predict-unlimited", "native", "options.num_predict 0 or less", "goes on, up to ten times num_ctx",
         "answers 400 to max_tokens below 1", "leave max_tokens out: it is the rest of the context then", "breaks",
         "Ollama llm/llama_server.go; vLLM 0.32 sampling_params.py, tested", _unlimited, answers),
    Rule("num-ctx", "native", "options.num_ctx", "loads the model again with that context",
         "ignores it: the context is one for all, max-model-len", "leave it out, or convert with the largest you need",
         "silent", OPTIONS, option_named(("num_ctx",)), detail=context_and_largest("num_ctx")),
    Rule("repeat-penalty", "native", "options.repeat_penalty", "weakens what is in the last 64 tokens",
         "ignores that name; its repetition_penalty weakens all of prompt and answer",
         "leave it out: the same number would be much stronger", "silent",
         "llama.cpp src/llama-sampler.cpp; vLLM 0.32 worker/gpu/sample/penalties.py, tested",
         _repeats, answers, detail=largest("repeat_penalty")),
    Rule("no-counterpart", "native", "options.repeat_last_n, typical_p, num_keep, mirostat, ...",
         "samples with it, or ignores it itself (mirostat, tfs_z)", "ignores it", "leave it out", "silent", OPTIONS,
         option_named(WITHOUT_COUNTERPART)),
    Rule("load-options", "native", "options.num_gpu, num_thread, num_batch, ...", "loads the model with it",
         "ignores it: how to load is said when the server starts", "", "fine", OPTIONS, option_named(LOAD_OPTIONS)),
    Rule("keep-alive", "native", "keep_alive", "keeps the model in memory that long",
         "ignores it: the model stays until the server stops", "leave it out", "silent", IGNORED,
         field_named("keep_alive")),
    Rule("format-json", "native", 'format "json"', "forces a JSON object", "ignores it: the answer is free",
         'send response_format {"type": "json_object"}', "silent", IGNORED,
         lambda request, facts: request.body.get("format") == "json", answers),
    Rule("format-schema", "native", "format with a schema", "forces the schema", "ignores it: the answer is free",
         'send response_format {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}', "silent",
         IGNORED, lambda request, facts: isinstance(request.body.get("format"), dict), answers),
    Rule("think", "native", "think", "switches thinking on, off, or to a level", "ignores it: thinking stays on",
         'send chat_template_kwargs {"enable_thinking": false}, or reasoning_effort for a level', "silent", IGNORED,
         field_named("think"), thinks),
    Rule("thinking", "native", "message.thinking in answers", "tells the thoughts there",
         "tells them in message.reasoning", "read reasoning", "breaks", ANSWER, None, thinks),
    Rule("thinking-history", "native", "thinking in earlier answers", "gives it to the template",
         "ignores it: the field is reasoning", "send reasoning", "silent", "vLLM 0.32 renderers/chat_utils.py, tested",
         lambda request, facts: any(m.get("thinking") for m in request.messages), thinks),
    Rule("images", "native", "images", "shows them to the model",
         "ignores them without a word: the bundle is text only", "keep these requests on Ollama", "silent", IGNORED,
         _has_images, compared=False),
    Rule("tool-arguments", "native", "tool_calls in answers", "gives arguments as an object, and calls without type",
         "gives arguments as a JSON text, with id and type", "parse function.arguments", "breaks",
         "Ollama api/types.go; vLLM 0.32 generate/base/protocol.py", field_set("tools"), calls_tools),
    Rule("tool-history", "native", "tool_calls in earlier answers", "takes arguments as an object, without id or type",
         "answers 400", "send id, type: function and arguments as a JSON text, as vLLM gave them", "breaks",
         "Ollama api/types.go; vLLM 0.32, tested", loose_tool_call, calls_tools),
    Rule("tool-name", "native", "tool_name in tool results", "names the tool by it", "ignores it",
         "send tool_call_id with the id of the call, and name", "silent", "vLLM 0.32 renderers/chat_utils.py, tested",
         lambda request, facts: any(m.get("tool_name") for m in request.messages), calls_tools),
    Rule("raw", "native", "raw", "sends the prompt untouched, with BOS in front",
         "does the same on /v1/completions, and ends after 16 tokens when max_tokens is missing",
         "POST /v1/completions with prompt and max_tokens", "breaks",
         "Ollama api/types.go; vLLM 0.32 completion/protocol.py, tested",
         lambda request, facts: request.path == GENERATE and bool(request.body.get("raw")), answers, compared=False,
         rare=True),
    Rule("system", "native", "system of /api/generate", "takes it instead of SYSTEM", "ignores it",
         "send it as the first message, role system", "silent", IGNORED,
         lambda request, facts: request.path == GENERATE and bool(request.body.get("system")), answers),
    Rule("template", "native", "template of /api/generate", "takes it instead of TEMPLATE",
         "ignores it, and refuses chat_template (400)",
         "write the prompt in the client and send it to /v1/completions", "silent", IGNORED,
         lambda request, facts: request.path == GENERATE and bool(request.body.get("template")), answers,
         compared=False, rare=True),
    Rule("context", "native", "context of /api/generate", "goes on after the tokens of an earlier answer",
         "ignores it", "send the earlier turns as messages", "silent", IGNORED,
         lambda request, facts: request.path == GENERATE and bool(request.body.get("context")), answers,
         compared=False, rare=True),
    Rule("suffix", "native", "suffix", "fills in the middle, if the template can",
         "answers 400 on /v1/completions for models whose form it does not know",
         "write the model's own fill-in-the-middle tokens into the prompt of /v1/completions", "breaks",
         "vLLM 0.32 renderers/online_renderer.py, tested", field_set("suffix"), answers, compared=False, rare=True),
    Rule("truncate", "native", "truncate, shift", "switches the cutting of long conversations off",
         "ignores them: it never cuts by itself", "", "fine", IGNORED, field_named("truncate", "shift")),
    Rule("logprobs", "native", "logprobs in answers", "lists them beside the message",
         "lists them, with the same fields, in choices[0].logprobs.content", "read them there", "breaks", ANSWER,
         chats(field_set("logprobs")), answers),
    Rule("debug-render", "native", "_debug_render_only", "tells the prompt and does not answer",
         "ignores it and answers", "send return_prompt_text: true and read prompt_text", "silent",
         "vLLM 0.32 chat_completion/protocol.py, tested", field_set("_debug_render_only"), answers, rare=True),
    *common("native"),
    Rule("max-tokens-large", "native", "options.num_predict above max-model-len", "takes any number",
         "answers 400 to max_tokens above max-model-len", "send less, or nothing", "breaks", LENGTH,
         lambda request, facts: facts.target.max_model_len is not None
         and (number(request.get("num_predict")) or 0) > facts.target.max_model_len, answers,
         detail=context_and_largest("num_predict")),
)  # fmt: skip
