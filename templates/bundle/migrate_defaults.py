"""Adds the Modelfile's stop strings and seed to requests that bring none of their own.

vLLM has no server-side default for either. This is the whole of its ASGI middleware: it reads the body of the
completion routes, fills in what is missing from request_defaults.json beside it, and passes everything else through.

    vllm serve ... --middleware migrate_defaults.RequestDefaults      (with PYTHONPATH=. in this directory)
"""

import json
from pathlib import Path

DEFAULTS = json.loads((Path(__file__).parent / "request_defaults.json").read_text(encoding="utf-8"))
ROUTES = ("/v1/chat/completions", "/v1/completions")


class RequestDefaults:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith(ROUTES):
            await self.app(scope, receive, send)
            return
        body, disconnected = await read_body(receive)
        if disconnected:
            return
        body = with_defaults(body)
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


def with_defaults(body):
    """The body with the defaults filled in; unchanged when it is no JSON object, which vLLM then explains."""
    try:
        request = json.loads(body)
    except ValueError:
        return body
    if not isinstance(request, dict):
        return body
    missing = {key: value for key, value in DEFAULTS.items() if request.get(key) is None}
    return json.dumps(request | missing).encode() if missing else body
