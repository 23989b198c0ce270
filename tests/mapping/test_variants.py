"""Several models on one server: what it is started with, and what each name's requests get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from migrate import resources
from migrate.errors import UsageError
from migrate.findings import Status
from migrate.mapping.groups import group
from migrate.mapping.migration import Choices, Migration, plan
from migrate.mapping.parameters import PENALTIES
from migrate.mapping.variants import Variant, VariantSet, plan_set
from migrate.ollama.reference import load
from migrate.ollama.store import Store

DEMO = Store(resources.directory("demo-store"))


def child(directory: Path, name: str, body: str, base: str = "support-bot", **choices: Any) -> Migration:
    path = directory / f"{name}.Modelfile"
    path.write_text(f"FROM {base}\n{body}\n")
    return plan(load(str(path), models_dir=DEMO.path), Choices(**choices))


def support(**choices: Any) -> Migration:
    return plan(DEMO.load("support-bot"), Choices(**choices))


PENALISED = {**PENALTIES, "repeat_penalty": 1.1}


def arguments(planned: VariantSet) -> dict[str, Any]:
    return {a.name: a.value for a in planned.server.arguments}


def own(planned: VariantSet, name: str) -> dict[str, Any]:
    """Its request defaults, without the template's name."""
    return {k: v for k, v in variant(planned, name).defaults.items() if k != "chat_template_kwargs"}


def variant(planned: VariantSet, name: str) -> Variant:
    return next(v for v in planned.variants if v.name == name)


@pytest.mark.parametrize(
    ("body", "defaults"),
    [
        ("", {"stop": ["User:"], "seed": 42}),
        ("PARAMETER temperature 0.7", {"stop": ["User:"], "seed": 42, "temperature": 0.7}),
        ("PARAMETER min_p 0\nPARAMETER top_k 0", {"stop": ["User:"], "seed": 42, "min_p": 0.0, "top_k": 0}),
        ("PARAMETER top_p 1.5", {"stop": ["User:"], "seed": 42, "top_p": 1.0}),
        (
            "PARAMETER presence_penalty 0.5",
            {"stop": ["User:"], "seed": 42, "vllm_xargs": PENALISED | {"presence_penalty": 0.5}},
        ),
        ("PARAMETER repeat_penalty 1", {"stop": ["User:"], "seed": 42}),
        ("PARAMETER seed -1", {"stop": ["User:"]}),
        ('PARAMETER stop "."', {"stop": ["."], "seed": 42}),
        ('PARAMETER stop "<|im_end|>"', {"seed": 42}),
        ("PARAMETER num_predict 5", {"stop": ["User:"], "seed": 42, "max_tokens": 5}),
        ("PARAMETER num_predict -1", {"stop": ["User:"], "seed": 42}),
    ],
)
def test_parameters_of_another_model(tmp_path: Path, body: str, defaults: dict[str, Any]) -> None:
    """Whatever the server's file says, each model's requests end up with its own values."""
    first, second = support(), child(tmp_path, "second", body)
    planned = plan_set([first, second])
    penalised = {} if body == "PARAMETER repeat_penalty 1" else {"vllm_xargs": PENALISED}
    assert own(planned, "second") == penalised | defaults
    shared = planned.server.generation
    assert shared is not None
    for each in planned.variants:
        alone = each.migration.generation
        assert alone is not None
        for key in ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty"):
            assert each.defaults.get(key, getattr(shared, key)) == getattr(alone, key)
        assert each.defaults.get("max_tokens", shared.max_new_tokens) == alone.max_new_tokens
        assert {*shared.eos_token_id, *each.stop_token_ids} == set(alone.eos_token_id)
        assert each.defaults.get("stop_token_ids", []) == list(each.stop_token_ids)


def test_end_tokens_that_not_all_have_are_by_name() -> None:
    """support-bot stops on <|im_start|> (732), child-bot replaced the list."""
    planned = plan_set([support(), plan(DEMO.load("child-bot"))])
    assert planned.server.generation is not None
    assert 732 not in planned.server.generation.eos_token_id
    assert [v.stop_token_ids for v in planned.variants] == [(732,), ()]
    stops = [f.target for f in variant(planned, "support-bot").findings if f.item == "PARAMETER stop"]
    assert "request default stop_token_ids 732 (middleware)" in stops


def test_the_longest_context_holds_and_the_others_are_told(tmp_path: Path) -> None:
    planned = plan_set([child(tmp_path, "small", "PARAMETER num_ctx 100"), support()])
    assert (planned.server.max_model_len, arguments(planned)["max-model-len"]) == (1024, 1024)
    found = [f for f in variant(planned, "small").findings if f.item == "context"]
    assert [(f.status, f.source, f.target) for f in found] == [(Status.APPROXIMATE, "100", "max-model-len 1024")]
    assert not [f for f in variant(planned, "support-bot").findings if f.item == "context"]


def test_findings_say_where_a_value_is(tmp_path: Path) -> None:
    planned = plan_set([support(), child(tmp_path, "second", "PARAMETER temperature 0.7\nPARAMETER num_predict 5")])
    targets = {f.item: f.target for f in variant(planned, "second").findings}
    assert targets["PARAMETER temperature"] == "request default temperature 0.7 (middleware)"
    assert targets["PARAMETER num_predict"] == "request default max_tokens 5 (middleware)"
    assert targets["PARAMETER top_k"] == "generation_config.json top_k 20"


def test_what_anthropics_api_cannot_say_is_told(tmp_path: Path) -> None:
    planned = plan_set([support(), child(tmp_path, "second", "PARAMETER min_p 0.3"), child(tmp_path, "third", "")])
    told = {v.name: [f.source for f in v.findings if f.item == "/v1/messages"] for v in planned.variants}
    assert told == {"support-bot": [], "second": ["min_p"], "third": []}


