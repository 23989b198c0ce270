from __future__ import annotations

import json
from typing import Any

import pytest

from migrate.parity import deviations
from migrate.parity.deviations import DEVIATIONS, for_layer, for_version, settle_order
from migrate.parity.facts import BundleFacts
from migrate.parity.report import LayerName
from tests.conftest import REPO

TOOLS = '{{ range .Tools }}{"type": "function", "function": {{ .Function }}}{{ end }}'
CHAT = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}"


def facts(findings: list[dict[str, Any]] | None = None, **source: Any) -> BundleFacts:
    known = {"name": "bot", "prompt_path": "go_template", "architecture": "llama", "template": CHAT}
    return BundleFacts.model_validate({"source": known | source, "findings": findings or []})


def ids(layer: LayerName, version: str | None, bundle: BundleFacts) -> set[str]:
    told = for_layer(layer, version, bundle)
    return {deviation.id for deviation in DEVIATIONS if deviation.sentence in told}


def test_ids_and_sentences_are_their_own() -> None:
    assert len({d.id for d in DEVIATIONS}) == len({d.sentence for d in DEVIATIONS}) == len(DEVIATIONS)
    for deviation in DEVIATIONS:
        assert deviation.layers, deviation.id
        assert not deviation.sentence.endswith("."), deviation.id
        assert "ollama.md" in deviation.source or "docs/" in deviation.source, deviation.id


@pytest.mark.parametrize(
    ("version", "has", "has_not"),
    [
        ("0.33.0-rc2", {"function-struct", "think-default"}, {"no-think", "repeat-default", "own-template"}),
        ("0.14.0-rc0", {"function-struct", "repeat-default", "own-template"}, {"context-default", "no-logprobs"}),
        ("v0.13.5", {"repeat-default", "think-default"}, {"function-struct", "no-logprobs"}),
        ("0.32.9", {"repeat-default"}, {"own-template"}),
        ("0.32.10-rc0", set(), {"repeat-default"}),
        ("0.12.10", {"no-logprobs"}, {"function-struct"}),
        ("0.8", {"no-think", "no-logprobs"}, {"think-default"}),
    ],
)  # fmt: skip
def test_versions(version: str, has: set[str], has_not: set[str]) -> None:
    found = {deviation.id for deviation in for_version(version)}
    assert has <= found
    assert not has_not & found


@pytest.mark.parametrize("version", [None, "", "main", "?", "0.0.0-dirty?", "v", "99999999999999999999.1"])
def test_a_version_that_cannot_be_read(version: str | None) -> None:
    found = for_version(version)
    assert found
    if version != "0.0.0-dirty?":
        assert found == for_version("0.33.0")


def test_ranges_in_words() -> None:
    words = {deviation.id: deviation.versions for deviation in DEVIATIONS}
    assert words["function-struct"] == "since 0.14.0"
    assert words["repeat-default"] == "before 0.32.10"
    assert words["penalties"] == "all"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (TOOLS + CHAT, True),
        (CHAT + "{{ range .Tools }}{{ .Function.Parameters }}{{ end }}", True),
        (CHAT + "{{ range .Tools }}{{ . }}{{ end }}", False),
        (CHAT + "{{ range .Tools }}{{ json .Function }}{{ end }}", False),
        (CHAT + "{{ range .Tools }}{{ .Function.Name }}{{ end }}", False),
        (CHAT, False),
        ("{{ .Function }}{{ if }}", True),
        ("{{ if }}", False),
    ],
)
def test_a_template_that_prints_the_struct(template: str, told: bool) -> None:
    assert ("function-struct" in ids(LayerName.PROMPT, "0.33.0", facts(template=template))) is told
    assert "function-struct" not in ids(LayerName.PROMPT, "0.13.0", facts(template=template))


@pytest.mark.parametrize("path", ["renderer", "gguf_jinja"])
def test_a_template_that_is_not_live_prints_nothing(path: str) -> None:
    assert "function-struct" not in ids(LayerName.PROMPT, "0.33.0", facts(template=TOOLS + CHAT, prompt_path=path))


