"""Gateways over real vLLM, each started once per session: models of the two stores that a real Ollama wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from migrate.bundle import write
from migrate.bundle.variants import weights_ids, write_set
from migrate.engines import vllm
from migrate.engines.provision import EnginesEnv
from migrate.mapping.groups import group
from migrate.mapping.migration import plan
from migrate.mapping.variants import plan_set
from migrate.ollama import reference
from migrate.ollama.store import Store
from tests.live.gateway import Running, gateway

CALLS_WITH_A_TAG = "{{- else if .ToolCalls }}<tool_call>\n{{ range .ToolCalls }}"
CALLS_WITHOUT = "{{- else if .ToolCalls }}{{ range .ToolCalls }}"

Upstream = tuple[str, Path]
"""vLLM's address, and the bundle it serves."""


def _model(bundle: Path) -> Mapping[str, Any]:
    return {"bundle": bundle, "upstream": "vllm"}


@pytest.fixture(scope="session")
def vllm_support(
    shared: Path, engines: EnginesEnv, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Upstream]:
    """support-bot, and a variant of it on the same weights, `tool-bot`.

    The small model writes tool calls without the tag that support-bot's TEMPLATE asks for, so that a real Ollama takes
    them for text (recording chat-tools). tool-bot's TEMPLATE shows calls without a tag: there they are read as calls.
    """
    root, store = tmp_path_factory.mktemp("gateway-support"), shared / "ollama/store"
    support = Store(store).load("support-bot")
    assert support.template is not None
    assert CALLS_WITH_A_TAG in support.template
    modelfile = root / "tool-bot" / "Modelfile"
    modelfile.parent.mkdir()
    template = support.template.replace(CALLS_WITH_A_TAG, CALLS_WITHOUT).replace(
        "</tool_call>\n{{- end }}", "{{- end }}"
    )
    modelfile.write_text(f'FROM support-bot\nTEMPLATE """{template}"""\n')
    models = [support, reference.load(str(modelfile), models_dir=store)]
    (found,) = group([plan(model) for model in models], weights_ids(models))
    bundle = root / "bundle"
    write_set(plan_set(found.migrations), bundle)
    with vllm.serve(
        bundle,
        vllm=str(engines.vllm),
        args=vllm.COMPARE_ARGS,
        env=vllm.CPU_ENV,
        log=logs / "gateway-support-vllm.log",
        timeout=300,
    ) as server:
        yield server.url, bundle


@pytest.fixture(scope="session")
def gateway_support(vllm_support: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """support-bot and tool-bot. Tools are printed as Ollama 0.33 prints them, as in the recordings."""
    url, bundle = vllm_support
    with gateway(tmp_path_factory.mktemp("gateway"), {"vllm": url}, [_model(bundle)], tools="go") as running:
        yield running


@pytest.fixture(scope="session")
def gateway_passing(vllm_support: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same models; routes under /v1 are vLLM's own."""
    url, bundle = vllm_support
    with gateway(tmp_path_factory.mktemp("passing"), {"vllm": url}, [_model(bundle)], openai="vllm") as running:
        yield running


@pytest.fixture(scope="session")
def gateway_embed(
    shared: Path, engines: EnginesEnv, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """embed-bot, a BERT model of the second store."""
    root = tmp_path_factory.mktemp("gateway-embed")
    bundle = root / "bundle"
    write.write(plan(Store(shared / "ollama/modern/store").load("embed-bot")), bundle)
    with (
        vllm.serve(
            bundle,
            vllm=str(engines.vllm),
            args=vllm.COMPARE_ARGS,
            env=vllm.CPU_ENV,
            log=logs / "gateway-embed-vllm.log",
            timeout=300,
        ) as server,
        gateway(root, {"vllm": server.url}, [_model(bundle)]) as running,
    ):
        yield running
