"""The recorded requests of a real Ollama, asked of the gateway over real vLLM on the same models.

Equal are status, content type, keys and types of the JSON, done_reason, token counts with BOS, and for greedy requests
the text, word for word. What is not equal stands in DIFFERENT with its reason; a difference that is gone fails, too.
docs/gateway.md lists the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate.engines import vllm
from migrate.engines.provision import EnginesEnv
from tests.gateway.comparing import Answer, differences, is_greedy
from tests.live.gateway import Running, gateway
from tests.ollama.replay import recordings

pytestmark = pytest.mark.live

TEXT = {"text", "context", "logprobs", "prompt_eval_count", "eval_count"}
TIE = "a near tie: ' orange' and ' black' lie 0.0008 apart (chat/support-bot/5 shows both logarithms)"
DIFFERENT: Mapping[str, tuple[set[str], str]] = {
    "ps": ({"first keys", "last keys"}, "recorded before a model was loaded: vLLM has its models loaded always"),
    "show-verbose/support-bot": (
        {"first keys", "last keys"},
        "tokenizer.ggml.token_type: the bundle's tokenizer.json does not tell all of llama.cpp's kinds of tokens",
    ),
    "chat-stream/support-bot": ({"text"}, TIE),
    "generate-stream": ({"text", "context"}, TIE),
    "chat-stop-option": ({"text"}, TIE),
    "chat/gemma-bot": (
        {"first keys", "last keys", "done_reason", "text", *TEXT},
        "random weights: Ollama's stream ended without a last message",
    ),
    "generate/gemma-bot": (
        {"first keys", "last keys", "done_reason", "text", *TEXT},
        "random weights: Ollama's stream ended without a last message",
    ),
}
NEAR_TIE = 0.05
"""Two tokens whose logarithms of probability are this close may change places between two engines."""


@dataclass(frozen=True)
class Served:
    """A bundle behind a gateway, and the recorded requests for its models."""

    running: Running
    rows: list[dict[str, Any]]
    parameters: Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="session")
def bundles(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model of both recorded stores, those on the same weights in one bundle."""
    root = tmp_path_factory.mktemp("bundles")
    for name, store in (("store", "ollama/store"), ("modern", "ollama/modern/store")):
        (root / name).mkdir()
        command = [sys.executable, "-m", "migrate", "convert", "--all", "--models-dir", str(shared / store)]
        done = subprocess.run([*command, "-o", str(root / name), "--dtype", "float32"], capture_output=True, text=True)
        assert done.returncode in (0, 3), done.stderr
    return root


@pytest.fixture(
    scope="module",
    params=[
        "store/support-bot",
        "store/legacy-bot",
        "store/native-bot",
        "store/q4-bot",
        "modern/think-bot",
        "modern/embed-bot",
        pytest.param("modern/gemma-bot", marks=pytest.mark.full),
    ],
)
def served(
    request: pytest.FixtureRequest,
    bundles: Path,
    shared: Path,
    engines: EnginesEnv,
    logs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    bundle = bundles / request.param
    folder, _, name = request.param.partition("/")
    rows = recordings(shared / "ollama" / ("modern" if folder == "modern" else "") / "recordings.jsonl")
    manifest = json.loads((bundle / "migration.json").read_text())
    sources = [v["source"] for v in manifest["variants"]] or [manifest["source"]]
    names = {str(source["name"]).removesuffix(":latest") for source in sources}
    parameters = {
        str(s["name"]).removesuffix(":latest"): {p["name"]: p["value"] for p in s["parameters"]} for s in sources
    }
    with (
        vllm.serve(
            bundle, vllm=str(engines.vllm), args=vllm.COMPARE_ARGS, env=vllm.CPU_ENV, log=logs / f"gateway-{name}.log"
        ) as engine,
        gateway(
            tmp_path_factory.mktemp("gateway"),
            {"vllm": engine.url},
            [{"bundle": bundle, "upstream": "vllm"}],
            tools="go",
            ollama_version="0.33.0-rc2",
        ) as running,
    ):
        yield Served(running, [row for row in rows if _concerns(row, names)], parameters)


def _concerns(row: Mapping[str, Any], names: set[str]) -> bool:
    body = row["request"].get("body")
    model = body.get("model") if isinstance(body, dict) else None
    if model is None or model == "nope":
        return "support-bot" in names and not _lists_models(row)
    return str(model).removesuffix(":latest") in names


def _lists_models(row: Mapping[str, Any]) -> bool:
    """Requests that are about all models of the store at a time."""
    return str(row["name"]) in ("tags", "v1-models", "ps-after")


def test_recorded_answers(served: Served) -> None:
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    compared = greedy_texts = 0
    with httpx.Client(base_url=served.running.url, timeout=120) as client:
        for row in served.rows:
            recorded, got = _both(client, row)
            body = row["request"].get("body")
            model = str(body.get("model", "")).removesuffix(":latest") if isinstance(body, dict) else ""
            greedy = is_greedy(row["request"], served.parameters.get(model, {}))
            here = differences(recorded, got, greedy=greedy)
            compared += 1
            greedy_texts += bool(greedy and recorded.content())
            if set(here) <= TEXT and "text" in here and (tie := near_tie(recorded, got)) is not None:
                print(f"{row['name']}: {tie}")
                continue
            if here:
                found[row["name"]] = here
    print(f"{compared} requests compared, {greedy_texts} greedy texts")
    unexpected = {name: here for name, here in found.items() if not set(here) <= DIFFERENT.get(name, (set(), ""))[0]}
    assert not unexpected, json.dumps(unexpected, indent=1)[:4000]
    gone = [row["name"] for row in served.rows if row["name"] in DIFFERENT and row["name"] not in found]
    assert not gone, f"equal now: take them out of DIFFERENT and docs/gateway.md: {gone}"
    assert compared > 5


def _both(client: httpx.Client, row: Mapping[str, Any]) -> tuple[Answer, Answer]:
    request, response = row["request"], row["response"]
    body = request.get("body")
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode() if body is not None else None
    headers = {"content-type": "application/json"}
    answer = client.request(request["method"], request["path"], content=content, headers=headers)
    return (
        Answer.of(response["status"], response["content_type"], response["body"]),
        Answer.of(answer.status_code, answer.headers.get("content-type", ""), answer.text),
    )


def near_tie(recorded: Answer, got: Answer) -> str | None:
    """Where two greedy answers part, if the two tokens were as good as equal for Ollama itself; None if not."""
    ours, theirs = recorded.find("logprobs"), got.find("logprobs")
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return None
    for one, other in zip(ours, theirs, strict=False):
        if one["token"] == other["token"]:
            continue
        known = {top["token"]: top["logprob"] for top in one.get("top_logprobs", [])}
        if other["token"] in known and one["logprob"] - known[other["token"]] < NEAR_TIE:
            gap = one["logprob"] - known[other["token"]]
            return f"a near tie: {one['token']!r} and {other['token']!r} lie {gap:.4f} apart"
        return None
    return None