def parameters(**values: Any) -> list[dict[str, Any]]:
    return [{"name": name, "value": value, "origin": "Modelfile"} for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"repeat_penalty": 1.1}, True),
        ({"presence_penalty": 0.5}, True),
        ({"frequency_penalty": -1}, True),
        ({"repeat_penalty": 1.1, "repeat_last_n": 0}, False),
        ({"repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0}, False),
        ({}, False),
    ],
)
def test_penalties(values: dict[str, Any], told: bool) -> None:
    bundle = facts(parameters=parameters(**values))
    assert ("penalties" in ids(LayerName.LOGPROBS, "0.33.0", bundle)) is told
    assert ("penalties" in ids(LayerName.TEXT, "0.33.0", bundle)) is told
    assert ("penalties-sampled" in ids(LayerName.SAMPLED, "0.33.0", bundle)) is told
    assert "penalties-ignored" not in ids(LayerName.SAMPLED, "0.23.1", bundle)


def test_an_architecture_of_the_old_engine_had_no_penalties() -> None:
    bundle = facts(architecture="qwen3", parameters=parameters(repeat_penalty=1.1))
    assert "penalties-ignored" in ids(LayerName.SAMPLED, "0.23.1", bundle)
    assert "penalties-ignored" not in ids(LayerName.SAMPLED, "0.30.0", bundle)


def test_a_default_that_nobody_set() -> None:
    theirs = [{"name": "repeat_penalty", "value": 1.1, "origin": "Ollama default (0.32.9)"}]
    assert "repeat-default" in ids(LayerName.TEXT, "0.32.9", facts(parameters=theirs))
    assert "repeat-default" not in ids(LayerName.TEXT, "0.32.9", facts(parameters=parameters(repeat_penalty=1.1)))
    assert "context-default" in ids(LayerName.TEXT, "0.33.0", facts())
    assert "context-default" not in ids(LayerName.TEXT, "0.33.0", facts(parameters=parameters(num_ctx=4096)))
    assert "context-default" not in ids(LayerName.TEXT, "0.15.4", facts())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"temperature": 0.7}, True),
        ({}, True),
        ({"temperature": 1.0}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0.7, "top_k": 0, "top_p": 1.0}, False),
    ],
)
def test_the_order_of_the_sampler(values: dict[str, Any], told: bool) -> None:
    assert ("sampler-order" in ids(LayerName.SAMPLED, "0.33.0", facts(parameters=parameters(**values)))) is told


def test_only_what_concerns_the_model() -> None:
    jinja = "{{ tools }}<think></think>"
    native = facts(prompt_path="gguf_jinja", chat_template=jinja, template=CHAT)
    assert ids(LayerName.PROMPT, "0.33.0", native) == {"think-default", "thinking-history"}
    assert ids(LayerName.PROMPT, "0.29.0", native) == {"think-default", "own-template"}
    assert ids(LayerName.BEHAVIOURS, "0.33.0", native) == {"structured-thinking", "late-calls"}
    assert ids(LayerName.PROMPT, "0.33.0", facts()) == set()
    assert ids(LayerName.BEHAVIOURS, "0.33.0", facts()) == set()
    assert ids(LayerName.PROMPT, "0.33.0", facts(template=CHAT + "{{ currentDate }}")) == {"dates"}
    assert ids(LayerName.BEHAVIOURS, "0.33.0", facts(prompt_path="parser", architecture="gpt-oss")) == {"one-call"}


def test_tool_calls_that_the_bundle_searches_for_itself() -> None:
    template = TOOLS + CHAT
    assert "loose-calls" in ids(LayerName.BEHAVIOURS, "0.33.0", facts(template=template))
    own = facts([{"item": "tools", "target": "tool_parser.py"}], template=template)
    assert "loose-calls" not in ids(LayerName.BEHAVIOURS, "0.33.0", own)


def test_an_embedding_model_has_its_own() -> None:
    bundle = facts(architecture="nomic-bert", template=None)
    assert ids(LayerName.EMBEDDINGS, "0.33.0", bundle) == {"raw-vectors", "cut-texts"}
    for layer in (LayerName.TOKENS, LayerName.LOGPROBS, LayerName.TEXT, LayerName.SAMPLED):
        assert ids(layer, "0.12.0", bundle) == set()


