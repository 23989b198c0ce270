"""Ollama's penalties inside vLLM: what a real Ollama answered with them, and llama.cpp on many settings."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import httpx
import pytest

from migrate import resources
from migrate.bundle import format as bundle_format
from migrate.bundle import write
from migrate.engines import llamacpp, vllm
from migrate.engines.provision import EnginesEnv
from migrate.gateway.prompts import Prompts
from migrate.gateway.tokens import read_tokens
from migrate.mapping.migration import plan
from migrate.ollama.store import Store
from tests.ollama.replay import recordings

pytestmark = [pytest.mark.live, pytest.mark.full]

SUPPORT_BOT = pytest.mark.parametrize("served", ["support-bot"], indirect=True)
NATIVE_BOT = pytest.mark.parametrize("served", ["native-bot"], indirect=True)
"""Its blob is in 16 bits: llama.cpp computes with a quantised one in less than vLLM, which has it in 32."""

PENALTIES = {"repeat_penalty": 1.1, "repeat_last_n": 64}
"""Those of support-bot."""
STOPS = ["<|im_start|>", "<|im_end|>", "User:"]
NEAR = 0.05
"""Nats, after the penalties, between two tokens that count as equally likely."""
RECORDED = ("generate/support-bot", "generate-system", "chat-stream/support-bot", "generate-stream", "chat-stop-option")
WORDS = "the fox dog cat story about a sun what is capital of Peru France tell me 3+4 hello shop order horse red"


@dataclass(frozen=True)
class Served:
    name: str
    client: httpx.Client
    prompts: Prompts
    source: llamacpp.LlamaCppEngine
    ends: tuple[int, ...]

    def prompt(self, body: dict[str, Any]) -> str:
        """Of a request to /api/chat or /api/generate."""
        asked = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
        messages = self.prompts.messages(asked, system=body.get("system"))
        return self.prompts.with_bos(self.prompts.render(messages, [], None))

    def complete(self, prompt: str | Sequence[int], penalties: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.name, "prompt": prompt, "temperature": 0, "max_tokens": 64, "stop": STOPS}
        body |= {"add_special_tokens": False, "logprobs": 2, "return_token_ids": True, **fields}
        body["vllm_xargs"] = penalties or {"repeat_last_n": 0}  # said, or the bundle's middleware fills in the model's
        answer: dict[str, Any] = self.client.post("/v1/completions", json=body).raise_for_status().json()
        choice: dict[str, Any] = answer["choices"][0]
        return choice


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    shared: Path,
    engines: EnginesEnv,
    logs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A model of the store in vLLM with the plugin, and in llama.cpp."""
    name: str = request.param
    model = Store(shared / "ollama/store").load(name)
    bundle = tmp_path_factory.mktemp(name) / "bundle"
    write.write(plan(model), bundle)
    (bundle / "ollama_penalties.py").write_text(resources.text("bundle/ollama_penalties.py"))
    manifest = bundle_format.read(bundle)
    tokens = read_tokens(bundle / manifest.model_dir)
    prompts = Prompts(manifest.source, bos=tokens.bos, eos=tokens.eos)
    assert model.gguf_path is not None
    plugin = ["--logits-processors", "ollama_penalties:OllamaPenalties", "--logprobs-mode", "processed_logprobs"]
    with (
        llamacpp.serve(
            model.gguf_path, python=str(engines.python), log=logs / f"penalties-{name}-llamacpp.log"
        ) as source,
        vllm.serve(
            bundle,
            vllm=str(engines.vllm),
            args=[*vllm.COMPARE_ARGS, *plugin],
            env=vllm.CPU_ENV,
            log=logs / f"penalties-{name}-vllm.log",
        ) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        yield Served(name, client, prompts, source, tuple(manifest.target.eos_token_id))


def recorded(shared: Path, name: str) -> tuple[dict[str, Any], str]:
    """The request's body, and the whole text of the answer."""
    (row,) = (row for row in recordings(shared / "ollama/recordings.jsonl") if row["name"] == name)
    parts = [json.loads(line) for line in row["response"]["body"].splitlines()]
    said = [part.get("response") or (part.get("message") or {}).get("content", "") for part in parts]
    return row["request"]["body"], "".join(said)


def gap(choice: dict[str, Any], position: int) -> float:
    """Nats, after the penalties, between the two first choices at a position of the answer."""
    best, second = sorted(choice["logprobs"]["top_logprobs"][position].values(), reverse=True)[:2]
    return float(best - second)


@SUPPORT_BOT
@pytest.mark.parametrize("name", RECORDED)
def test_what_ollama_answered(served: Served, shared: Path, name: str) -> None:
    """Word for word; or parting at a near tie, and with Ollama's word put in the same from there on."""
    body, wanted = recorded(shared, name)
    prompt, stop = served.prompt(body), body["options"].get("stop", STOPS)
    choice = served.complete(prompt, PENALTIES, stop=stop)
    if choice["text"] != wanted:
        written = ["", *accumulate(choice["logprobs"]["tokens"])]
        parting = next(i for i, text in enumerate(written) if not wanted.startswith(text))
        assert gap(choice, parting - 1) < NEAR, (choice["text"], wanted)
        end = wanted.index(" ", len(written[parting - 1]) + 1)
        rest = served.complete(prompt + wanted[:end], PENALTIES, stop=stop)
        assert rest["text"] == wanted[end:]


@SUPPORT_BOT
def test_the_penalty_is_what_makes_it_so(served: Served, shared: Path) -> None:
    body, wanted = recorded(shared, "generate/support-bot")
    assert served.complete(served.prompt(body), PENALTIES)["text"] == wanted
    assert served.complete(served.prompt(body), None)["text"] != wanted


def conversation(rng: random.Random) -> str:
    text = ""
    for role in ["user", "assistant"] * rng.randrange(3) + ["user"]:
        text += f"<|im_start|>{role}\n{' '.join(rng.choices(WORDS.split(), k=rng.randrange(3, 40)))}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def drawn(rng: random.Random) -> dict[str, Any]:
    return {
        "repeat_penalty": rng.choice([1.05, 1.1, 1.2, 1.3, 1.5]),
        "repeat_last_n": rng.choice([16, 64, -1]),
        "presence_penalty": rng.choice([0, 0.5, -0.5, 1.5]),
        "frequency_penalty": rng.choice([0, 0.3, 1.0]),
    }


@NATIVE_BOT
def test_what_llama_cpp_answers(served: Served) -> None:
    rng, parted = random.Random(11), 0
    never = {str(end): -100 for end in served.ends}
    with httpx.Client(base_url=served.source.url, timeout=120) as client:
        for _ in range(24):
            ids, penalties = list(served.source.tokenize(conversation(rng))), drawn(rng)
            ours = served.complete(
                ids, penalties, stop=[], max_tokens=48, logit_bias=never, return_tokens_as_token_ids=True
            )
            body = penalties | {"prompt": ids, "n_predict": 48, "temperature": 0, "cache_prompt": False}
            body |= {"return_tokens": True, "dry_multiplier": 0, "logit_bias": [[end, False] for end in served.ends]}
            # llama.cpp's server of today no longer takes -1; those that do make it the context
            body |= {"repeat_last_n": 4096} if penalties["repeat_last_n"] < 0 else {}
            theirs = client.post("/completion", json=body).raise_for_status().json()["tokens"]
            pairs = enumerate(zip(ours["token_ids"], theirs, strict=True))
            if (first := next((i for i, (a, b) in pairs if a != b), None)) is not None:
                parted += 1
                assert f"token_id:{theirs[first]}" in ours["logprobs"]["top_logprobs"][first], (penalties, first)
                assert gap(ours, first) < NEAR, (penalties, first)
    assert parted < 4


@SUPPORT_BOT
def test_requests_beside_each_other(served: Served) -> None:
    """Eight at a time, with and without penalties and of unequal length, are answered as alone."""
    rng = random.Random(3)
    asked = [(conversation(rng), rng.choice([None, drawn(rng)]), rng.choice([5, 20, 48])) for _ in range(24)]

    def ask(question: tuple[str, dict[str, Any] | None, int]) -> list[int]:
        prompt, penalties, count = question
        ids: list[int] = served.complete(prompt, penalties, stop=[], ignore_eos=True, max_tokens=count)["token_ids"]
        return ids

    alone = [ask(question) for question in asked]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, asked)) == alone


@SUPPORT_BOT
@pytest.mark.parametrize("penalties", [{"repeat_penalty": 0}, {"repeat_penalty": "high"}, {"repeat_last_n": -2}])
def test_a_bad_value_is_refused(served: Served, penalties: dict[str, Any]) -> None:
    body = {"model": served.name, "prompt": "1", "max_tokens": 1}
    refused = served.client.post("/v1/completions", json=body | {"vllm_xargs": penalties})
    assert refused.status_code == 400
    assert f"vllm_xargs.{next(iter(penalties))} must be" in refused.json()["error"]["message"]
    assert served.client.post("/v1/completions", json=body).status_code == 200