def test_equal_templates_need_no_name(tmp_path: Path) -> None:
    planned = plan_set([support(), child(tmp_path, "second", "PARAMETER temperature 0.7")])
    assert planned.server.chat_template == support().chat_template
    assert all("chat_template_kwargs" not in v.defaults for v in planned.variants)


def test_names_of_all(tmp_path: Path) -> None:
    planned = plan_set([support(), child(tmp_path, "second", "SYSTEM Rhyme.")])
    names = ["support-bot", "support-bot:latest", "second", "second:latest"]
    assert arguments(planned)["served-model-name"] == names
    defaults = planned.server.request_defaults
    assert (defaults["default"], list(defaults["variants"]), defaults["without_tools"]) == ("support-bot", names, [])
    assert [v.chat_template for v in planned.variants] == [
        "variants/support-bot/chat_template.jinja",
        "variants/second/chat_template.jinja",
    ]


def test_the_same_name_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="support-bot"):
        plan_set([support(), child(tmp_path, "support-bot", "")])


def test_one_that_knows_no_tools(tmp_path: Path) -> None:
    """The parser comes from whoever has one, wherever it stands."""
    plain = child(tmp_path, "plain", "TEMPLATE {{ .Prompt }}")
    planned = plan_set([plain, support()])
    assert arguments(planned)["tool-call-parser"] == "hermes"
    assert planned.server.request_defaults["without_tools"] == ["plain", "plain:latest"]


def test_tags_by_name(tmp_path: Path) -> None:
    body = 'TEMPLATE """{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .Content }}'
    body += '{{ if .ToolCalls }}CALL{{ range .ToolCalls }} {{ .Function.Name }}{{ end }}{{ end }}{{ end }}"""'
    planned = plan_set([support(tool_call_parser="ollama"), child(tmp_path, "second", body)])
    assert planned.tool_tags["support-bot:latest"] == "<tool_call>"
    assert planned.tool_tags["second"] == "CALL"
    assert (
        plan_set(
            [support(tool_call_parser="ollama"), plan(DEMO.load("child-bot"), Choices(tool_call_parser="ollama"))]
        ).tool_tags
        == {}
    )


def test_adapters_are_names_on_the_same_weights(shared: Path) -> None:
    store = Store(shared / "ollama/store")
    (found,) = group([plan(store.load(name)) for name in ("adapter-bot", "native-bot")], ["w", "w"])
    planned = plan_set(found.migrations)
    said = arguments(planned)
    assert said["served-model-name"] == ["native-bot", "native-bot:latest"]
    assert said["lora-modules"] == [
        "adapter-bot=adapters/adapter-bot",
        "adapter-bot:latest=adapters/adapter-bot",
    ]
    assert (said["enable-lora"], said["max-loras"], said["max-lora-rank"]) == (True, 1, 8)
    assert planned.server.request_defaults["default"] == "native-bot"
    (finding,) = [f for f in variant(planned, "adapter-bot").findings if f.item == "ADAPTER"]
    assert "adapters/adapter-bot (PEFT)" in finding.target
    assert "-base" not in finding.reason


def test_only_adapters(shared: Path, tmp_path: Path) -> None:
    """Then the weights alone have a name that no model has; the same adapter is there once."""
    store = Store(shared / "ollama/store")
    path = tmp_path / "other.Modelfile"
    path.write_text("FROM adapter-bot\nSYSTEM Rhyme.\n")
    models = [store.load("adapter-bot"), load(str(path), models_dir=store.path)]
    planned = plan_set([plan(model) for model in models])
    said, defaults = arguments(planned), planned.server.request_defaults
    assert said["served-model-name"] == ["adapter-bot-base"]
    assert len(said["lora-modules"]) == 4
    assert said["max-loras"] == 1
    assert {v.directory for v in planned.variants} == {"adapters/adapter-bot"}
    assert defaults["variants"]["adapter-bot-base"] == defaults["variants"]["adapter-bot"]


def test_more_stop_strings_than_vllm_takes_by_itself(tmp_path: Path) -> None:
    stops = "\n".join(f'PARAMETER stop "s{i}"' for i in range(20))
    planned = plan_set([support(), child(tmp_path, "second", stops)])
    assert planned.server.environment["VLLM_MAX_STOP_STRINGS"] == "20"


def test_embedding_models_share_their_weights(shared: Path, tmp_path: Path) -> None:
    store = Store(shared / "ollama/modern/store")
    path = tmp_path / "short.Modelfile"
    path.write_text("FROM embed-bot\nPARAMETER num_ctx 64\n")
    planned = plan_set([plan(store.load("embed-bot")), plan(load(str(path), models_dir=store.path))])
    said = arguments(planned)
    assert said["served-model-name"] == ["embed-bot", "embed-bot:latest", "short", "short:latest"]
    assert (said["runner"], said["max-model-len"]) == ("pooling", 512)
    assert "middleware" not in said
    assert planned.server.request_defaults == {}


def test_gpt_oss_cannot_have_prompts_by_name(shared: Path, tmp_path: Path) -> None:
    """vLLM makes them itself: that two names get the same is said, not claimed otherwise."""
    store = Store(shared / "ollama/modern/store")
    path = tmp_path / "other.Modelfile"
    path.write_text("FROM oss-bot\nSYSTEM Rhyme.\n")
    planned = plan_set([plan(store.load("oss-bot")), plan(load(str(path), models_dir=store.path))])
    told = [(f.status, f.target) for f in variant(planned, "other").findings if f.item == "name"]
    assert told == [(Status.APPROXIMATE, "parameters alone")]
