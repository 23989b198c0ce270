"""Records what a real vLLM answers to what the gateway asks: fixtures/gateway/vllm-replies.jsonl.

    python -m tests.gateway.record BUNDLE http://127.0.0.1:8000 NAME...

BUNDLE is what that vLLM serves. NAMEs are those of recorded requests to a real Ollama (shared data), of
fixtures/gateway/vllm-requests.json, of FORCED below, or `verify`. Rows of the same names are replaced.
"""

from __future__ import annotations

import contextlib
import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx

from migrate.gateway import conversations
from migrate.gateway.catalog import read_catalog
from migrate.gateway.config import Config
from migrate.gateway.sampling import sampling
from migrate.gateway.verify import PROBE
from tests.conftest import SHARED
from tests.gateway import bench
from tests.ollama.replay import recordings, serving

_CITY = {"type": "string"}
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {"city": _CITY, "days": {"type": "integer"}},
            },
        },
    }
]
_CALL = "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
_OTHER = _CALL.replace("Oslo\n</parameter>", "Tromsø\n</parameter>\n<parameter=days>\n3\n</parameter>")
_THOUGHT = "<think>\nThe user asks for 3+4.\n</think>\n\n3+4 is 7."
_TAGS = {"734": 100, "735": 100, "736": 100, "737": 100}
"""Tokens of the tags, made likely: a grammar leaves open how its text is cut into tokens."""

FORCED: dict[str, tuple[str, bool, bool, dict[str, Any]]] = {
    "chat-tool-call": (_CALL, False, True, {}),
    "chat-two-tool-calls": (f"{_CALL}\n{_OTHER}", False, True, {}),
    "chat-text-and-tool-call": (f"I will look.\n{_CALL}", False, True, {}),
    "chat-thinking": (_THOUGHT, True, False, {}),
    "chat-thinking-logprobs": (_THOUGHT, True, False, {"top": 2}),
    "chat-thinking-tool-call": (f"<think>\nI need a tool.\n</think>\n{_CALL}", True, True, {}),
    "chat-thinking-cut": (_THOUGHT, True, False, {"num_predict": 8}),
    "chat-plain": ("", False, True, {"num_predict": 12}),
}
"""name -> the text that vLLM is made to write ("": what it likes), think, whether tools are offered, and more.

The parsers that read these texts, and the events, are vLLM's own. Of the bundle of renderer-bot, started with
`--reasoning-parser qwen3 --structured-outputs-config '{"enable_in_reasoning": true}'`, and with "special": false at the
four tags in its tokenizer.json, as Qwen's own tokenizers have them.
"""


def forced(config: Config, name: str) -> dict[str, Any]:
    """What vLLM is asked for one of FORCED."""
    (model,) = read_catalog(config).models
    text, think, tools, more = FORCED[name]
    options = {"temperature": 0, **{key: value for key, value in more.items() if key == "num_predict"}}
    user = [{"role": "user", "content": "What is the weather in Oslo?"}]
    body = conversations.body(
        model, user, _TOOLS if tools else (), sampling(model, options), None, think, more.get("top"), prompt_tokens=100
    )
    return {**body, **({"structured_outputs": {"choice": [text]}, "logit_bias": _TAGS} if text else {})}


def main(bundle: Path, target: str, names: list[str]) -> None:
    found: dict[str, dict[str, Any]] = {}
    name = ""

    def keep(path: str, body: Any, answer: httpx.Response) -> None:
        found[bench.key(path, body)] = {
            "name": name,
            "path": path,
            "body": body,
            "status": answer.status_code,
            "content_type": answer.headers["content-type"],
            "reply": answer.text,
        }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer = httpx.post(target + self.path, json=body, timeout=300)
            if self.path != "/tokenize":
                keep(self.path, body, answer)
            with contextlib.suppress(ConnectionError):  # the gateway ends while it asks whether vLLM is the right one
                self.send_response(answer.status_code)
                self.send_header("content-type", answer.headers["content-type"])
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    asked = {row["name"]: row["request"] for row in recordings(*sorted((SHARED / "ollama").rglob("recordings.jsonl")))}
    asked |= json.loads((bench.FIXTURES / "vllm-requests.json").read_text(encoding="utf-8"))
    with serving(Handler) as url:
        config = bench.config(bundle, url)
        for name in names:
            if name == "verify":
                for model in ("support-bot", "nope"):
                    body = {"model": model, "prompt": PROBE, "add_special_tokens": False}
                    keep("/tokenize", body, httpx.post(f"{target}/tokenize", json=body))
            elif name in FORCED:
                body = forced(config, name)
                keep("/v1/chat/completions", body, httpx.post(f"{target}/v1/chat/completions", json=body, timeout=300))
            else:
                request = asked[name]
                answer = bench.ask(config, request["method"], request["path"], request["body"])
                print(name, answer.status_code)
    rows = [row for row in bench.recorded() if row["name"] not in names] + list(found.values())
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (bench.FIXTURES / "vllm-replies.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].rstrip("/"), sys.argv[3:])
