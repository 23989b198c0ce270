"""Parity against real servers: a right bundle passes, and each kind of damage fails at the layer that can see it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from migrate.chat_template import translate
from migrate.engines import llamacpp, vllm
from migrate.engines.base import Conversation
from migrate.engines.ollama import OllamaEngine
from migrate.engines.provision import EnginesEnv
from migrate.errors import EngineDied
from migrate.parity.report import LayerName, Verdict
from migrate.parity.run import run
from tests.engines.recorded import recorded_answers, recorded_conversations
from tests.live.conftest import CHAT_TEMPLATE, read_tensors, write_bundle

pytestmark = pytest.mark.live

PROMPT, TOKENS, LOGPROBS, TEXT = LayerName.PROMPT, LayerName.TOKENS, LayerName.LOGPROBS, LayerName.TEXT
QUESTION = Conversation("x", ({"role": "user", "content": "What is 3+4?"},))


def test_the_right_bundle_passes_against_llama_cpp(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    report = run(tinychat_bundle, llamacpp_f16, vllm_tinychat)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    names = ["artefact", "prompt", "tokens", "noise", "logprobs", "text", "behaviours"]
    assert [layer.name.value for layer in report.layers] == names
    assert [layer.agreed for layer in report.layers] == [2, 12, 12, 8, 12, 12, 12]
    assert report.layer("behaviours").differences == []
    numbers = report.layer(LOGPROBS).metrics
    assert numbers["mean_kl"] < 1e-5
    assert numbers["max_delta"] < 0.01
    assert report.source.startswith("llama.cpp at http://127.0.0.1")
    assert report.target.startswith("vLLM 0.32.0 at http://127.0.0.1")


def test_the_right_bundle_passes_against_a_recorded_ollama(
    tinychat_bundle: Path, ollama_url: str, vllm_tinychat: vllm.VllmEngine, shared: Path
) -> None:
    source = OllamaEngine(ollama_url, model="native-bot")
    prompts = recorded_conversations(shared, "render/native-bot/")
    report = run(tinychat_bundle, source, vllm_tinychat, layers=[PROMPT], battery=prompts)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    assert (report.layer(PROMPT).agreed, len(report.layer(PROMPT).notes)) == (10, 4), "Ollama refuses four with tools"

    chats = recorded_conversations(shared, "chat/native-bot/")
    report = run(tinychat_bundle, source, vllm_tinychat, layers=[TOKENS, LOGPROBS, TEXT], battery=chats)
    assert report.verdict is Verdict.PASS, report.model_dump_json(indent=1)
    assert [layer.agreed for layer in report.layers] == [8, 8, 8]
    assert report.layer(LOGPROBS).metrics["mean_kl"] < 1e-5


def test_vllm_gives_the_recorded_answers(shared: Path, vllm_tinychat: vllm.VllmEngine) -> None:
    answers = recorded_answers(shared, "chat/native-bot/")
    for conversation in recorded_conversations(shared, "chat/native-bot/"):
        said = vllm_tinychat.generate(conversation, max_tokens=48, top_logprobs=20)
        recorded = answers[conversation.name]
        assert (said.text, said.finish_reason) == (recorded["message"]["content"], recorded["done_reason"])
        ours = [token.logprob for token in said.tokens[: len(recorded["logprobs"])]]
        assert ours == pytest.approx([entry["logprob"] for entry in recorded["logprobs"]], abs=1e-3)


@pytest.mark.parametrize(
    ("damage", "layer", "reason"),
    [
        (lambda t: t.replace("('<|im_end|>", "('<|eot_id|>"), PROMPT, "became 'eot_id"),
        (lambda t: t.replace("<|im_end|>\\n<|im_start|>assistant\\n", "<|im_end|>\\n<|im_start|>assistant"), PROMPT,
         r"the target's prompt ends where the source has '\\n'"),
        (lambda t: t.replace("'\\n\\n'", "'\\n'"), PROMPT, "became"),
        (lambda t: t.replace("message.role + '\\n' + message.content", "message.role + '\\n' + message.content | trim"),
         PROMPT, "became"),
        (lambda t: t.replace("<|im_start|>assistant", "<|im_start|>model"), PROMPT, "'assistant.*' became 'model"),
        (lambda t: t.replace("{{- bos_token -}}", ""), TOKENS, r"lacks the first token <\|begin_of_text\|> \(BOS\)"),
        (lambda t: t.replace("{{- bos_token -}}", "{{- bos_token + bos_token -}}"), PROMPT, "became"),
    ],
    ids=["turn token", "lost newline", "merge separator", "trimmed content", "role", "no BOS", "BOS twice"],
)  # fmt: skip
def test_damaged_templates(
    damage: Callable[[str], str],
    layer: LayerName,
    reason: str,
    tinychat_bundle: Path,
    llamacpp_f16: llamacpp.LlamaCppEngine,
    render_tinychat: vllm.RenderEngine,
) -> None:
    damaged = damage(CHAT_TEMPLATE)
    assert damaged != CHAT_TEMPLATE
    target = vllm.RenderEngine(render_tinychat.url, extra={"chat_template": damaged})
    report = run(tinychat_bundle, llamacpp_f16, target, layers=[PROMPT, TOKENS])
    assert report.verdict is Verdict.FAIL
    failed = next(r for r in report.layers if r.status == "fail")
    assert failed.name == layer
    assert re.search(reason, failed.summary), failed.summary


def test_a_lost_bos_against_a_recorded_ollama(
    tinychat_bundle: Path, ollama_url: str, render_tinychat: vllm.RenderEngine, shared: Path
) -> None:
    source = OllamaEngine(ollama_url, model="native-bot")
    chats = recorded_conversations(shared, "chat/native-bot/")
    good = run(tinychat_bundle, source, render_tinychat, layers=[TOKENS], battery=chats)
    assert good.verdict is Verdict.PASS
    damaged = {"chat_template": CHAT_TEMPLATE.replace("{{- bos_token -}}", "")}
    target = vllm.RenderEngine(render_tinychat.url, extra=damaged)
    bad = run(tinychat_bundle, source, target, layers=[TOKENS], battery=chats)
    assert "20 tokens became 19, as when BOS is lost" in bad.layer(TOKENS).summary


@pytest.mark.parametrize(
    ("bot", "agreed", "struct"),
    [("support-bot", 10, 4), ("child-bot", 10, 4), ("legacy-bot", 10, 0), ("q4-bot", 10, 0), ("adapter-bot", 10, 0)],
)
def test_translated_templates_against_a_recorded_ollama(
    bot: str,
    agreed: int,
    struct: int,
    ollama_url: str,
    render_tinychat: vllm.RenderEngine,
    shared: Path,
    tmp_path: Path,
) -> None:
    """Ollama's prompts are vLLM's, but for tools that Ollama prints as a Go struct: noted, and not a failure.

    14 conversations were recorded of each; 4 have tools, which Ollama refuses for templates without them.
    """
    shown = recorded_answers(shared, f"show/{bot}")[""]
    parts = {"template": shown["template"], "system": shown.get("system"), "messages": shown.get("messages") or []}
    bundle = write_bundle(tmp_path / "bundle", shared / "models" / "tinychat" / "hf", name=bot, **parts)
    extra = {"chat_template": translate(**parts, bos=True).jinja}
    report = run(
        bundle,
        OllamaEngine(ollama_url, model=bot),
        vllm.RenderEngine(render_tinychat.url, extra=extra),
        layers=[PROMPT],
        battery=recorded_conversations(shared, f"render/{bot}/"),
    )
    layer = report.layer(PROMPT)
    assert (layer.agreed, sum("Go struct" in note for note in layer.notes)) == (agreed, struct)
    assert report.verdict is Verdict.PASS


def test_the_render_server_shows_the_defaults_of_the_bundle(render_tinychat: vllm.RenderEngine) -> None:
    assert render_tinychat.sampling_params(QUESTION)["temperature"] == 1.0


def test_an_end_of_sequence_that_vllm_does_not_know(
    tinychat_bundle: Path, ollama_url: str, vllm_tinychat: vllm.VllmEngine, shared: Path
) -> None:
    """`ignore_eos` makes the running server behave as one whose eos_token_id lacks the token."""
    deaf = vllm.VllmEngine(vllm_tinychat.url, extra={"ignore_eos": True})
    source = OllamaEngine(ollama_url, model="native-bot")
    chats = recorded_conversations(shared, "chat/native-bot/")
    report = run(tinychat_bundle, source, deaf, layers=[LOGPROBS, TEXT], battery=chats)
    assert [layer.status for layer in report.layers] == ["pass", "pass", "fail"]
    assert "generates <|im_end|> (733) and goes on: it is missing from eos_token_id" in report.layer(TEXT).summary


def test_a_prompt_that_is_too_long_for_the_target(
    tinychat_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, vllm_tinychat: vllm.VllmEngine
) -> None:
    """Clients see it: Ollama would have cut the conversation, vLLM answers 400. Documented, so it is told and counted,
    and does not keep the rest of the traffic from being compared."""
    long = Conversation("long", ({"role": "user", "content": "cat " * 4000},))
    report = run(tinychat_bundle, llamacpp_f16, vllm_tinychat, battery=[QUESTION, long], layers=[PROMPT])
    layer = report.layer(PROMPT)
    assert (layer.status, layer.compared) == ("pass", 1)
    assert layer.deviations[0].startswith("1 of 2 conversations are longer than the context")
    alone = run(tinychat_bundle, llamacpp_f16, vllm_tinychat, battery=[long], layers=[PROMPT])
    assert alone.verdict is Verdict.INCONCLUSIVE


# ---- checkpoints of their own ---------------------------------------------------------------------------------------


def _permuted(weight: Any, heads: int) -> Any:
    """Rows in the order llama.cpp keeps them in a GGUF of the llama family."""
    rows = weight.shape[0] // heads // 2
    return np.ascontiguousarray(weight.reshape(heads, 2, rows, -1).swapaxes(1, 2).reshape(weight.shape))


@pytest.fixture(scope="module")
def permuted_bundle(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a converter that forgot to undo llama.cpp's order of the q and k rows."""
    checkpoint = shared / "models" / "tinychat" / "hf"
    bundle = write_bundle(tmp_path_factory.mktemp("permuted") / "bundle", checkpoint)
    tensors = read_tensors(checkpoint)
    for name in tensors:
        if found := re.search(r"\.(q|k)_proj\.", name):
            tensors[name] = _permuted(tensors[name], {"q": 4, "k": 2}[found[1]])
    save_file(tensors, bundle / "model" / "model.safetensors", metadata={"format": "pt"})
    return bundle


