"""An embedding model that a real Ollama served, against vLLM on the bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from migrate.engines import vllm
from migrate.engines.ollama import OllamaEngine
from migrate.engines.provision import EnginesEnv
from migrate.parity.case import Settings
from migrate.parity.report import Verdict
from migrate.parity.run import Asked, run
from tests.ollama.replay import recordings, replay

pytestmark = [pytest.mark.live, pytest.mark.full]


def _one_by_one(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recorded answer to three texts at once, also as answers to one each: /api/embed embeds them apart."""
    (many,) = [row for row in rows if row["name"] == "embed/many"]
    answer = json.loads(many["response"]["body"])
    return rows + [
        {
            "name": f"embed/{number}",
            "request": many["request"] | {"body": many["request"]["body"] | {"input": text}},
            "response": many["response"] | {"body": json.dumps(answer | {"embeddings": [vector]})},
        }
        for number, (text, vector) in enumerate(
            zip(many["request"]["body"]["input"], answer["embeddings"], strict=True)
        )
    ]


def test_embed_bot(shared: Path, engines: EnginesEnv, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    store = shared / "ollama" / "modern" / "store"
    done = subprocess.run(
        [sys.executable, "-m", "migrate", "convert", "embed-bot", "--models-dir", str(store), "-o", str(bundle)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = _one_by_one(recordings(shared / "ollama" / "modern" / "recordings.jsonl"))
    texts = ("hello", "the capital of Peru", "What is 3+4?")
    settings = Settings(min_compared=3)
    with (
        replay(rows) as url,
        vllm.serve(
            bundle,
            vllm=str(engines.vllm),
            args=vllm.COMPARE_ARGS,
            env=vllm.CPU_ENV,
            log=tmp_path / "vllm.log",
            timeout=300,
        ) as target,
    ):
        source = OllamaEngine(url, model="embed-bot")
        report = run(bundle, source, target, asked=Asked(texts=texts), settings=settings)
        assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
        assert [layer.name.value for layer in report.layers] == ["artefact", "embeddings"]
        assert report.layer("embeddings").metrics["min_cosine"] > 0.9999

        mixed_up = run(bundle, _Shifted(source), target, asked=Asked(texts=texts), settings=settings)
        assert mixed_up.verdict is Verdict.FAIL
        assert "cosine" in mixed_up.reason


class _Shifted(OllamaEngine):
    """Answers with the vector of another text, as a model with other weights would."""

    def __init__(self, engine: OllamaEngine) -> None:
        super().__init__(engine.url, model=engine.model)

    def embed(self, texts: Any) -> tuple[tuple[float, ...], ...]:
        others = {"hello": "What is 3+4?", "the capital of Peru": "hello", "What is 3+4?": "the capital of Peru"}
        return super().embed([others[text] for text in texts])
