"""`migrate gateway serve`: the application on uvicorn, in one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrate.errors import Interrupted, MissingExtra, Refused, UsageError
from migrate.gateway.config import Config, load

if TYPE_CHECKING:
    from starlette.applications import Starlette

CONFIG = "MIGRATE_GATEWAY_CONFIG"
WORKERS = "MIGRATE_GATEWAY_WORKERS"
LOG_JSON = "MIGRATE_GATEWAY_LOG_JSON"
GRACE_S = 30
"""How long answers under way may take to end when the gateway is told to stop."""
KEEP_S = 75
"""How long a connection may say nothing, before its first request and after each: more than nginx keeps one (60 s)."""
MAX_WORKERS = 64

log = logging.getLogger("migrate.gateway")


def serve(path: Path, *, workers: int = 1, on_start: Callable[[str], None] = lambda address: None) -> None:
    """Serves until Ctrl-C or TERM; answers under way are finished first.

    Raises what reading the configuration and its bundles raises, Refused for a server that serves something else,
    UsageError for an address that cannot be used, MissingExtra.
    """
    uvicorn = _uvicorn()
    config = load(path)
    if not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"--workers {workers}: 1 to {MAX_WORKERS}")
    check(config)
    sockets = [_bound(config)]
    on_start(f"http://{config.listen}")
    settings: dict[str, Any] = {
        "http": "migrate.gateway.protocol:Protocol",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": GRACE_S,
        "timeout_keep_alive": KEEP_S,
        "backlog": 2048,
        "ws": "none",
        "lifespan": "on",
        "proxy_headers": False,
    }
    with contextlib.closing(sockets[0]):
        if workers == 1:
            from migrate.gateway.app import build

            server = uvicorn.Server(uvicorn.Config(build(config), **settings))
            with contextlib.suppress(
                Interrupted, KeyboardInterrupt
            ):  # uvicorn hands the signal on when all is answered
                server.run(sockets=sockets)
            if not server.started:
                raise Refused("the gateway did not start", hint="the log above says why")
            return
        with tempfile.TemporaryDirectory(prefix="migrate-gateway-") as metrics:
            os.environ |= {CONFIG: str(path), WORKERS: str(workers), "PROMETHEUS_MULTIPROC_DIR": metrics}
            with contextlib.suppress(Interrupted, KeyboardInterrupt):
                uvicorn.run(
                    "migrate.gateway.server:worker", factory=True, workers=workers, fd=sockets[0].fileno(), **settings
                )


def worker() -> Starlette:
    """The application of one of several processes, from the environment that `serve` set."""
    from migrate.gateway.app import build

    logs(debug=os.environ.get("MIGRATE_DEBUG", "") not in ("", "0"), as_json=LOG_JSON in os.environ)
    return build(load(Path(os.environ[CONFIG])), workers=int(os.environ[WORKERS]))


def check(config: Config) -> None:
    """Reads the bundles and the state, and asks the servers that are up. Raises Refused for one that serves something
    else, BadInput for a damaged state."""
    from migrate.gateway.backend import Backend
    from migrate.gateway.catalog import read_catalog
    from migrate.gateway.serving import Serving
    from migrate.gateway.state import StateFile
    from migrate.gateway.upstreams import Upstreams
    from migrate.gateway.verify import verify

    catalog = read_catalog(config)
    _ = config.client_keys
    StateFile(config.state_path).read()
    kept_in = config.state_path.parent
    if any(model.source for model in config.models) and not os.access(kept_in, os.W_OK):
        log.warning("%s cannot be written: an automatic return is forgotten when the gateway ends", kept_in)

    async def ask() -> None:
        upstreams = Upstreams(config)
        backend = Backend(config, catalog, upstreams, Serving(config, upstreams))
        try:
            if wrong := await verify(backend):
                raise Refused(
                    "; ".join(wrong.values()), hint="start the bundle that is configured, or correct the configuration"
                )
            alive = await backend.alive()
            for name in sorted({model.upstream for model in catalog.models} - alive):
                log.warning("upstream %s is not there yet: its models are answered with 503 until it is", name)
        finally:
            await upstreams.close()

    asyncio.run(ask())


def logs(*, debug: bool = False, as_json: bool = False) -> None:
    """Log lines on stderr, uvicorn's warnings among them; `as_json`: one object a line, in the workers as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("migrate.gateway")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    root.propagate = False
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.handlers[:] = [handler]
    uvicorn.setLevel(logging.WARNING)
    uvicorn.propagate = False
    if as_json:
        os.environ[LOG_JSON] = "1"
    else:
        os.environ.pop(LOG_JSON, None)


class _Json(logging.Formatter):
    """time, level, message; the access log's fields on their own."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        line: dict[str, Any] = {"time": self.formatTime(record), "level": record.levelname.lower()}
        request = getattr(record, "request", None)
        line |= request if isinstance(request, dict) else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _bound(config: Config) -> Any:
    import socket

    made = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # what a cut-off client has not read would keep its connection for ever; accepted sockets inherit this
            # (tcp(7)). Twice the limit, so that the gateway cuts off first, which tells.
            unread_ms = int(2000 * config.limits.write_timeout)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        made.bind(address)
    except OSError as error:
        if made is not None:
            made.close()
        taken = error.errno == errno.EADDRINUSE
        raise UsageError(
            f"cannot listen at {config.listen}: {error.strerror or error}",
            hint="is Ollama still there? give it another OLLAMA_HOST, or choose another `listen:`"
            if taken
            else "choose another `listen:`",
        ) from None
    made.listen(2048)
    made.setblocking(False)
    made.set_inheritable(True)
    return made


def _uvicorn() -> Any:
    """uvicorn, once all that the gateway needs is known to be there. Raises MissingExtra."""
    import importlib

    for name in ("uvicorn", "httptools", "starlette", "aiohttp"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise MissingExtra(
                f"the gateway needs {name}, which is not installed", hint="pip install 'ollama-to-vllm[gateway]'"
            ) from None
    return importlib.import_module("uvicorn")