@pytest.fixture(scope="module")
def permuted_vllm(permuted_bundle: Path, engines: EnginesEnv, logs: Path) -> Iterator[vllm.VllmEngine]:
    """vLLM start 2 of the fast suite's budget of eight; the test that uses it kills it."""
    with vllm.serve(
        permuted_bundle / "model",
        vllm=str(engines.vllm),
        args=vllm.COMPARE_ARGS,
        env=vllm.CPU_ENV,
        log=logs / "vllm-permuted.log",
        timeout=300,
    ) as engine:
        yield engine


def test_permuted_weights_and_a_server_that_dies(
    permuted_bundle: Path, llamacpp_f16: llamacpp.LlamaCppEngine, permuted_vllm: vllm.VllmEngine
) -> None:
    layers = [PROMPT, TOKENS, LOGPROBS, TEXT]
    report = run(permuted_bundle, llamacpp_f16, permuted_vllm, layers=layers)
    assert [layer.status for layer in report.layers] == ["pass", "pass", "fail", "skipped"]
    numbers = report.layer(LOGPROBS).metrics
    assert numbers["mean_kl"] > 0.5
    assert numbers["top1_agreement"] < 0.8

    process = permuted_vllm._client.process
    assert process is not None
    process.stop(grace=5)
    with pytest.raises(EngineDied, match="vllm serve"):
        permuted_vllm.generate(QUESTION, max_tokens=1)
    report = run(permuted_bundle, llamacpp_f16, permuted_vllm, layers=layers)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.reason.startswith("prompt: vllm serve ")


