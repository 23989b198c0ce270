"""Vectors as JSON, normalised and cut; texts cut as Ollama cuts them; refusals in its words."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from migrate.gateway import embedding
from migrate.gateway.embedding import as_json, normalized
from migrate.gateway.types import ApiError, EmbedRequest
from migrate.gateway.upstreams import UpstreamError, Upstreams
from tests.gateway import bench
from tests.ollama.replay import recordings, serving

FINITE = arrays.arrays(
    np.float32, st.integers(1, 40), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@pytest.fixture
def rows(shared: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in recordings(shared / "ollama" / "modern" / "recordings.jsonl")}


# ---- numbers ---------------------------------------------------------------------------------------------------------


@given(FINITE)
def test_every_float32_comes_back_from_its_json(vector: Any) -> None:
    (text,) = bench.run(as_json([vector]))

    assert np.array_equal(np.array(json.loads(text), dtype=np.float32), vector)


def test_many_vectors_are_written_beside_the_event_loop() -> None:
    vectors = [np.full(1024, 0.1, dtype=np.float32) for _ in range(40)]

    assert bench.run(as_json(vectors)) == [b"[" + b",".join([b"0.100000001"] * 1024) + b"]"] * 40


@given(FINITE, st.integers(0, 50))
def test_vectors_have_length_one(vector: Any, dimensions: int) -> None:
    made = normalized(vector, dimensions)

    assert made.dtype == np.float32
    assert len(made) == (min(dimensions, len(vector)) or len(vector))
    length = float(np.sqrt(np.sum(np.square(made, dtype=np.float64))))
    assert length == pytest.approx(1, abs=1e-5) or float(np.max(np.abs(vector[: len(made)]))) < 1e-12


def test_recorded_vectors_are_their_own_normalisation(rows: dict[str, dict[str, Any]]) -> None:
    """Ollama's /api/embed of the same text, whole and with 16 dimensions."""
    whole, cut = (
        np.array(json.loads(rows[name]["response"]["body"])["embeddings"][0], dtype=np.float32)
        for name in ("embed/one", "embed/dimensions")
    )

    assert normalized(whole) == pytest.approx(whole, abs=1e-7)
    assert normalized(whole, 16) == pytest.approx(cut, abs=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_as_by_ollama(bad: float) -> None:
    with pytest.raises(ApiError, match="embedding contains NaN or Inf values") as caught:
        normalized(np.array([1, bad], dtype=np.float32))
    assert caught.value.status == 400  # EmbedHandler: whatever is no StatusError


# ---- texts -----------------------------------------------------------------------------------------------------------


def embed(modern_bundles: Path, url: str, body: dict[str, Any], path: str = "/api/embed") -> Any:
    return bench.ask(bench.config(modern_bundles, url, only=["embed-bot", "think-bot"]), "POST", path, body)


@pytest.mark.parametrize("name", ["embed/one", "embed/many", "embed/dimensions", "embed/long-truncated"])
def test_vectors_of_vllm_are_ollamas(modern_bundles: Path, rows: dict[str, Any], name: str) -> None:
    """Long texts are cut to the same tokens, or their vectors would not be the same."""
    wanted = json.loads(rows[name]["response"]["body"])
    with bench.vllm() as vllm:
        got = embed(modern_bundles, vllm.url, rows[name]["request"]["body"]).json()

    assert list(got) == list(wanted)
    assert got["prompt_eval_count"] == wanted["prompt_eval_count"]
    assert cosines(got["embeddings"], wanted["embeddings"]) == pytest.approx(1, abs=1e-4)


def cosines(one: Any, other: Any) -> Any:
    """Of vectors in pairs; 1 is the same direction. llama.cpp reckons with less than float32."""
    a, b = np.atleast_2d(np.array(one)), np.atleast_2d(np.array(other))
    return np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize("name", ["embed/empty", "embed/empty-list"])
def test_nothing_to_embed(modern_bundles: Path, rows: dict[str, Any], name: str) -> None:
    got = embed(modern_bundles, bench.NOWHERE, rows[name]["request"]["body"])

    assert (got.status_code, got.text) == (200, rows[name]["response"]["body"])


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"truncate": False, "input": "cat " * 600}, 400, "the input length exceeds the context length"),
        ({"options": {"num_ctx": 2}, "input": "cat"}, 400, "input after truncation exceeds maximum context length"),
        ({"options": {"num_ctx": "2"}, "input": "cat"}, 500, 'option "num_ctx" must be of type integer'),
        ({"input": 3}, 400, "invalid input type"),
        ({"input": ["a"] * 8193}, 400, "8193 inputs: send 8192 at most in one request"),
        ({"model": "nope", "input": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ({"model": 'no"pe', "input": "x"}, 404, "model 'no\"pe' not found"),
        ({"model": "", "input": "x"}, 404, "model '' not found"),
        ({"model": "think-bot", "input": "x"}, 501, embedding.UNSUPPORTED),
        ({"model": "think-bot", "input": []}, 200, None),
    ],
)
def test_refusals(modern_bundles: Path, body: dict[str, Any], status: int, error: str | None) -> None:
    got = embed(modern_bundles, bench.NOWHERE, {"model": "embed-bot", **body})

    assert (got.status_code, got.json().get("error")) == (status, error)


def test_the_older_route(modern_bundles: Path, rows: dict[str, Any]) -> None:
    row, old = rows["embeddings/old"], "/api/embeddings"
    with bench.vllm() as vllm:
        got = embed(modern_bundles, vllm.url, row["request"]["body"], old)

    wanted = json.loads(row["response"]["body"])["embedding"]
    assert cosines(got.json()["embedding"], wanted) == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(got.json()["embedding"]) == pytest.approx(np.linalg.norm(wanted), abs=1e-2)
    assert embed(modern_bundles, bench.NOWHERE, {"model": "embed-bot"}, old).text == '{"embedding":[]}'


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"model": "", "prompt": "x"}, 400, "model is required"),
        ({"model": "a/b/c/d", "prompt": "x"}, 400, "model is required"),
        ({"model": "nope", "prompt": "x"}, 404, 'model "nope" not found, try pulling it first'),
        ({"model": "think-bot", "prompt": "x"}, 500, embedding.UNSUPPORTED),
        ({"model": "embed-bot", "prompt": "x", "options": {"stop": 1}}, 500, 'option "stop" must be of type array'),
    ],
)
def test_refusals_of_the_older_route(modern_bundles: Path, body: dict[str, Any], status: int, error: str) -> None:
    got = embed(modern_bundles, bench.NOWHERE, body, "/api/embeddings")

    assert (got.status_code, got.json()["error"]) == (status, error)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"data": [], "usage": {"prompt_tokens": 1}},
        {"data": [{"index": 0, "embedding": "AAA="}], "usage": {"prompt_tokens": 1}},
        {"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": 1}},
        {"data": [{"index": 0, "embedding": "AACAPw=="}], "usage": None},
    ],
)
def test_answers_that_are_not_vllms(modern_bundles: Path, answer: Any) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with serving(Handler) as url:
        found = bench.catalog(modern_bundles, only=["embed-bot"])
        upstreams = Upstreams(bench.config(modern_bundles, url, only=["embed-bot"]))

        async def asked() -> None:
            try:
                await embedding.embed(found.require("embed-bot"), EmbedRequest("embed-bot", ["x"]), upstreams)
            finally:
                await upstreams.close()

        with pytest.raises(UpstreamError, match="an error was encountered while running the model: ") as caught:
            bench.run(asked())
        assert caught.value.status == 500
