"""Does each vLLM serve what the configuration says, with the bundle's tokenizer? Asked at the start, and ever again.

A server that is not up yet is no error. One that serves something else is: at the start the gateway refuses to run, and
later the model is answered with 503 until the server is the right one again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from migrate.gateway.types import ApiError
from migrate.gateway.upstreams import NotServed

if TYPE_CHECKING:
    from migrate.gateway.backend import Backend
    from migrate.gateway.catalog import ServedModel
    from migrate.gateway.upstreams import Server

log = logging.getLogger("migrate.gateway")

EVERY_S = 10.0
ANSWER_S = 5.0
"""A server that takes longer to cut one line into tokens is asked again the next time."""
PROBE = "What is 3+4? Ünïcödé 😀\n\ttab <|im_start|> </s> 12345"


async def verify(backend: Backend) -> dict[str, str]:
    """Models whose server is the wrong one -> why."""
    models = backend.catalog.models
    asked = [(model, server) for model in models for server in backend.upstreams.pools[model.upstream].servers]
    found = await asyncio.gather(*(_wrong(backend, model, server) for model, server in asked))
    return {model.name.key: why for (model, _), why in zip(asked, found, strict=True) if why}


async def watch(backend: Backend) -> None:
    """Keeps `backend.wrong` true until it is cancelled."""
    while True:
        found = await verify(backend)
        for key, why in found.items():
            if key not in backend.wrong:
                log.error("%s", why)
        backend.wrong = found
        await asyncio.sleep(EVERY_S)


async def _wrong(backend: Backend, model: ServedModel, server: Server) -> str:
    """Why a server is not this model's; "" when it is, or cannot be asked now."""
    here = f"{model.name.short}: upstream {model.upstream} ({server.url})"
    body = {"model": model.served_name, "prompt": PROBE, "add_special_tokens": False}
    try:
        answer = await backend.upstreams.call(model.upstream, "/tokenize", body, silence=ANSWER_S, only=server)
    except ApiError as error:
        if isinstance(error, NotServed):
            return f"{here} does not serve it: {error.message}"
        log.debug("%s: %s", here, error.message)
        return ""
    if not isinstance(answer, dict) or answer.get("tokens") != model.tokens.encode(PROBE):
        return f"{here} cuts text into other tokens than {model.bundle}: it serves another bundle"
    length = answer.get("max_model_len")
    if isinstance(length, int) and length < model.max_model_len:
        return f"{here} was started with {length} tokens of context, {model.bundle} has {model.max_model_len}"
    return ""