@pytest.mark.full
def test_a_bundle_with_the_wrong_eos(
    shared: Path, tmp_path: Path, llamacpp_f16: llamacpp.LlamaCppEngine, engines: EnginesEnv
) -> None:
    bundle = write_bundle(tmp_path / "bundle", shared / "models" / "tinychat" / "hf")
    for name in ("config.json", "generation_config.json"):
        path = bundle / "model" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 731}))
    path = bundle / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<|end_of_text|>"}))
    with vllm.serve(
        bundle / "model",
        vllm=str(engines.vllm),
        args=vllm.COMPARE_ARGS,
        env=vllm.CPU_ENV,
        log=tmp_path / "vllm.log",
        timeout=300,
    ) as target:
        report = run(bundle, llamacpp_f16, target, layers=[PROMPT, TOKENS, LOGPROBS, TEXT])
    assert [layer.status for layer in report.layers] == ["pass", "pass", "pass", "fail"]
    assert "<|im_end|> (733) and goes on" in report.layer(TEXT).summary


@pytest.mark.full
def test_a_checkpoint_that_vllm_cannot_load(engines: EnginesEnv, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    with (
        pytest.raises(EngineDied, match=r"vllm serve exited with status 1: .*no-such-family") as caught,
        vllm.serve(tmp_path, vllm=str(engines.vllm), env=vllm.CPU_ENV, log=tmp_path / "log", timeout=120),
    ):
        pass
    assert str(tmp_path / "log") in str(caught.value.hint)


def test_a_gguf_that_llama_cpp_cannot_load(engines: EnginesEnv, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with (
        pytest.raises(EngineDied, match=r"llama\.cpp "),
        llamacpp.serve(tmp_path / "x.gguf", python=str(engines.python), log=tmp_path / "log", timeout=60),
    ):
        pass
