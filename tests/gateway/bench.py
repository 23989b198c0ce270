"""The gateway in this process, over a server that says what a real vLLM said (fixtures/gateway/vllm-replies.jsonl).

The recorded vLLM answers a request only if it is, field by field, the one that was recorded: so a test that gets an
answer has proved what the gateway asks, too. How the recordings were made is in fixtures/gateway/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

import httpx

from migrate.bundle import write
from migrate.bundle.format import Source
from migrate.cli import sets
from migrate.gateway.app import build
from migrate.gateway.catalog import Catalog, read_catalog
from migrate.gateway.config import Config
from migrate.mapping.migration import Choices, plan
from migrate.ollama.store import Store
from tests.conftest import REPO
from tests.ollama.replay import serving

FIXTURES = REPO / "fixtures" / "gateway"
NOWHERE = "http://127.0.0.1:9"
"""An upstream that no test asks, or that is down: port 9 is discard."""

Row = dict[str, Any]
T = TypeVar("T")


def run(task: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(task)


def converted(store: Path, output: Path) -> Path:
    """The bundles of every model of a store that can be converted at float32, below one directory."""

    @contextlib.contextmanager
    def quiet(label: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None

    found = sets.find([], lambda name: Choices(dtype="float32"), every=True, models_dir=store, host=None)
    sets.write_groups(found, output, every=True, force=False, progress=quiet)
    return output


def alone(store: Path, output: Path, *names: str) -> Path:
    """A bundle each, as the recorded vLLMs served them: in a set, requests name the variant."""
    output.mkdir()
    for name in names:
        write.write(plan(Store(store).load(name), Choices(dtype="float32")), output / name)
    return output


def config(bundles: Path, url: str = NOWHERE, *, only: Sequence[str] = (), **more: Any) -> Config:
    """A configuration of all bundles below a directory, or of `only` those models, each behind `url`.

    `more` are keys of the file; `source` is the address of an Ollama that has the models as well.
    """
    upstreams: dict[str, Any] = {"vllm": {"url": url}, **more.pop("upstreams", {})}
    source = more.pop("source", None)
    if source:
        upstreams["ollama"] = {"kind": "ollama", "url": source}
    models: list[dict[str, Any]] = []
    for manifest in sorted(bundles.rglob("migration.json")):
        content = json.loads(manifest.read_text())
        names = [v["name"] for v in content.get("variants") or []] or [content["source"]["name"].split(":")[0]]
        kept = [name for name in names if not only or name in only]
        if kept:
            entry: dict[str, Any] = {"bundle": str(manifest.parent), "upstream": "vllm", "names": kept}
            models.append(entry | ({"source": "ollama"} if source else {}))
    content = {"upstreams": upstreams, "models": models, "metrics": False, **more}
    return Config.model_validate(content)


def catalog(bundles: Path, **more: Any) -> Catalog:
    return read_catalog(config(bundles, **more))


def source(**facts: Any) -> Source:
    """A model as a bundle describes it, with a Go TEMPLATE unless `facts` say otherwise."""
    plain: dict[str, Any] = {
        "name": "m",
        "kind": "store",
        "architecture": "llama",
        "quantization": "F16",
        "parameter_count": 1,
        "digests": {},
        "prompt_path": "go_template",
        "prompt_path_reason": "",
        "template": "{{ .Prompt }}",
        "chat_template": None,
        "system": None,
        "messages": [],
        "parameters": [],
        "adds_bos": False,
        "ollama_version": "0.33",
    }
    return Source.model_validate(plain | facts)


_CATALOGS: dict[str, Catalog] = {}


def _read(configuration: Config) -> Catalog:
    """Bundles are read once, not for each request of a test."""
    key = repr((configuration.models, configuration.tools, configuration.keep_penalty, configuration.root))
    if key not in _CATALOGS:
        _CATALOGS[key] = read_catalog(configuration)
    return _CATALOGS[key]


# ---- the gateway -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def gateway(configuration: Config) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application itself: answers come whole, nothing goes over a socket."""
    app = build(configuration, catalog=_read(configuration))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        yield client


def ask(configuration: Config, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
    """One request. `body`: JSON, or bytes as they are."""

    async def asked() -> httpx.Response:
        async with gateway(configuration) as client:
            if isinstance(body, bytes | str):
                return await client.request(method, path, content=body, **more)
            return await client.request(method, path, json=body, **more)

    return run(asked())


@contextlib.contextmanager
def listening(configuration: Config) -> Iterator[str]:
    """The gateway on a free port, by uvicorn as `migrate gateway serve` runs it."""
    import uvicorn

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "ws": "none", "timeout_graceful_shutdown": 2}
    app = build(configuration, catalog=_read(configuration))
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="on", **settings))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the gateway ended"
            assert time.monotonic() < deadline, "the gateway did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the gateway did not stop"


# ---- the recorded vLLM -----------------------------------------------------------------------------------------------


def recorded(*names: str) -> list[Row]:
    """Rows `name`, `path`, `body`, `status`, `content_type`, `reply`; all of them when none is named."""
    rows = [json.loads(line) for line in (FIXTURES / "vllm-replies.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if not names or row["name"] in names]


def events(name: str) -> list[dict[str, Any]]:
    """The events of a recorded stream, without `[DONE]`."""
    (row,) = (row for row in recorded(name) if row["content_type"].startswith("text/event-stream"))
    lines = [line[5:].strip() for line in row["reply"].split("\n") if line.startswith("data:")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@dataclass
class Vllm:
    """`asked`: (path, body) of every request. `fault` says what goes wrong with answers under /v1: "" nothing, "closed"
    no byte comes, "status" 500, "cut" the connection breaks after six events, "silent" nothing comes after that,
    "slow" every event waits 50 ms. `left` is set when a client goes away before the end."""

    url: str = ""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    fault: str = ""
    left: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def vllm(*names: str) -> Iterator[Vllm]:
    """Runs it with the recordings of these names, or all."""
    known = {key(row["path"], row["body"]): row for row in [*recorded(*names), *recorded("verify")]}
    state = Vllm()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(data) if data else None
            state.asked.append((self.path, body))
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.path.startswith("/v1/") and state.fault in ("closed", "status"):
                if state.fault == "status":
                    self._send(500, "application/json", b'{"error": {"message": "the engine is dead"}}')
                self.close_connection = True
                return
            row = known.get(key(self.path, body))
            if self.path == "/health":
                self._send(200, "text/plain", b"")
            elif row is None:
                error = {"error": {"message": f"not recorded: {self.path} {json.dumps(body)[:2000]}"}}
                self._send(501, "application/json", json.dumps(error).encode())
            elif row["content_type"].startswith("text/event-stream"):
                self._stream(row["reply"].encode())
            else:
                self._send(row["status"], row["content_type"], row["reply"].encode())

        def _send(self, status: int, content_type: str, body: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # a gateway that ends asks no more
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def _stream(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream; charset=utf-8")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                for number, event in enumerate(part + b"\n\n" for part in body.split(b"\n\n") if part):
                    if number == 6 and state.fault == "cut":
                        self.close_connection = True
                        return
                    if number == 6 and state.fault == "silent":
                        time.sleep(5)
                    if state.fault == "slow":
                        time.sleep(0.05)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True
                state.left.set()

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as url:
        state.url = url
        yield state


def key(path: str, body: Any) -> str:
    return json.dumps([path, body], sort_keys=True)


def lines(response: httpx.Response) -> list[Mapping[str, Any]]:
    """The JSON objects of an NDJSON answer."""
    return [json.loads(line) for line in response.text.splitlines()]
