"""/api/embed and /api/embeddings over vLLM's /v1/embeddings (EmbedHandler and EmbeddingsHandler of Ollama 0.33)."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from migrate.gateway.catalog import Catalog, ServedModel
from migrate.gateway.decode import check_options
from migrate.gateway.types import ApiError, EmbedRequest, Metrics
from migrate.gateway.upstreams import BROKEN, UpstreamError, Upstreams
from migrate.gotemplate.strconv import quote
from migrate.ollama.names import ModelName, split_source

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vector = npt.NDArray[np.float32]

UNSUPPORTED = "This server does not support embeddings. Start it with `--embeddings`"
"""llama-server's words, status 501, for a model without a pooling type."""
MAX_INPUTS = 8192


@dataclass(frozen=True, slots=True)
class Embedded:
    """float32 vectors, shape [dimensions] each, in the order of the inputs."""

    vectors: list[Vector]
    metrics: Metrics


def require(catalog: Catalog, name: str, *, empty: ApiError | None = None) -> ServedModel:
    """Raises ApiError 404 in the words these routes have for it, or `empty` for a name that is none."""
    found = catalog.find(name)
    if found is None and ModelName.valid(split_source(name)[0]):
        raise ApiError(404, f"model {quote(name)} not found, try pulling it first")
    return found or catalog.require(name, empty=empty)


async def embed(model: ServedModel, request: EmbedRequest, upstreams: Upstreams) -> Embedded:
    """Vectors of length 1, cut to `dimensions` and scaled again. Raises ApiError."""
    started = time.perf_counter_ns()
    options, _ = check_options(request.options)
    if not request.input:
        return Embedded([], Metrics())
    _check(model, len(request.input))
    num_ctx = _context(model, options)
    texts = [await _fitting(model, text, num_ctx, truncate=request.truncate) for text in request.input]
    sent = time.perf_counter_ns()
    vectors, tokens = await _vectors(model, texts, upstreams)
    cut = [normalized(v, request.dimensions) for v in vectors]
    return Embedded(cut, Metrics(time.perf_counter_ns() - started, max(sent - started, 1), tokens))


async def embeddings(model: ServedModel, request: EmbedRequest, upstreams: Upstreams) -> Vector | None:
    """The vector as the server makes it, for the older route; None without a prompt, which only loads the model.

    Raises ApiError; this route has 500 for whatever the server says.
    """
    check_options(request.options)
    if not request.input:
        return None
    if "embedding" not in model.capabilities:
        raise ApiError(500, UNSUPPORTED)
    vectors, _ = await _vectors(model, list(request.input), upstreams)
    return vectors[0]


def _check(model: ServedModel, inputs: int) -> None:
    if "embedding" not in model.capabilities:
        raise ApiError(501, UNSUPPORTED)
    if inputs > MAX_INPUTS:
        raise ApiError(400, f"{inputs} inputs: send {MAX_INPUTS} at most in one request")


def _context(model: ServedModel, options: Mapping[str, Any]) -> int:
    asked = options.get("num_ctx")
    return min(int(asked), model.num_ctx) if isinstance(asked, int) and asked > 0 else model.num_ctx


async def _fitting(model: ServedModel, text: str, num_ctx: int, *, truncate: bool) -> str:
    """The text, or what of it fits together with the tokens that go around it."""
    if len(text.encode()) + model.tokens.around() <= num_ctx:
        return text
    ids = await model.tokens.encode_beside(text)
    limit = num_ctx - model.tokens.around()
    if limit <= 0:
        raise ApiError(400, "input after truncation exceeds maximum context length")
    if len(ids) <= limit:
        return text
    if not truncate:
        raise ApiError(400, "the input length exceeds the context length")
    return model.tokens.decode(ids[:limit])


async def _vectors(model: ServedModel, texts: list[str], upstreams: Upstreams) -> tuple[list[Vector], int]:
    import numpy as np

    body = {"model": model.served_name, "input": texts, "encoding_format": "base64"}
    answer = await upstreams.call(model.upstream, "/v1/embeddings", body)
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
        tokens = int(answer["usage"]["prompt_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise UpstreamError(500, BROKEN.format(detail=f"the vectors are not vLLM's: {error!r}")) from None
    if len(vectors) != len(texts):
        raise UpstreamError(500, BROKEN.format(detail=f"{len(vectors)} vectors for {len(texts)} texts"))
    return vectors, tokens


def normalized(vector: Vector, dimensions: int = 0) -> Vector:
    """Scaled to length 1; the first `dimensions` of it, scaled again, where that is fewer. Raises ApiError 400."""
    import numpy as np

    if dimensions and dimensions < len(vector):
        vector = vector[:dimensions]
    length = float(np.sqrt(np.sum(np.square(vector, dtype=np.float64))))
    if not np.isfinite(length):
        raise ApiError(400, "embedding contains NaN or Inf values")
    return (vector / max(length, 1e-12)).astype(np.float32)


async def as_json(vectors: list[Vector]) -> list[bytes]:
    """Each vector as JSON: nine digits tell a float32. Off the event loop when there are many."""
    if sum(len(v) for v in vectors) > 20_000:
        return await asyncio.to_thread(lambda: [_json(v) for v in vectors])
    return [_json(v) for v in vectors]


def _json(vector: Vector) -> bytes:
    return ("[" + ",".join([f"{x:.9g}" for x in vector.tolist()]) + "]").encode()
