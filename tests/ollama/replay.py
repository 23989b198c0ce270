"""A server that answers as a real Ollama did: the recordings, over real HTTP.

A request matches a recording of the same method, path and body. Bodies are compared as JSON without regard to order and
without what only spells out a default (`stream`, the tag `latest`). What was never recorded is answered with 501 and
says so.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_DEFAULTS: dict[str, Any] = {"stream": True, "tools": [], "verbose": False, "options": {}, "raw": False, "format": ""}


def recordings(*paths: Path) -> list[dict[str, Any]]:
    """Rows `name`, `request{method, path, body}`, `response{status, content_type, body}`."""
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def _key(method: str, path: str, body: Any) -> str:
    if isinstance(body, dict):
        streams_by_default = not path.startswith("/v1/")
        defaults = _DEFAULTS | {"stream": streams_by_default}
        body = {k: v for k, v in body.items() if v is not None and not (k in defaults and v == defaults[k])}
        if isinstance(body.get("model"), str):
            body["model"] = body["model"].removesuffix(":latest")
    return json.dumps([method, path, body or None], sort_keys=True)


@contextmanager
def replay(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Runs the server; gives its base URL. Of equal requests the last recording answers."""
    answers = {_key(r["request"]["method"], r["request"]["path"], r["request"]["body"]): r["response"] for r in rows}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # 40 ms less per request

        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            try:
                body = json.loads(data) if data else None
            except ValueError:
                body = data.decode("utf-8", "replace")
            found = answers.get(_key(self.command, self.path, body))
            if found is None:
                error = f"not recorded: {self.command} {self.path} {json.dumps(body)[:500]}"
                found = {"status": 501, "content_type": "application/json", "body": json.dumps({"error": error})}
            reply = found["body"].encode("utf-8")
            self.send_response(found["status"])
            self.send_header("content-type", found["content_type"])
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as url:
        yield url


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Runs a handler on a free port of 127.0.0.1; gives the base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
