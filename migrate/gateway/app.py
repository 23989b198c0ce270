"""The gateway as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from migrate.gateway import compat, native, wire
from migrate.gateway.backend import Backend
from migrate.gateway.catalog import Catalog, read_catalog
from migrate.gateway.config import Config
from migrate.gateway.endpoint import Endpoint, Ends, ErrorReply, Handler, Keys, Room, Stalled, native_error
from migrate.gateway.guard import Guard, is_loopback
from migrate.gateway.observing import Observer
from migrate.gateway.reply import Outcome, Reply
from migrate.gateway.serving import Serving
from migrate.gateway.upstreams import Upstreams
from migrate.gateway.verify import watch

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

log = logging.getLogger("migrate.gateway")

LOCAL_PAGES = r"(https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?|(app|file|tauri|vscode-webview|vscode-file)://.*)"
"""Web pages that Ollama lets ask without being told to (OLLAMA_ORIGINS)."""


def build(config: Config, *, catalog: Catalog | None = None, workers: int = 1) -> Starlette:
    """Raises UsageError for a key that is not set, and what reading the bundles raises."""
    models = catalog if catalog is not None else read_catalog(config)
    upstreams = Upstreams(config)
    backend = Backend(config, models, upstreams, Serving(config, upstreams))
    running = _running(config)
    observer = Observer(backend, {path: handler for path, (handler, _) in running.items()}, workers=workers)
    stalled = Stalled(config.limits.write_timeout)
    ends = Ends(Keys(config.client_keys), Room(config.limits.max_in_flight), observer, stalled)

    def endpoint(handler: Handler, error: ErrorReply = native_error, *, runs: bool = False) -> Endpoint:
        return Endpoint(backend, handler, ends, error=error, runs=runs)

    async def metrics(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        text, content_type = observer.render_metrics()
        return Reply(200, content_type, text)

    routes = [Route("/", _open(backend, ends, _running_text), methods=["GET"])]
    routes += [Route(path, endpoint(_bodiless(f)), methods=["GET"]) for path, f in _SHOWN.items()]
    routes += [
        Route(path, endpoint(handler, error, runs=True), methods=["POST"]) for path, (handler, error) in running.items()
    ]
    routes += [Route("/api/show", endpoint(native.show), methods=["POST"])]
    routes.append(Route("/v1/models", endpoint(compat.models, compat.openai_error), methods=["GET"]))
    routes.append(Route("/v1/models/{model:path}", _Named(endpoint), methods=["GET"]))
    for verb in native.VERBS:
        method = "DELETE" if verb == "delete" else "POST"
        routes.append(Route(f"/api/{verb}", endpoint(_refusing(verb)), methods=[method]))
    routes.append(Route("/health", _open(backend, ends, _health), methods=["GET"]))
    if config.metrics:
        routes.append(Route("/metrics", endpoint(metrics), methods=["GET"]))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        watching = [asyncio.create_task(watch(backend)), asyncio.create_task(stalled.watch())]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await observer.close()
            await upstreams.close()

    pages = "|".join([LOCAL_PAGES, *(re.escape(o).replace(r"\*", ".*") for o in config.origins)])
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={404: _not_found, 405: _not_allowed},
        middleware=[
            Middleware(Guard, pages=pages, names=is_loopback(config.host) and not config.api_keys_env),
            Middleware(
                CORSMiddleware,
                allow_origin_regex=pages,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"],
                allow_headers=["*"],
            ),
        ],
    )


class _Named:
    """GET /v1/models/{model}: the model is in the path."""

    def __init__(self, endpoint: Callable[[Handler, ErrorReply], Endpoint]) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handler = compat.model(scope["path_params"]["model"])
        await self._endpoint(handler, compat.openai_error)(scope, receive, send)


def _running(config: Config) -> dict[str, tuple[Handler, ErrorReply]]:
    """Routes that run a model: what answers, and how errors are written."""
    own: Mapping[str, Handler] = {
        "/api/chat": native.chat,
        "/api/generate": native.generate,
        "/api/embed": native.embed,
        "/api/embeddings": native.embeddings,
    }
    return {path: (handler, native_error) for path, handler in own.items()} | compat.running(config.openai)


_SHOWN: Mapping[str, Callable[[Backend], Awaitable[Reply]]] = {
    "/api/version": native.version,
    "/api/tags": native.tags,
    "/api/ps": native.ps,
}


def _bodiless(show: Callable[[Backend], Awaitable[Reply]]) -> Handler:
    async def handler(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        return await show(backend)

    return handler


def _refusing(verb: str) -> Handler:
    async def handler(backend: Backend, body: bytes, outcome: Outcome) -> Reply:
        return native.refuse(backend, verb, body)

    return handler


def _open(backend: Backend, ends: Ends, show: Callable[[Backend], Awaitable[Reply]]) -> Endpoint:
    """A route that asks for no key."""
    return Endpoint(backend, _bodiless(show), replace(ends, keys=Keys(frozenset())))


async def _running_text(backend: Backend) -> Reply:
    return Reply(200, wire.TEXT_TYPE, b"Ollama is running")


async def _health(backend: Backend) -> Reply:
    """200 when every vLLM that serves a model answers; load balancers ask this."""
    alive = await backend.alive()
    missing = sorted({model.upstream for model in backend.catalog.models} - alive)
    body = wire.go_json({"status": "unhealthy" if missing else "ok", "missing": missing})
    return Reply(503 if missing else 200, wire.JSON_TYPE, body)


async def _not_found(request: Request, error: Exception) -> Response:
    from starlette.responses import Response

    return Response("404 page not found", status_code=404, headers={"content-type": "text/plain"})


async def _not_allowed(request: Request, error: Exception) -> Response:
    from starlette.responses import Response

    return Response("405 method not allowed", status_code=405, headers={"content-type": "text/plain"})
