"""Real servers, each started once per session. The first use makes their environment (migrate.engines.provision)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrate.engines import llamacpp, vllm
from migrate.engines.provision import EnginesEnv, ensure
from tests.engines.recorded import recorded_ollama
from tests.live.gateway_fixtures import gateway_embed, gateway_passing, gateway_support, vllm_support

__all__ = ["gateway_embed", "gateway_passing", "gateway_support", "vllm_support"]

GO_TEMPLATE = (
    "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
"""What Ollama detected for native-bot (its TEMPLATE in /api/show)."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(role='') -%}
{%- for message in messages -%}
{%- if message.role == ns.role -%}
{{- '\\n\\n' + message.content -}}
{%- else -%}
{{- ('<|im_end|>\\n' if ns.role else '') + '<|im_start|>' + message.role + '\\n' + message.content -}}
{%- endif -%}
{%- set ns.role = message.role -%}
{%- endfor -%}
{{- '<|im_end|>\\n<|im_start|>assistant\\n' -}}
"""
"""The same for vLLM: neighbours of one role are one message, as Ollama has it."""


def write_bundle(root: Path, checkpoint: Path, **source: Any) -> Path:
    """What parity reads of a bundle, around a copy of a tinychat checkpoint."""
    shutil.copytree(checkpoint, root / "model")
    (root / "model" / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    facts: dict[str, Any] = {
        "name": "native-bot",
        "prompt_path": "go_template",
        "architecture": "llama",
        "template": GO_TEMPLATE,
        "parameters": [{"name": "stop", "value": ["<|im_start|>", "<|im_end|>"], "origin": "autodetected template"}],
        "adds_bos": True,
    }
    (root / "migration.json").write_text(json.dumps({"source": facts | source}))
    (root / "request_defaults.json").write_text('{"stop": ["<|im_start|>"]}')
    return root


def read_tensors(checkpoint: Path) -> dict[str, Any]:
    """name -> float32 array of a checkpoint in bfloat16, which numpy does not know."""
    data = (checkpoint / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors: dict[str, Any] = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            raw = np.frombuffer(data[8 + size + start : 8 + size + end], dtype=np.uint16)
            tensors[name] = (raw.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"]).copy()
    return tensors


@pytest.fixture(scope="session")
def engines() -> EnginesEnv:
    return ensure()


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def tinychat_bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A right bundle: the checkpoint that the GGUFs were made from."""
    return write_bundle(tmp_path_factory.mktemp("right") / "bundle", shared / "models" / "tinychat" / "hf")


@pytest.fixture(scope="session")
def ollama_url(shared: Path) -> Iterator[str]:
    """Address of the recorded Ollama."""
    with recorded_ollama(shared) as url:
        yield url


@pytest.fixture(scope="session")
def llamacpp_f16(shared: Path, engines: EnginesEnv, logs: Path) -> Iterator[llamacpp.LlamaCppEngine]:
    gguf = shared / "models" / "tinychat" / "gguf" / "tinychat-f16.gguf"
    with llamacpp.serve(gguf, python=str(engines.python), log=logs / "llamacpp.log", context=2048) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_tinychat(tinychat_bundle: Path, engines: EnginesEnv, logs: Path) -> Iterator[vllm.VllmEngine]:
    """vLLM start 1 of the fast suite's budget of eight."""
    with vllm.serve(
        tinychat_bundle / "model",
        vllm=str(engines.vllm),
        args=vllm.COMPARE_ARGS,
        env=vllm.CPU_ENV,
        log=logs / "vllm-tinychat.log",
        timeout=300,
    ) as engine:
        yield engine


@pytest.fixture(scope="session")
def render_tinychat(tinychat_bundle: Path, engines: EnginesEnv, logs: Path) -> Iterator[vllm.RenderEngine]:
    """A render server that takes templates from requests, so that one start serves for every broken template."""
    with vllm.launch_render(
        tinychat_bundle / "model",
        vllm=str(engines.vllm),
        args=["--trust-request-chat-template"],
        env=vllm.CPU_ENV,
        log=logs / "render.log",
    ) as engine:
        yield engine
