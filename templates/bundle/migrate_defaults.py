"""Adds what the Modelfile says to requests that do not say it themselves: stop strings, a seed and, where several
models share the server, each one's own template and parameters by the name in `model`.

vLLM has no server-side default for them. This is the whole of its ASGI middleware: it reads the body of the routes that
make prompts, fills in what is missing from request_defaults.json beside it, and passes everything else through.

    vllm serve ... --middleware migrate_defaults.RequestDefaults      (with PYTHONPATH=. in this directory)
"""

import json
from pathlib import Path

DEFAULTS = json.loads((Path(__file__).parent / "request_defaults.json").read_text(encoding="utf-8"))
VARIANTS = DEFAULTS.get("variants")
"""Served name -> its defaults; None where the server has one model."""
KWARG = "migrate_variant"
ROUTES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
}
ROUTES_BY_NAME = ROUTES | {
    "/v1/chat/completions/batch": "chat",
    "/v1/chat/completions/render": "chat",
    "/v1/completions/render": "completion",
    "/v1/responses": "responses",
    "/v1/responses/render": "responses",
    "/v1/messages": "messages",
    "/v1/messages/render": "messages",
    "/v1/messages/count_tokens": "prompt",
    "/tokenize": "prompt",
    "/invocations": "unknown",
    "/cohere/v2/chat": "unknown",
    "/cohere/v2/chat/render": "unknown",
    "/v1/systemone": "unknown",
    "/generative_scoring": "unknown",
}
FIELDS = {
    "chat": {},
    "completion": {"chat_template_kwargs": None, "max_tokens": None},
    "responses": {"max_tokens": "max_output_tokens"},
    "messages": {
        "stop": "stop_sequences",
        "max_tokens": None,
        "seed": None,
        "stop_token_ids": None,
        "min_p": None,
        "repetition_penalty": None,
        "presence_penalty": None,
        "frequency_penalty": None,
    },
}
"""What a route calls a field otherwise; None: it has no such field."""
MERGED = ("chat_template_kwargs", "stop_token_ids", "vllm_xargs")
"""Fields that hold what the request says and what the model does."""


class Refusal(Exception):
    """What is answered with 400."""


class RequestDefaults:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        kind = route(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if kind is None:
            await self.app(scope, receive, send)
            return
        body, disconnected = await read_body(receive)
        if disconnected:
            return
        try:
            body = with_defaults(body, kind)
        except Refusal as refusal:
            await answer_400(send, str(refusal), kind)
            return
        headers = [(k, v) for k, v in scope["headers"] if k.lower() not in (b"content-length", b"transfer-encoding")]
        headers.append((b"content-length", str(len(body)).encode()))
        sent = False

        async def replay():
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app({**scope, "headers": headers}, replay, send)


def route(path):
    """What kind of request a path takes; None for those that are none of ours."""
    path = path.rstrip("/")
    routes = ROUTES if VARIANTS is None else ROUTES_BY_NAME
    return next((kind for end, kind in routes.items() if path.endswith(end)), None)


async def read_body(receive):
    """The whole body, and whether the client left before it was complete."""
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"", True
        chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(chunks), False


async def answer_400(send, message, kind):
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    content = {"error": error}
    if kind in ("messages", "prompt"):
        content = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def with_defaults(body, kind):
    """The body with the defaults filled in; unchanged when it is no JSON object, which vLLM then explains."""
    try:
        request = json.loads(body)
    except ValueError:
        return body
    if not isinstance(request, dict):
        return body
    missing = plain(request) if VARIANTS is None else by_name(request, kind)
    return json.dumps(request | missing).encode() if missing else body


def plain(request):
    """What one model's request lacks."""
    missing = {key: value for key, value in DEFAULTS.items() if key not in MERGED and request.get(key) is None}
    return missing | arguments(request, DEFAULTS)


def by_name(request, kind):
    """What the request of one of several models lacks or must not say itself. An unknown name is vLLM's to refuse."""
    name = request.get("model") or DEFAULTS["default"]
    own = VARIANTS.get(name) if isinstance(name, str) else None
    if own is None:
        return {}
    if kind == "unknown":
        if own != VARIANTS[DEFAULTS["default"]]:
            raise Refusal(f"{name}: this route cannot be told which model's prompt to make; use /v1/chat/completions")
        return {}
    if kind == "prompt":
        return kwargs(request, own) if "messages" in request else {}
    refuse_tools(request, name)
    fields = FIELDS[kind]
    missing = {}
    for key, value in own.items():
        field = fields.get(key, key)
        if field is not None and key not in MERGED and request.get(field) is None:
            missing[field] = value
    if request.get("max_completion_tokens") is not None:
        missing.pop("max_tokens", None)
    missing |= arguments(request, own)
    if "chat_template_kwargs" not in fields:
        missing |= kwargs(request, own)
    if "stop_token_ids" not in fields:
        missing |= end_tokens(request, own)
    return missing


def arguments(request, own):
    """Penalties for ollama_penalties.py; one that the request asks of vLLM itself is not there twice."""
    given = request.get("vllm_xargs") or {}
    if not own.get("vllm_xargs") or not isinstance(given, dict):
        return {}
    other = {"repeat_penalty": "repetition_penalty"}
    kept = {key: value for key, value in own["vllm_xargs"].items() if request.get(other.get(key, key)) is None}
    return {"vllm_xargs": kept | given}


def kwargs(request, own):
    """The request's own kwargs with the one that chooses the template, which is not the client's to choose."""
    given = request.get("chat_template_kwargs") or {}
    if not isinstance(given, dict):
        return {}  # vLLM explains
    given = {key: value for key, value in given.items() if key != KWARG} | own.get("chat_template_kwargs", {})
    return {"chat_template_kwargs": given} if given or request.get("chat_template_kwargs") else {}


def end_tokens(request, own):
    """Tokens that end this model's answers beside those that end all; the request's own are added to them."""
    given = request.get("stop_token_ids") or []
    if not own.get("stop_token_ids") or not isinstance(given, list) or request.get("ignore_eos"):
        return {}
    return {"stop_token_ids": list(dict.fromkeys([*given, *own["stop_token_ids"]]))}


def refuse_tools(request, name):
    """As vLLM does on a server without a tool parser, which this model would have alone."""
    choice = request.get("tool_choice") or "auto"
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if name in DEFAULTS["without_tools"] and request.get("tools") and kind == "auto":
        raise Refusal(f"{name} does not support tools")
