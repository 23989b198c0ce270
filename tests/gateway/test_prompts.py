"""Prompts of all four paths beside what the real Ollama rendered, and the BOS that the model reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from migrate.gateway.catalog import Catalog
from migrate.gateway.prompts import Prompts
from migrate.gateway.types import ApiError, Message
from tests.gateway import bench
from tests.ollama.replay import recordings

BOS = "<|begin_of_text|>"


def rows(shared: Path, *, modern: bool) -> list[dict[str, Any]]:
    path = shared / "ollama" / ("modern/recordings.jsonl" if modern else "recordings.jsonl")
    found = [row for row in recordings(path) if row["name"].startswith("render/")]
    return [row for row in found if row["request"]["body"]["model"] != "oss-bot"]


@pytest.mark.parametrize(("modern", "rendered", "refused"), [(False, 89, 30), (True, 54, 9)])
def test_prompts_and_refusals_are_ollamas(
    bundles: Path, modern_bundles: Path, shared: Path, modern: bool, rendered: int, refused: int
) -> None:
    """By the route itself, so that SYSTEM, MESSAGE and `think` take part. `tools: go` is Ollama 0.33's own form."""
    configuration = bench.config(modern_bundles if modern else bundles, tools="go")
    count = {200: 0, 400: 0}

    async def all_of_them() -> None:
        async with bench.gateway(configuration) as client:
            for row in rows(shared, modern=modern):
                wanted = row["response"]
                got = await client.post("/api/chat", json=row["request"]["body"])
                assert (got.status_code, got.headers["content-type"]) == (wanted["status"], wanted["content_type"])
                mine, theirs = got.json(), json.loads(wanted["body"])
                assert mine | {"created_at": ""} == theirs | ({"created_at": ""}), row["name"]
                assert list(mine) == list(theirs)
                count[got.status_code] += 1

    bench.run(all_of_them())

    assert count == {200: rendered, 400: refused}


# ---- BOS -------------------------------------------------------------------------------------------------------------


def prompts(bos: str = BOS, **source: Any) -> Prompts:
    return Prompts(bench.source(**source), bos=bos)


@pytest.mark.parametrize(
    ("adds_bos", "bos", "prompt", "own", "read"),
    [
        (True, BOS, "hi", True, BOS + "hi"),
        (True, BOS, BOS + "hi", True, BOS + BOS + "hi"),  # a TEMPLATE that prints BOS: llama.cpp adds another
        (True, BOS, BOS + "hi", False, BOS + BOS + "hi"),
        (True, BOS, "<bos>hi", True, BOS + "hi"),  # literally <bos>: completionPrompt cuts it off
        (True, "<bos>", "<bos>hi", False, "<bos>hi"),
        (True, "<bos>", "<bos><bos>hi", True, "<bos><bos>hi"),
        (False, BOS, "hi", True, "hi"),
        (False, BOS, "<bos>hi", True, "<bos>hi"),
        (True, "", "hi", True, "hi"),  # a tokenizer without one
    ],
)
def test_bos_of_a_template(adds_bos: bool, bos: str, prompt: str, own: bool, read: str) -> None:
    assert prompts(bos, adds_bos=adds_bos).with_bos(prompt, own=own) == read


def test_bos_that_a_template_of_the_gguf_prints_is_taken_off_again() -> None:
    found = prompts(adds_bos=True, prompt_path="gguf_jinja", chat_template="{{ bos_token }}{{ messages[0].content }}")
    printed = found.render([{"role": "user", "content": "hi"}], (), None)

    assert printed == BOS + "hi"
    assert found.with_bos(printed) == BOS + "hi"
    assert found.with_bos(printed, own=False) == BOS + BOS + "hi"  # `raw`


def test_prompt_counts_are_the_recorded_ones(catalog: Catalog, shared: Path) -> None:
    """Tokens of the prompt, BOS included, of every recorded chat and generate that was not cut."""
    checked = 0
    for row in recordings(shared / "ollama" / "recordings.jsonl"):
        body = row["request"]["body"]
        if not row["name"].startswith(("chat/", "chat-defaults/", "generate/")):
            continue
        model = catalog.require(body["model"])
        messages: list[Message] = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
        prompt = model.prompts.render(model.prompts.messages(messages), (), None)
        ids = model.tokens.encode(model.prompts.with_bos(prompt))
        assert len(ids) == json.loads(row["response"]["body"])["prompt_eval_count"], row["name"]
        checked += 1

    assert checked == 70


# ---- SYSTEM, MESSAGE, templates of requests --------------------------------------------------------------------------

USER: Message = {"role": "user", "content": "hi"}


def test_system_and_messages_of_the_model() -> None:
    found = prompts(system="Be brief.", messages=[{"role": "user", "content": "a"}])
    own = {"role": "system", "content": "Mine."}

    assert [m["content"] for m in found.messages([USER])] == ["Be brief.", "a", "hi"]
    assert [m["content"] for m in found.messages([own, USER])] == ["a", "Mine.", "hi"]
    assert [m["content"] for m in found.messages([USER], system="Other.")] == ["Other.", "a", "hi"]
    assert [m["content"] for m in found.messages([USER], system="")] == ["Be brief.", "a", "hi"]
    assert [m["content"] for m in found.messages([USER], with_model=False)] == ["Be brief.", "hi"]


@pytest.mark.parametrize(("name", "architecture"), [("deepseek-r1:7b", "qwen2"), ("mine", "qwen3")])
def test_reasoning_of_earlier_answers_is_cut_where_ollama_cuts_it(name: str, architecture: str) -> None:
    earlier: list[Message] = [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}, USER]

    assert prompts(name=name, architecture=architecture).messages(earlier)[1]["content"] == "yes"
    assert prompts(name="other", architecture="llama").messages(earlier)[1]["content"].startswith("<think>")


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ .Prompt }}", "hi"),
        ("{{ .System }}|{{ .Prompt }}|{{ .Response }}", "S|hi|"),
        ("{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}", "[system]S[user]hi"),
        ("{{ if .IsThinkSet }}{{ .Think }} {{ .ThinkLevel }}{{ end }}", "true high"),
    ],
)
def test_a_template_of_the_request(template: str, prompt: str) -> None:
    messages: list[Message] = [{"role": "system", "content": "S"}, USER]
    think = "high" if "Think" in template else None
    assert prompts().render_template(template, messages, think) == prompt


@pytest.mark.parametrize(
    "template", ["{{ .Prompt", "{{ nosuch }}", "{{ end }}", "{{ .Prompt.Nope }}", "{{ index .Messages 9 }}"]
)
def test_a_template_of_the_request_that_is_wrong_is_500_as_in_ollama(template: str) -> None:
    with pytest.raises(ApiError) as caught:
        prompts().render_template(template, [USER], None)
    assert caught.value.status == 500
    assert caught.value.message


def test_suffix_is_the_templates_own_or_the_requests() -> None:
    found = prompts(template="<P>{{ .Prompt }}<S>{{ .Suffix }}<M>")

    assert found.render_suffix("", "a", "b", None) == "<P>a<S>b<M>"
    assert found.render_suffix("{{ .Suffix }}{{ .Prompt }}", "a", "b", None) == "ba"


def test_a_template_that_raises_is_an_error_of_its_own() -> None:
    found = prompts(prompt_path="gguf_jinja", chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ApiError, match="roles must alternate") as caught:
        found.render([USER], (), None)
    assert caught.value.status == 500