def test_without_a_version_the_bundle_says_which() -> None:
    assert "repeat-default" in ids(LayerName.TEXT, None, facts(ollama_version="0.31.2"))
    assert "repeat-default" not in ids(LayerName.TEXT, "0.33.0", facts(ollama_version="0.31.2"))


def renderer(name: str) -> BundleFacts:
    return facts([{"item": "RENDERER", "source": name}], prompt_path="renderer", template=None)


def test_renderers_are_told_apart() -> None:
    assert ids(LayerName.PROMPT, "0.33.0", renderer("qwen3-coder")) == {"random-keys"}
    assert ids(LayerName.PROMPT, "0.33.0", renderer("nemotron-3-nano")) == {"escaped-arguments"}
    assert ids(LayerName.PROMPT, "0.33.0", renderer("glimmer")) == {"dates"}
    assert ids(LayerName.PROMPT, "0.33.0", renderer("cogito")) == set()


SCHEMA = """You may call:

<tools>
<function>
<name>move</name>
<description>Moves it</description>
<parameters>
<parameter>
<name>where</name>
<type>object</type>
{keys}
</parameter>
<parameter>
<name>fast</name>
<type>boolean</type>
</parameter>
<required>["where"]</required>
</parameters>
</function>
</tools>

Answer."""


def schema(*keys: str) -> str:
    return SCHEMA.replace("{keys}", "\n".join(keys))


def test_keys_in_another_order_are_the_same_prompt() -> None:
    keys = ('<anyOf>[{"type":"string"}]</anyOf>', '<enum>["a"]</enum>', '<properties>{"x":{}}</properties>')
    settled = {settle_order(renderer("qwen3-coder"), schema(*order)) for order in (keys, keys[::-1])}
    assert settled == {schema(*keys)}
    assert settle_order(renderer("cogito"), schema(*keys[::-1])) == schema(*keys[::-1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schema('<enum>["a"]</enum>'), schema('<enum>["b"]</enum>')),
        (schema('<enum>["a"]</enum>', "<items>{}</items>"), schema('<enum>["a"]</enum>')),
        (schema().replace("where</name>", "fast</name>"), schema()),
        (schema().replace("<name>where</name>\n<type>object<", "<type>object</type>\n<name>where<"), schema()),
    ],
    ids=["another value", "a key less", "another name", "type before name"],
)  # fmt: skip
def test_other_differences_stay(one: str, other: str) -> None:
    bundle = renderer("qwen3-coder")
    assert settle_order(bundle, one) != settle_order(bundle, other)


@pytest.mark.parametrize("text", ["", "<tools>", "\n</tools>\n\n<tools>\n", "a\n<tools>\nb", "\n<tools>\n</tools>\n"])
def test_no_block_of_tools(text: str) -> None:
    assert settle_order(renderer("qwen3-coder"), text) == text


def test_recorded_prompts_are_settled_already() -> None:
    """Outside of the keys nothing moves, and our own order is the settled one."""
    lines = (REPO / "fixtures" / "renderers.jsonl").read_text(encoding="utf-8").strip().split("\n")
    prompts = [row["rendered"] for row in map(json.loads, lines) if row["renderer"] == "qwen3-coder"]
    assert sum("<enum>" in prompt for prompt in prompts) > 0
    for prompt in prompts:
        if isinstance(prompt, str):
            settled = settle_order(renderer("qwen3-coder"), prompt)
            assert sorted(settled.split("\n")) == sorted(prompt.split("\n"))
            assert settle_order(renderer("qwen3-coder"), settled) == settled


def test_every_treatment_is_used() -> None:
    assert {d.treatment for d in DEVIATIONS} == {"recognised", "neutralised", "outside", "explains"}
    assert {d.id for d in DEVIATIONS if d.treatment == "recognised"} == {"function-struct", "random-keys"}
    assert {layer for d in deviations.DEVIATIONS for layer in d.layers} <= set(LayerName)
