"""Which models one vLLM can serve, and why others need their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from migrate import resources
from migrate.bundle.variants import weights_ids
from migrate.mapping.groups import apart, at_port, differences, group
from migrate.mapping.migration import Choices, Migration, plan
from migrate.ollama.model import OllamaModel
from migrate.ollama.reference import load
from migrate.ollama.store import Store

DEMO = Store(resources.directory("demo-store"))


def grouped(models: list[OllamaModel]) -> list[tuple[list[str], str]]:
    planned = [plan(model) for model in models]
    return [([m.model.name for m in g.migrations], g.apart) for g in group(planned, weights_ids(models))]


def test_by_weights(shared: Path) -> None:
    store = Store(shared / "ollama/store")
    assert grouped([store.load(name) for name in store.list()]) == [
        (["native-bot:latest", "adapter-bot:latest"], ""),  # the one without an adapter goes first
        (["child-bot:latest", "support-bot:latest"], ""),
        (["legacy-bot:latest", "renderer-bot:latest"], ""),
        (["q4-bot:latest"], ""),
    ]


def test_a_file_has_the_identity_of_the_blob_it_is(tmp_path: Path) -> None:
    """By its path, or by its content where another model's weights have the same size."""
    support, q4 = DEMO.load("support-bot"), DEMO.load("q4-bot")
    assert support.gguf_path is not None
    copy, link = tmp_path / "copy.gguf", tmp_path / "link.gguf"
    copy.write_bytes(support.gguf_path.read_bytes())
    link.symlink_to(support.gguf_path)
    ids = weights_ids([support, load(str(copy)), load(str(link)), q4])
    assert ids[0] == ids[1] == ids[2] == support.digests["model"]
    assert ids[3] == q4.digests["model"]
    assert weights_ids([load(str(copy))]) == [str(copy.resolve())]


OTHER_TAG = (
    'TEMPLATE """{{ if .Tools }}{{ .Tools }}{{ end }}{{ range .Messages }}{{ .Content }}'
    '{{ if .ToolCalls }}CALL{{ range .ToolCalls }} {{ .Function.Name }}{{ end }}{{ end }}{{ end }}"""'
)
THINKS = """TEMPLATE {{ range .Messages }}{{ .Content }}\
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}\
{{ if .IsThinkSet }}{{ if .Think }}<think>{{ end }}{{ end }}
"""


def child(directory: Path, name: str, body: str, **choices: Any) -> Migration:
    path = directory / f"{name}.Modelfile"
    path.write_text(f"FROM support-bot\n{body}\n")
    return plan(load(str(path), models_dir=DEMO.path), Choices(**choices))


@pytest.mark.parametrize(
    ("body", "choices", "reason"),
    [
        ("SYSTEM Rhyme.\nPARAMETER num_ctx 8\nPARAMETER temperature 2", {}, ""),
        ("TEMPLATE {{ .Prompt }}", {}, ""),  # knows no tools: nothing has to be parsed
        ("", {"tool_call_parser": "llama3_json"}, "one tool-call-parser: hermes there, llama3_json here"),
        (OTHER_TAG, {}, "one tool-call-parser: hermes there, ollama here; --tool-call-parser ollama suits both"),
        ("", {"dtype": "float32"}, "one dtype"),
        (THINKS, {}, "default-chat-template-kwargs"),
    ],
)
def test_what_a_server_has_once(tmp_path: Path, body: str, choices: dict[str, Any], reason: str) -> None:
    first, second = plan(DEMO.load("support-bot")), child(tmp_path, "second", body, **choices)
    assert not second.refused, second.refused
    found = apart(first, second)
    assert reason in found
    assert bool(found) == bool(reason)


def test_with_the_plugin_tags_may_differ(tmp_path: Path) -> None:
    first = plan(DEMO.load("support-bot"), Choices(tool_call_parser="ollama"))
    second = child(tmp_path, "second", OTHER_TAG)
    assert apart(first, second) == ""
    assert (first.tool_tag, second.tool_tag) == ("<tool_call>", "CALL")


def test_a_group_is_told_why_it_is_one(tmp_path: Path) -> None:
    support = plan(DEMO.load("support-bot"))
    others = [child(tmp_path, name, "", dtype="float32") for name in ("b", "c")]
    groups = group([support, others[0], plan(DEMO.load("child-bot")), others[1]], ["x"] * 4)
    assert [[m.model.name for m in g.migrations] for g in groups] == [
        ["support-bot:latest", "child-bot:latest"],
        ["b", "c"],
    ]
    assert [g.apart for g in groups] == [
        "",
        "cannot share a server with support-bot:latest: a server has one dtype: bfloat16 there, float32 here",
    ]


def test_a_refused_model_stands_alone() -> None:
    good, bad = plan(DEMO.load("support-bot")), plan(DEMO.load("child-bot"))
    bad.ledger.add("TEMPLATE", type(next(iter(bad.ledger)).status).REFUSED, "", "", "no")
    assert [len(g.migrations) for g in group([good, bad], ["x", "x"])] == [1, 1]


def test_differences(tmp_path: Path) -> None:
    first = plan(DEMO.load("support-bot"))
    assert differences([first, plan(DEMO.load("child-bot"))]) == ["SYSTEM", "PARAMETER temperature", "PARAMETER stop"]
    assert differences([first]) == []
    assert differences([first, child(tmp_path, "c", "MESSAGE user hi")]) == ["MESSAGE"]


def test_another_port_is_all_that_changes() -> None:
    planned = plan(DEMO.load("support-bot"))
    assert at_port(planned, 8001) == replace(
        plan(DEMO.load("support-bot"), Choices(port=8001)), model=at_port(planned, 8001).model
    )
