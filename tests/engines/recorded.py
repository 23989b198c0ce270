"""Recordings of a real Ollama, served again over HTTP: the same bytes for the same question."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Recording = Mapping[str, Any]


def read_recordings(path: Path) -> dict[str, Recording]:
    """name -> {name, request, response}."""
    with path.open(encoding="utf-8") as lines:
        return {entry["name"]: entry for entry in map(json.loads, lines)}


def _key(method: str, path: str, body: Any) -> str:
    """What makes two questions the same: everything that reaches the model, not the spelling of neutral options."""
    if not isinstance(body, dict):
        return f"{method} {path} {body!r}"
    fields = ("model", "messages", "prompt", "tools", "format", "think", "_debug_render_only", "stream", "top_logprobs")
    limit = (body.get("options") or {}).get("num_predict")
    return f"{method} {path} {json.dumps([[body.get(f) for f in fields], limit])}"


@contextmanager
def serve_recordings(recordings: Mapping[str, Recording]) -> Iterator[str]:
    """Address of a server that answers what was recorded, and 501 to everything else."""
    answers: dict[str, Mapping[str, Any]] = {}
    for entry in recordings.values():
        request = entry["request"]
        answers.setdefault(_key(request["method"], request["path"], request["body"]), entry["response"])

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            found = answers.get(_key(self.command, self.path, body))
            if found is None:
                found = {"status": 501, "content_type": "application/json", "body": '{"error":"never recorded"}'}
            content = found["body"].encode()
            self.send_response(found["status"])
            self.send_header("Content-Type", found["content_type"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
